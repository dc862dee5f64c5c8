"""Images per second of a model in use (encode, decode, reconstruct and sample) by the size of the requests.

    python -m benchmarks.inference --config=benchmarks/sizes.py:64 --config.model.dtype=bfloat16

The model has the weights of step 0, and is called as by a user, through ``TrainedVAE`` with NumPy arrays. First, a
stream of requests of random sizes shows how many programs are compiled without a cache, and how long that takes.
"""

import dataclasses
import itertools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from benchmarks import machine
from rvae_jax import command_line
from rvae_jax import config as config_lib
from rvae_jax.config import Config
from rvae_jax.distributed import sharding
from rvae_jax.errors import UserError
from rvae_jax.inference.trained_vae import TrainedVAE
from rvae_jax.storage.weights import evaluation_variables
from rvae_jax.training.program import make_program

CONFIG = command_line.define_config()
SIZES = flags.DEFINE_list("sizes", ["1", "8", "32", "256"], "Images per request.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds of each operation and size.", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 1.0, "Least duration of each measurement.", lower_bound=0.0)
REQUESTS = flags.DEFINE_integer("requests", 60, "Requests in the stream.", lower_bound=1)
JSON = flags.DEFINE_string("json", None, "File to write the figures to.")

_MOST = 300  # images per request of the stream

Operation = Callable[[int], Any]  # takes the number of images


@dataclasses.dataclass
class Stream:
    """The times of requests of random sizes to a new model.

    Attributes:
      first_s: seconds of the first request.
      cold_s: seconds of all requests.
      warm_s: seconds of the same requests again.
      programs: number of compiled programs.
    """

    first_s: float
    cold_s: float
    warm_s: float
    programs: int


class Compilations:
    """Counts the programs that XLA compiles."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, _: float, **__: Any) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"


def main(_: list[str]) -> None:
    """Runs the benchmark."""
    with command_line.exit_on_user_error():
        if not all(size.isdecimal() and int(size) for size in SIZES.value):
            raise UserError(f"--sizes={','.join(SIZES.value)}: expected whole numbers from 1")
        config_lib.validate(CONFIG.value, device_count=1)
        result = measure(CONFIG.value, [int(size) for size in SIZES.value])
    if JSON.value is not None:
        pathlib.Path(JSON.value).write_text(json.dumps(result, indent=2) + "\n")


def measure(config: Config, sizes: list[int]) -> dict[str, Any]:
    """Measures and prints; returns all figures, for JSON."""
    jax.config.update("jax_enable_compilation_cache", False)
    program = make_program(config)
    variables = evaluation_variables(jax.jit(program.create_state)(jax.random.key(0)).weights)

    def operations() -> dict[str, Operation]:
        return _operations(TrainedVAE(config, 0, program.vae, variables))

    compilations = Compilations()
    requests = [int(size) for size in np.random.default_rng(0).integers(1, _MOST + 1, REQUESTS.value)]
    streams = {}
    for name in operations():
        machine.say(f"{name}: {len(requests)} requests, twice")
        call, before = operations()[name], compilations.count
        seconds = [_seconds(call, size) for size in 2 * requests]
        cold, warm = sum(seconds[: len(requests)]), sum(seconds[len(requests) :])
        streams[name] = Stream(seconds[0], cold, warm, compilations.count - before)
    calls = operations()
    for call, size in itertools.product(calls.values(), sizes):
        call(size)
    rates: dict[str, dict[int, list[float]]] = {name: {size: [] for size in sizes} for name in calls}
    for number in range(1, ROUNDS.value + 1):
        machine.say(f"round {number} of {ROUNDS.value}")
        for name, size in itertools.product(calls, sizes):
            rates[name][size].append(_rate(calls[name], size))
    height, width, _ = config.model.image_shape
    print(
        f"{sharding.describe_devices(jax.devices())}, jax {jax.__version__} ({machine.describe()}): {height}x{width},"
        f" {config.model.dtype}; images/s, medians and extremes of {ROUNDS.value} rounds\n"
    )
    print("\n".join(_rate_table(rates, sizes)))
    print(f"\n{len(requests)} requests of 1 to {_MOST} images, {sum(requests):,} in all, to a new model:\n")
    print("\n".join(_stream_table(streams)))
    return {
        "device": sharding.describe_devices(jax.devices()),
        "machine": machine.describe(),
        "jax": jax.__version__,
        "config": config_lib.to_dict(config),
        "images_per_second": rates,
        "requests": requests,
        "streams": {name: dataclasses.asdict(stream) for name, stream in streams.items()},
    }


def _operations(model: TrainedVAE) -> dict[str, Operation]:
    most = max(_MOST, *map(int, SIZES.value))
    images = np.random.default_rng(0).uniform(-1, 1, (most, *model.config.model.image_shape)).astype(np.float32)
    codes = model.codes(most, sampler="prior")
    return {
        "encode": lambda size: model.encode(images[:size]),
        "decode": lambda size: model.decode(codes[:size]),
        "reconstruct": lambda size: model.reconstruct(images[:size]),
        "sample": model.sample,
    }


def _seconds(call: Operation, size: int) -> float:
    began = time.perf_counter()
    call(size)
    return time.perf_counter() - began


def _rate(call: Operation, size: int) -> float:
    """Images per second of consecutive requests."""
    count, began = 0, time.perf_counter()
    while not count or time.perf_counter() - began < SECONDS.value:
        call(size)
        count += size
    return count / (time.perf_counter() - began)


def _rate_table(rates: dict[str, dict[int, list[float]]], sizes: list[int]) -> list[str]:
    lines = ["| images per request | " + " | ".join(map(str, sizes)) + " |", "|---" * (1 + len(sizes)) + "|"]
    for name, by_size in rates.items():
        lines.append(f"| {name} | " + " | ".join(machine.spread(by_size[size]) for size in sizes) + " |")
    return lines


def _stream_table(streams: dict[str, Stream]) -> list[str]:
    lines = ["| | programs compiled | first request, s | all, s | all again, s |", "|---|---|---|---|---|"]
    return lines + [
        f"| {name} | {each.programs} | {each.first_s:.2f} | {each.cold_s:.1f} | {each.warm_s:.1f} |"
        for name, each in streams.items()
    ]


if __name__ == "__main__":
    command_line.run(main, CONFIG, required=["config"])
