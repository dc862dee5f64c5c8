"""The largest batch of the paper's network that each device has room for, by the compiled step; none need be here.

    python benchmarks/largest_batch.py --topology=h200

At 64, 128, 256 and 512 pixels, in bfloat16, with as many stages of 128 filters as leave 4x4 pixels, without and with
rematerialisation of the two stages of largest activations. What is printed was compiled, not only computed from other
batches, three or four times for each line; each takes one to three minutes on two cores, and is kept in
~/.cache/rvae_jax.
"""

import math
import sys
from importlib import metadata

from absl import app, flags

from rvae_jax.config import Config, ModelConfig, validate
from rvae_jax.errors import UserError
from rvae_jax.hardware import accelerators, memory
from rvae_jax.planning import compilation
from rvae_jax.planning.target import require_compiler
from rvae_jax.preflight import TIME_LIMIT_S, TOPOLOGY
from rvae_jax.system.units import format_bytes

PIXELS = flags.DEFINE_multi_integer("pixels", [64, 128, 256, 512], "Sizes of the images.")
REMAT_STAGES = flags.DEFINE_multi_integer("remat_stages", [0, 2], "--config.remat_stages.")

_GROUP = 8  # batches of which are tried


def network(pixels: int) -> ModelConfig:
    """The paper's network for images of that size."""
    stages = int(math.log2(pixels / 4))
    filters = 128
    return ModelConfig(
        image_shape=(pixels, pixels, 3),
        encoder_filters=(filters,) * (stages + 1),
        decoder_filters=(filters,) * stages + (3,),
        dtype="bfloat16",
    )


def row(topology: str, pixels: int, remat_stages: int) -> str:
    """Compiles until the largest batch is found; a line of the table."""
    accelerator, devices = accelerators.of_topology(topology)
    groups_at_256 = 4
    first = max(1, round(groups_at_256 * (256 / pixels) ** 2))
    compiled = []

    def bytes_of(groups: int) -> float:
        images = groups * _GROUP
        config = Config(batch_size=images * devices, remat_stages=remat_stages, model=network(pixels))
        validate(config, devices)
        limit_s = TIME_LIMIT_S.value
        found = compilation.compile_for_topology(config, topology, devices, time_limit_s=limit_s)
        compiled.append((images, found.memory if found.fits else math.inf))
        print(f"{pixels} pixels, {remat_stages} stages: {compiled[-1]}", file=sys.stderr)
        return compiled[-1][1]

    found = memory.largest(bytes_of, accelerator.usable * accelerator.memory, {first: bytes_of(first)})
    if found is None:
        return f"| {pixels} | {remat_stages} | none | | |"
    (fewer, less), (more, most) = sorted(each for each in compiled if math.isfinite(each[1]))[:2]
    an_image = format_bytes((most - less) / (more - fewer))
    return f"| {pixels} | {remat_stages} | {found[0] * _GROUP:,} | {format_bytes(found[1])} | {an_image} |"


def main(_: list[str]) -> None:
    """Prints the table."""
    try:
        topology = TOPOLOGY.value
        accelerator, devices = accelerators.of_topology(topology)
        require_compiler(accelerator)
        available = accelerator.usable * accelerator.memory
        print(
            f"{devices} x {accelerator.name} ({topology}), jax {metadata.version('jax')}, bfloat16:"
            f" {format_bytes(available)} of {format_bytes(accelerator.memory)} may be used\n"
        )
        print("| pixels | remat_stages | images on each device | memory | of it each more image |")
        print("|---|---|---|---|---|", flush=True)
        for pixels in PIXELS.value:
            for remat_stages in REMAT_STAGES.value:
                print(row(topology, pixels, remat_stages), flush=True)
    except UserError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["topology"])
    app.run(main)
