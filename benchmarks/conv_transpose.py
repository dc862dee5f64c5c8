"""Times the backward pass of the stride-2 transposed convolution, in our form and in the form that JAX derives.

    python -m benchmarks.conv_transpose --filters=64 --size=32 --batch=16

Both compute the gradients with respect to input and kernel from the same cotangent, and are first checked to be equal.
JAX derives a convolution of a dilated input, whose kernel gradient is slow in XLA's CPU backend.
"""

import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import machine
from rvae_jax.models.convolutions import conv_transpose

FILTERS = flags.DEFINE_integer("filters", 64, "Channels in and out.")
SIZE = flags.DEFINE_integer("size", 32, "Height and width of the input.")
BATCH = flags.DEFINE_integer("batch", 16, "Images.")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Data type.")
ROUNDS = flags.DEFINE_integer("rounds", 9, "Turns of each form.")

Form = Callable[[jax.Array, jax.Array], jax.Array]


def derived_by_jax(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same function, with JAX's derivative."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=numbers, transpose_kernel=True)


def main(_: list[str]) -> None:
    """Runs the benchmark."""
    rng = np.random.default_rng(0)
    size, filters = SIZE.value, FILTERS.value
    x, kernel, cotangent = (
        jnp.asarray(rng.normal(size=shape), DTYPE.value)
        for shape in (
            (BATCH.value, size, size, filters),
            (3, 3, filters, filters),
            (BATCH.value, 2 * size, 2 * size, filters),
        )
    )

    @functools.partial(jax.jit, static_argnums=0)
    def backward(form: Form, x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(form, x, kernel)[1](cotangent)

    forms = {"ours": conv_transpose, "derived": derived_by_jax}
    calls = {name: functools.partial(backward, form, x, kernel, cotangent) for name, form in forms.items()}
    for ours, theirs in zip(*(jax.block_until_ready(call()) for call in calls.values()), strict=True):
        error = jnp.linalg.norm((ours - theirs).astype(jnp.float32)) / jnp.linalg.norm(theirs.astype(jnp.float32))
        if error > (1e-5 if DTYPE.value == "float32" else 0.02):
            raise SystemExit(f"the forms differ by {error:.1e}")
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(ROUNDS.value):
        for name, call in calls.items():
            seconds[name].append(measure(call))
    flops = 2 * 2 * 9 * filters**2 * BATCH.value * size**2
    print(f"{jax.devices()[0].device_kind}, {DTYPE.value}, [{BATCH.value}, {size}, {size}, {filters}]\n")
    print("| form | ms | CPU ms | GFLOP/s |\n|---|---|---|---|")
    for name, each in seconds.items():
        wall, cpu = (statistics.median(column) for column in zip(*each, strict=True))
        print(f"| {name} | {wall * 1e3:.2f} | {cpu * 1e3:.2f} | {flops / wall / 1e9:.1f} |")
    for what, column in (("time", 0), ("CPU time", 1)):
        ratios = [theirs[column] / ours[column] for ours, theirs in zip(*seconds.values(), strict=True)]
        print(f"\n{what}: {statistics.median(ratios):.1f} times less ({min(ratios):.1f} to {max(ratios):.1f})")


def measure(call: Callable[[], object], least_s: float = 0.5) -> tuple[float, float]:
    """Wall and CPU seconds per call."""
    count, began, cpu = 0, time.perf_counter(), machine.cpu_seconds()
    while time.perf_counter() - began < least_s:
        jax.block_until_ready(call())
        count += 1
    return (time.perf_counter() - began) / count, (machine.cpu_seconds() - cpu) / count


if __name__ == "__main__":
    app.run(main)
