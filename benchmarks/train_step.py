"""How fast a configuration trains, alone and compared with the same step in plain Flax and in PyTorch.

    python -m benchmarks.train_step --config=configs/celeba_hq.py --config.model.dtype=bfloat16 --config.batch_size=32
    python -m benchmarks.train_step --config=benchmarks/sizes.py:64 --against=plain_flax,pytorch,pytorch_eager

The step runs on one device, on random images, without input. With ``--against`` all programs have the same weights, and
their loss terms and gradients must agree with ours before they are timed. Then they take turns; each ratio compares
times of the same round. PyTorch: pip install -e '.[peers]'.

Model FLOP/s count the author's operations (benchmarks/operations.py), whatever a program computes. They are compared
with the peak of a large matrix product in the same run, and with the nominal peak if
rvae_jax/hardware/accelerators.py has the device. CPU seconds are those of all cores, including the system's. Our
program uses large pages (rvae_jax/hardware/huge_pages.py), as it does by itself; the peers use the system's default. To
give all programs the same, set GLIBC_TUNABLES to glibc.malloc.hugetlb=1 or glibc.malloc.hugetlb=0.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import statistics
import tempfile
from typing import Any

from absl import flags

from benchmarks import machine, operations
from benchmarks.contenders import PEERS, Contender, disagreement
from rvae_jax import command_line
from rvae_jax import config as config_lib
from rvae_jax.config import Config
from rvae_jax.errors import UserError
from rvae_jax.hardware import accelerators, huge_pages
from rvae_jax.system.units import format_bytes

CONFIG = command_line.define_config()
AGAINST = flags.DEFINE_list("against", [], f"Programs to compare with: {', '.join(list(PEERS)[1:])}.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds of measurements.", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 3.0, "Approximate duration of each measurement.", lower_bound=0.0)
JSON = flags.DEFINE_string("json", None, "File to write the figures to.")
PROFILE = flags.DEFINE_string("profile", None, "Folder for a trace; prints the ten most expensive kernels.")

# Largest relative errors of a loss term and of the gradient of all weights; the gradient of the input norm is a small
# sum of large numbers. Reduced precision is bfloat16 with its 8 bits, and TF32 on GPUs; programs round in other places.
_TOLERANCES = {"full": (1e-5, 5e-3), "reduced": (0.02, 0.15)}


@dataclasses.dataclass
class Row:
    """One program's figures: medians of wall and CPU seconds; medians and extremes of the ratios to ours."""

    name: str
    wall_s: float
    cpu_s: float
    images_per_second: float
    model_flops_per_second: float
    wall_ratio: tuple[float, float, float]
    cpu_ratio: tuple[float, float, float]
    term_error: float
    gradient_error: float
    description: dict[str, Any]


def main(_: list[str]) -> None:
    """Runs the benchmark."""
    with command_line.exit_on_user_error():
        unknown = set(AGAINST.value) - set(PEERS)
        if unknown:
            raise UserError(f"--against={','.join(AGAINST.value)}: expected some of {', '.join(list(PEERS)[1:])}")
        config_lib.validate(CONFIG.value, device_count=1)
        names = list(dict.fromkeys(["rvae_jax", *AGAINST.value]))
        if len(names) > 1:
            _require_comparable(CONFIG.value)
        result = measure(CONFIG.value, names, ROUNDS.value, SECONDS.value, PROFILE.value)
    if JSON.value is not None:
        pathlib.Path(JSON.value).write_text(json.dumps(result, indent=2) + "\n")


def _require_comparable(config: Config) -> None:
    """Raises unless the configuration has the paper's objective and frozen norms, for which the peers are written."""
    default = Config()
    for field in ("kl", "moments", "adversarial"):
        if getattr(config.loss, field) != getattr(default.loss, field):
            raise UserError(f"--config.loss.{field}: expected {getattr(default.loss, field)} with --against")
    for name, value, expected in (
        ("model.norm", config.model.norm, "frozen"),
        ("accumulate_steps", config.accumulate_steps, 1),
        ("optimizer.ema_decay", config.optimizer.ema_decay, None),
    ):
        if value != expected:
            raise UserError(f"--config.{name}={value}: expected {expected} with --against")


