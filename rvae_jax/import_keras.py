"""Makes a work directory of a network that the author's program trained.

    python -m rvae_jax.import_keras --weights=author.weights.h5 --config=configs/celeba_hq.py --workdir=runs/author

It is at step 0, with fresh optimizers: ``rvae_jax.main`` with the same configuration trains it on.
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
    """Imports, and turns the outcome into an exit status: 0 done, 1 bad input."""
    with command_line.exit_on_user_error():
        from rvae_jax.formats.author_run import import_keras  # after --help

        print(import_keras(epath.Path(WEIGHTS.value).expanduser(), CONFIG.value, WORKDIR.value))


if __name__ == "__main__":
    command_line.run(main, CONFIG, required=["weights", "config", "workdir"])
