"""Builds a configuration's networks, compiles its training step and takes one, on random images.

    python benchmarks/one_step.py --config=configs/celeba_hq.py --config.batch_size=2

Prints parameters, FLOPs, the seconds that compiling and the step took, and the process's peak memory. It needs no data.
"""

import resource
import time

import jax
import numpy as np
from absl import app, flags
from clu import parameter_overview

from rvae_jax import config as config_lib
from rvae_jax import hlo
from rvae_jax.main import CONFIG, parse_flags
from rvae_jax.program import batch_shape, make_program


def main(_: list[str]) -> None:
    """Runs the benchmark."""
    config = CONFIG.value
    config_lib.validate(config, device_count=1)
    program = make_program(config)
    key = jax.random.key(config.seed)

    began = time.monotonic()
    state = jax.block_until_ready(jax.jit(program.create_state)(key))
    players = {"vae": state.vae, "discriminator": state.discriminator}
    for name, player in players.items():
        if player is not None:
            print(f"{name}: {parameter_overview.count_parameters(player.variables):,} parameters, with statistics")
    print(f"initialised in {time.monotonic() - began:.1f} s")

    images = np.random.default_rng(0).integers(0, 256, batch_shape(config).shape, np.uint8)
    began = time.monotonic()
    compiled = jax.jit(program.train_step, donate_argnums=0).lower(state, images, key).compile()
    print(f"compiled in {time.monotonic() - began:.1f} s")
    cost = hlo.cost(compiled, loop_steps=config.accumulate_steps)
    print(f"{cost.flops / config.batch_size / 1e9:.1f} GFLOP an image, temporary memory {cost.temporary / 1e9:.2f} GB")

    began = time.monotonic()
    state, metrics = jax.block_until_ready(compiled(state, images, key))
    print(
        f"one step of {config.batch_size} in {time.monotonic() - began:.1f} s, loss {float(metrics['loss/total']):.1f}"
    )
    # Kibibytes on Linux.
    print(f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9:.2f} GB")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main, flags_parser=parse_flags)