@dataclasses.dataclass
class Figures:
    """What was measured: seconds of the first compilation, a row per program, and our peaks and kernels."""

    first_compile_s: float
    rows: list[Row]
    peaks: tuple[float, float]
    kernels: list[dict[str, Any]]


def measure(config: Config, names: list[str], rounds: int, seconds: float, trace: str | None) -> dict[str, Any]:
    """Measures and prints.

    Args:
      config: a valid configuration.
      names: names in ``PEERS``, ours first.
      rounds: number of rounds.
      seconds: approximate duration of each measurement.
      trace: folder for a profile of our step, or None.

    Returns:
      All figures, for JSON.

    Raises:
      UserError: a program fails, or does not compute what ours does.
    """
    found = _take_turns(config, names, rounds, seconds, trace)
    ours = found.rows[0].description
    print(_machine(config, ours), end="\n\n")
    print("\n".join(_own_figures(config.model.dtype, found)))
    if len(found.rows) > 1:
        print("\n" + "\n".join(_table(found.rows)))
    if found.kernels:
        print("\n" + "\n".join(_kernel_table(found.kernels)) + f"\n\nThe trace is in {trace}: open it with xprof.")
    return {
        "device": ours["device_kind"],
        "machine": machine.describe(),
        "config": config_lib.to_dict(config),
        "flops_per_image": operations.of_step(config),
        "matrix_product_flops": found.peaks[0],
        "copy_bandwidth": found.peaks[1],
        "first_compile_s": found.first_compile_s,
        "rows": [dataclasses.asdict(row) for row in found.rows],
        "kernels": found.kernels,
    }


def _take_turns(config: Config, names: list[str], rounds: int, seconds: float, trace: str | None) -> Figures:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        environment = {
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/xla",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # the programs share the device
        }

        def start(name: str, **variables: str) -> contextlib.closing[Contender]:
            arrays = pathlib.Path(folder) / "arrays.npz"
            return contextlib.closing(Contender(name, config, arrays, environment | variables))

        machine.say("compiling without a cache")
        with start("rvae_jax") as cold:
            first_compile_s = cold.call("describe")["compile_s"]
        contenders = []
        for name in names:
            machine.say(f"setting up {name}")
            pages = huge_pages.missing() if name == "rvae_jax" else {}
            contenders.append(running.enter_context(start(name, **pages)))
        ours = contenders[0]
        errors = _check(config, contenders) if len(contenders) > 1 else [(0.0, 0.0)]
        for number in range(1, rounds + 1):
            for each in contenders:
                each.run(seconds)
            walls = ", ".join(f"{each.blocks[-1].wall:.3f} s" for each in contenders)
            machine.say(f"round {number} of {rounds}: {walls}")
        rows = [
            _row(config, each, ours, error, each.call("describe"))
            for each, error in zip(contenders, errors, strict=True)
        ]
        kernels = ours.call("profile", trace) if trace is not None else []
        return Figures(first_compile_s, rows, ours.call("peaks"), kernels)


def _check(config: Config, contenders: list[Contender]) -> list[tuple[float, float]]:
    """The errors of each contender relative to ours.

    Raises:
      UserError: one of the errors is too large.
    """
    checks = [each.call("first_step") for each in contenders]
    is_full = config.model.dtype == "float32" and contenders[0].call("describe")["platform"] == "cpu"
    most = _TOLERANCES["full" if is_full else "reduced"]
    errors = [disagreement(checks[0], each) for each in checks]
    for contender, found in zip(contenders, errors, strict=True):
        machine.say(f"{contender.name}: loss terms within {found[0]:.1e}, gradient within {found[1]:.1e} of ours")
        if not all(error <= limit for error, limit in zip(found, most, strict=True)):
            raise UserError(f"{contender.name} does not compute what rvae_jax does: expected errors of at most {most}")
    return errors


