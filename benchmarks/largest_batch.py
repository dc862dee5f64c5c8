"""The largest batch of the paper's network that fits on a device, by compiling for it; the device need not be here.

    python benchmarks/largest_batch.py --topology=h200

At 64, 128, 256 and 512 pixels, in bfloat16, with as many stages of 128 filters as lead to 4x4 pixels, with and without
rematerialisation of the two stages with the largest activations. Each printed batch was compiled, not extrapolated. A
line takes three or four compilations of one to three minutes on two cores; they are cached in ~/.cache/rvae_jax.
"""

import math
import sys
from importlib import metadata

from absl import app, flags

from rvae_jax import command_line
from rvae_jax.config import Config, ModelConfig, validate
from rvae_jax.hardware import accelerators, memory
from rvae_jax.planning import compilation
from rvae_jax.planning.target import GROUP, require_compiler
from rvae_jax.system.units import format_bytes

TOPOLOGY = flags.DEFINE_string("topology", None, "TPU slice (v5e:4x4) or GPUs (h200, h200:8) to compile for.")
TIME_LIMIT_S = flags.DEFINE_integer("time_limit_s", 1200, "Seconds that one compilation may take.", lower_bound=1)
PIXELS = flags.DEFINE_multi_integer("pixels", [64, 128, 256, 512], "Heights and widths of the images.")
REMAT_STAGES = flags.DEFINE_multi_integer("remat_stages", [0, 2], "Values of --config.remat_stages.")


def network(pixels: int) -> ModelConfig:
    """The paper's network for images of this size."""
    stages = int(math.log2(pixels / 4))
    filters = 128
    return ModelConfig(
        image_shape=(pixels, pixels, 3),
        encoder_filters=(filters,) * (stages + 1),
        decoder_filters=(filters,) * stages + (3,),
        dtype="bfloat16",
    )


def row(topology: str, pixels: int, remat_stages: int) -> str:
    """Compiles until the largest batch is found; returns a line of the table."""
    accelerator, devices = accelerators.of_topology(topology)
    groups_at_256 = 4
    first = max(1, round(groups_at_256 * (256 / pixels) ** 2))
    compiled = []

    def bytes_of(groups: int) -> float:
        images = groups * GROUP
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
    return f"| {pixels} | {remat_stages} | {found[0] * GROUP:,} | {format_bytes(found[1])} | {an_image} |"


def main(_: list[str]) -> None:
    """Prints the table."""
    with command_line.exit_on_user_error():
        topology = TOPOLOGY.value
        accelerator, devices = accelerators.of_topology(topology)
        require_compiler(accelerator)
        available = accelerator.usable * accelerator.memory
        print(
            f"{devices} x {accelerator.name} ({topology}), jax {metadata.version('jax')}, bfloat16:"
            f" {format_bytes(available)} of {format_bytes(accelerator.memory)} may be used\n"
        )
        print("| pixels | remat_stages | images per device | memory | memory per image |")
        print("|---|---|---|---|---|", flush=True)
        for pixels in PIXELS.value:
            for remat_stages in REMAT_STAGES.value:
                print(row(topology, pixels, remat_stages), flush=True)


if __name__ == "__main__":
    flags.mark_flags_as_required(["topology"])
    app.run(main)
