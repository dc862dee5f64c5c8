"""Our own step, as ``rvae_jax.main`` takes it."""

from __future__ import annotations

import dataclasses
import functools
import resource
import time
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import kernels
from benchmarks.peers import Peer
from rvae_jax.config import Config, in_steps
from rvae_jax.data.pixels import to_float
from rvae_jax.distributed import sharding
from rvae_jax.hardware import cost
from rvae_jax.planning.measurement import measure_peaks
from rvae_jax.storage import weights
from rvae_jax.training.program import Program, make_program
from rvae_jax.training.state import TrainState, create_train_state
from rvae_jax.training.step import make_train_step

TERMS = ("reconstruction", "population_kl", "variance_regularizer", "adversarial", "discriminator")


class Ours(Peer):
    """``rvae_jax``."""

    name = "rvae_jax"

    def __init__(self, config: Config, arrays: dict[str, np.ndarray]) -> None:
        self.config = config
        self.arrays = arrays
        self.layout = sharding.data_parallel(config.parallel, devices=jax.devices()[:1])
        self.program = self.make_program()
        shapes = self.layout.with_shardings(self.program.state_shapes())
        shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
        create_state = functools.partial(self.program.create_state, jax.random.key(0))
        self.state = jax.jit(lambda: self._with_weights(create_state()), out_shardings=shardings)()
        (self.batch,) = self.layout.to_devices([arrays["images"]])
        key = jax.jit(lambda: jax.random.key(0), out_shardings=self.layout.replicated)()
        began = time.monotonic()
        self.constants = jax.device_put(self.program.constants(key), self.layout.replicated)
        lowered = self.layout.lower(self.program.train_step, self.state, self.batch, *self.constants)
        self.compiled = self.compile(lowered)
        self.compile_s = time.monotonic() - began
        self.metrics = None

    def make_program(self) -> Program:
        """The networks, and the step."""
        return make_program(self.config, self.layout.axis_name)

    def compile(self, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        """The compiled step."""
        return lowered.compile(compiler_options=self.layout.compiler_options)

    def our_name(self, name: str) -> str:
        """``rvae_jax``'s name of a weight."""
        return name

    def _with_weights(self, state: TrainState) -> TrainState:
        names = weights.flatten(state.weights)
        given = {name: self.arrays[self.our_name(name)] for name in names}
        return state.with_weights(weights.unflatten(given))

    def first_step(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        vae, discriminator = self.program.vae, self.program.discriminator
        optimizer = optax.sgd(1.0)  # so that weights change by their gradients
        before = self._with_weights(create_train_state(vae, discriminator, optimizer, jax.random.key(0)))
        step = jax.jit(make_train_step(vae, discriminator, optimizer, in_steps(self.config).loss))
        after, metrics = step(before, to_float(self.arrays["images"]), jax.random.key(0))
        old, new = (weights.flatten(each.weights) for each in (before, after))
        gradients = {
            self.our_name(name): np.asarray(old[name]) - np.asarray(new[name]) for name in old if "/params/" in name
        }
        return {name: float(metrics[f"loss/{name}"]) for name in TERMS}, gradients

    def step(self) -> None:
        self.state, self.metrics = self.compiled(self.state, self.batch, *self.constants)

    def wait(self) -> None:
        jax.block_until_ready((self.state, self.metrics))

    def describe(self) -> dict[str, Any]:
        needed = cost.cost_of(self.compiled, loop_steps=self.config.accumulate_steps)
        (device,) = self.layout.mesh.devices
        statistics = device.memory_stats()
        process = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in kibibytes on Linux
        return {
            "versions": {"jax": jax.__version__},
            "platform": device.platform,
            "device_kind": device.device_kind,
            "compile_s": self.compile_s,
            "compiled_flops": needed.flops,
            "compiled_bytes": needed.bytes_accessed,
            "compiled_memory": needed.memory,
            "peak_memory": statistics["peak_bytes_in_use"] if statistics else process,
        }

    def peaks(self) -> tuple[float, float]:
        """FLOP/s of a large matrix product, and bytes per second of a copy."""
        return measure_peaks(self.config.model.dtype)

    def profile(self, folder: str, steps: int = 5) -> list[dict[str, Any]]:
        """The ten kernels that take most time; writes the trace to a folder."""

        def take_steps() -> None:
            for _ in range(steps):
                self.step()
            self.wait()

        take_steps()
        found = kernels.profile(take_steps, steps, self.compiled, folder)
        return [dataclasses.asdict(each) for each in found[:10]]


def make_arrays(config: Config) -> dict[str, np.ndarray]:
    """The arrays that peers are made from; norms are not the identity, so that the check covers them."""
    rng = np.random.default_rng(0)
    state = make_program(config).create_state(jax.random.key(0))
    arrays = {name: np.array(leaf) for name, leaf in weights.flatten(state.weights).items()}
    for leaf in arrays.values():
        if leaf.ndim == 1:
            leaf += rng.uniform(-0.1, 0.1, leaf.shape).astype(leaf.dtype)
    shape = (config.batch_size, *config.model.image_shape)
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), 0), (config.batch_size, config.model.latent_dim))
    return arrays | {"images": rng.integers(0, 256, shape, np.uint8), "noise": np.array(noise)}