def _row(
    config: Config, each: Contender, ours: Contender, errors: tuple[float, float], description: dict[str, Any]
) -> Row:
    def ratio(field: str) -> tuple[float, float, float]:
        pairs = zip(each.blocks, ours.blocks, strict=True)
        ratios = [getattr(theirs, field) / getattr(mine, field) for theirs, mine in pairs]
        return statistics.median(ratios), min(ratios), max(ratios)

    median = each.median
    rate = config.batch_size / median.wall
    flops = rate * operations.of_step(config)
    ratios = ratio("wall"), ratio("cpu")
    return Row(each.name, median.wall, median.cpu, rate, flops, *ratios, *errors, description)


def _machine(config: Config, ours: dict[str, Any]) -> str:
    height, width, _ = config.model.image_shape
    return (
        f"{ours['device_kind']} ({machine.describe()}):"
        f" {height}x{width}, batch {config.batch_size}, {config.model.dtype},"
        f" {operations.of_step(config) / 1e9:,.2f} GFLOP per image by the author's count"
    )


def _own_figures(dtype: str, figures: Figures) -> list[str]:
    row, peaks, found = figures.rows[0], figures.peaks, figures.rows[0].description
    images = row.images_per_second * row.wall_s
    nominal = accelerators.of_kind(found["device_kind"])
    shares = [f"{row.model_flops_per_second / peaks[0]:.0%} of a large matrix product's {peaks[0] / 1e12:,.3g}"]
    if nominal is not None:
        peak = nominal.flops[dtype]
        shares.append(f"{row.model_flops_per_second / peak:.0%} of the nominal {peak / 1e12:,.0f}")
    compiled = found["compiled_flops"], found["compiled_bytes"]
    if compiled[0] is None:
        counted = "not counted by this compiler"
    else:
        counted = (
            f"{compiled[0] / images / 1e9:,.2f} GFLOP and {format_bytes(compiled[1] / images)} per image;"
            f" {compiled[0] / row.wall_s / 1e12:,.3g} TFLOP/s and {format_bytes(compiled[1] / row.wall_s)}/s"
        )
    return [
        f"speed      {row.images_per_second:,.1f} images/s, {row.wall_s * 1e3:,.1f} ms per step,"
        f" {row.cpu_s:.3f} CPU seconds per step",
        f"work       {row.model_flops_per_second / 1e12:,.3g} TFLOP/s by the author's count: {', '.join(shares)}",
        f"compiled   {counted}; a copy reaches {format_bytes(peaks[1])}/s",
        f"memory     {format_bytes(found['compiled_memory'])} by the compiler;"
        f" {'process' if found['platform'] == 'cpu' else 'device'} {format_bytes(found['peak_memory'])} at most",
        f"compile    {figures.first_compile_s:.1f} s first, {found['compile_s']:.1f} s from the cache",
    ]


def _table(rows: list[Row]) -> list[str]:
    lines = [
        "| program | ms per step | CPU s per step | images/s | time / ours | CPU time / ours | error |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        versions = ", ".join(f"{name} {version}" for name, version in row.description["versions"].items())
        time_ratio, cpu_ratio = (
            f"{each[0]:.2f} ({each[1]:.2f} to {each[2]:.2f})" for each in (row.wall_ratio, row.cpu_ratio)
        )
        lines.append(
            f"| {row.name} ({versions}) | {row.wall_s * 1e3:,.1f} | {row.cpu_s:.3f} | {row.images_per_second:,.1f} |"
            f" {time_ratio} | {cpu_ratio} | {row.gradient_error:.0e} |"
        )
    return lines


def _kernel_table(kernels: list[dict[str, Any]]) -> list[str]:
    lines = ["| kernel | ms per step | share | result | from |", "|---|---|---|---|---|"]
    return lines + [
        f"| {each['name']} | {each['ms']:.2f} | {each['share']:.1%} | {each['shape']} | {each['origin'][-90:]} |"
        for each in kernels
    ]


if __name__ == "__main__":
    command_line.run(main, CONFIG, required=["config"])
