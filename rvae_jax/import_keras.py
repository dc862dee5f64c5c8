"""Imports weights of the author's program as a new run.

    python -m rvae_jax.import_keras --weights=author.weights.h5 --config=configs/celeba_hq.py --workdir=runs/author

The networks are those of the file, as its shapes tell them; the rest is the configuration's. The run is at step 0, with
new optimizers; ``rvae_jax.main`` with the same configuration, and the flags that are printed, continues it.
"""

from __future__ import annotations

from rvae_jax import command_line
from rvae_jax.errors import needs

with needs("interop", command=True):
    from absl import flags
    from etils import epath

CONFIG = command_line.define_config()
WORKDIR = command_line.define_workdir()
WEIGHTS = flags.DEFINE_string("weights", None, "The author's *.weights.h5.")


def main(_: list[str]) -> None:
    """Imports; exits with 1 on bad input."""
    with command_line.exit_on_user_error():
        from rvae_jax.formats.author_run import import_keras  # after --help

        print(import_keras(epath.Path(WEIGHTS.value).expanduser(), CONFIG.value, WORKDIR.value))


if __name__ == "__main__":
    command_line.run(main, CONFIG, required=["weights", "config", "workdir"])
