"""What splitting a training step over devices costs: time, and bytes between devices.

    python benchmarks/scaling.py --config=configs/orl.py:tiny

Measures 1, 2, 4 and 8 devices (virtual ones on a CPU, which share its cores), with a constant batch (strong scaling)
and a batch that grows with the devices (weak scaling), in both styles of `sharding.DataParallel`. The cost of the
exchange is the difference to the same step without it, in which each device trains a wrong model by itself.

    python benchmarks/scaling.py --config=configs/celeba_hq.py --config.model.dtype=bfloat16 --predict

instead prints what the exchange costs at most on hardware with published figures: the FLOPs of each device, and the
float32 gradients in a ring over its links, with no part of the exchange hidden behind the work.

Bytes are those of the all-reduces in the compiled program. The least possible is one of the gradients and two of
[latent_dim], for the mean and variance of the population.
"""

import dataclasses
import time
from typing import Any

import jax
import numpy as np
from absl import flags

from rvae_jax import command_line
from rvae_jax import config as config_lib
from rvae_jax.config import Config
from rvae_jax.distributed import sharding
from rvae_jax.hardware import accelerators, cost, speed
from rvae_jax.training.program import Program, batch_shape, make_program
from rvae_jax.training.state import TrainState

CONFIG = command_line.define_config()
PER_DEVICE = flags.DEFINE_integer("per_device", 8, "Images per device in weak scaling.")
TOTAL = flags.DEFINE_integer("total", 64, "Images per batch in strong scaling.")
PREDICT = flags.DEFINE_bool("predict", False, "Predict efficiencies instead of measuring.")
ROUNDS = flags.DEFINE_integer("rounds", 15, "Rounds of one step of each variant.")


@dataclasses.dataclass
class Variant:
    """A compiled step with its arguments."""

    compiled: Any
    state: Any
    batch: jax.Array
    key: jax.Array
    seconds: list[float] = dataclasses.field(default_factory=list)

    def step(self) -> None:
        """Takes a step, and records its time."""
        began = time.monotonic()
        self.state, metrics = jax.block_until_ready(self.compiled(self.state, self.batch, self.key))
        del metrics
        self.seconds.append(time.monotonic() - began)


def make_variant(program: Program, layout: sharding.DataParallel, state: TrainState, images: np.ndarray) -> Variant:
    """Compiles a step for a layout; ``state`` is on the host."""
    state = jax.tree.map(lambda leaf, to: jax.device_put(leaf, to.sharding), state, layout.with_shardings(state))
    key = jax.device_put(jax.random.key(0), layout.replicated)
    (batch,) = layout.to_devices([images])
    lowered = layout.lower(program.train_step, state, batch, key)
    return Variant(lowered.compile(compiler_options=layout.compiler_options), state, batch, key)


def main(_: list[str]) -> None:
    """Runs the benchmark."""
    if PREDICT.value:
        predict(CONFIG.value)
        return
    if jax.config.jax_platforms == "cpu" or not any(each.platform != "cpu" for each in jax.devices()):
        print("virtual CPU devices share the same cores: compare the exchange, not the speed")
    first_state = jax.device_get(jax.jit(make_program(CONFIG.value).create_state)(jax.random.key(0)))
    for name, total in (("strong", TOTAL.value), ("weak", None)):
        print(f"\n{name} scaling")
        print("| devices | batch | style | ms per step | exchange | all-reduces | bytes | least |")
        print("|---|---|---|---|---|---|---|---|")
        for count in (1, 2, 4, 8):
            if count <= jax.device_count():
                config = dataclasses.replace(CONFIG.value, batch_size=total or PER_DEVICE.value * count)
                config_lib.validate(config, count)
                measure(config, first_state, count)


def measure(config: Config, first_state: TrainState, count: int) -> None:
    """Prints the rows for one number of devices."""
    images = np.random.default_rng(0).integers(0, 256, (config.batch_size, *config.model.image_shape), np.uint8)
    devices = jax.devices()[:count]
    layouts = {style: sharding.data_parallel(style, devices=devices) for style in ("jit", "pmap")}
    variants = {
        style: make_variant(make_program(config, layout.axis_name), layout, first_state, images)
        for style, layout in layouts.items()
    }
    alone = make_variant(make_program(config), layouts["pmap"], first_state, images)
    for _ in range(ROUNDS.value + 2):  # interleaved, so that noise affects all alike
        for variant in (*variants.values(), alone):
            variant.step()
    weights = [player.params for player in (first_state.vae, first_state.discriminator) if player is not None]
    least = sum(leaf.nbytes for leaf in jax.tree.leaves(weights)) + 2 * 4 * config.model.latent_dim
    for style, variant in variants.items():
        reduced = cost.collectives(variant.compiled.as_text()) if count > 1 else []
        ours, theirs = (float(np.median(each.seconds[2:])) for each in (variant, alone))
        print(
            f"| {count} | {config.batch_size} | {style} | {ours * 1e3:.1f} | {max(0.0, 1 - theirs / ours):.0%} |"
            f" {len(reduced)} | {sum(each.bytes for each in reduced):,} | {least if count > 1 else 0:,} |",
            flush=True,
        )


def predict(config: Config) -> None:
    """Prints efficiencies from FLOPs, bytes and published figures."""
    config = dataclasses.replace(config, batch_size=8, accumulate_steps=1)
    program = make_program(config)
    shapes = program.state_shapes()
    lowered = jax.jit(program.train_step).lower(shapes, batch_shape(config), jax.random.key(0))
    flops = lowered.cost_analysis()["flops"] / config.batch_size
    weights = [player.params for player in (shapes.vae, shapes.discriminator) if player is not None]
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(weights))
    print(f"{flops / 1e9:.0f} GFLOP per image, {size / 1e6:.1f} MB of gradients, {config.model.dtype}\n")
    print("| devices | images per device | work, ms | exchange, ms | efficiency, work at peak speed | at half of it |")
    print("|---|---|---|---|---|---|")
    for name, counts in (("h100", (8,)), ("v5e", (16, 64, 256)), ("v6e", (16, 64, 256))):
        chip = accelerators.ACCELERATORS[name]
        for count in counts:
            for images in (8, 32):
                work = speed.Work(images, flops * images, 0.0, size)
                peak = chip.flops[config.model.dtype]
                exchange = speed.all_reduce_seconds(size, count, chip.link)
                shares = [
                    speed.efficiency(work, count, flops=each, bandwidth=chip.bandwidth, link=chip.link)
                    for each in (peak, peak / 2)
                ]
                print(
                    f"| {count} {chip.name} | {images} | {work.flops / peak * 1e3:.1f} | {exchange * 1e3:.2f} |"
                    f" {shares[0]:.1%} | {shares[1]:.1%} |"
                )


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    command_line.run(main, CONFIG, required=["config"])
