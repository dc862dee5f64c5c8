"""Known noise, and a finished run."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import TINY, tiny_config
from step_cases import BATCH

from rvae_jax.training.loop import train


@pytest.fixture
def fixed_noise(monkeypatch):
    noise = np.random.default_rng(5).normal(size=(BATCH, TINY["latent_dim"])).astype(np.float32)
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.asarray(noise))
    return noise


@pytest.fixture
def zero_noise(monkeypatch):
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.zeros(shape))


@pytest.fixture(scope="session")
def finished(data_dir, tmp_path_factory):
    """A run of eight steps, and what JAX logged of its compilations."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    compiled = []
    handler = logging.Handler()
    handler.emit = lambda record: compiled.append(record.getMessage())
    logger = logging.getLogger("jax._src.dispatch")
    logger.addHandler(handler)
    with jax.log_compiles():
        train(tiny_config(data_dir), workdir, devices=jax.devices()[:1])
    logger.removeHandler(handler)
    return workdir, compiled
