"""Reports what a configuration needs, before the hardware for it is rented.

    python -m rvae_jax.preflight --config=configs/celeba.py:paper --config.batch_size=128 --topology=v5e:4x4

With ``--topology`` the training step is compiled for a TPU slice, or for GPUs such as ``h200:8``, which this machine
need not have. Without, it is compiled for the local devices and run for a few steps. No data is needed.
"""

from __future__ import annotations

import sys

from rvae_jax import command_line
from rvae_jax.errors import needs

with needs("train", command=True):
    from absl import flags

CONFIG = command_line.define_config()
TOPOLOGY = flags.DEFINE_string(
    "topology", None, "TPU slice (v5e:4x4) or GPUs (h200, h200:8) to compile for; default: the local devices."
)
TIME_LIMIT_S = flags.DEFINE_integer("time_limit_s", 1200, "Seconds that one compilation may take.", lower_bound=1)


def main(_: list[str]) -> None:
    """Compiles and reports; exits with 1 on bad input."""
    from rvae_jax.planning.preflight import preflight  # after --help

    with command_line.exit_on_user_error():
        try:
            print(preflight(CONFIG.value, TOPOLOGY.value, TIME_LIMIT_S.value))
        except KeyboardInterrupt:
            sys.exit(130)


if __name__ == "__main__":
    command_line.run(main, CONFIG, required=["config"])
