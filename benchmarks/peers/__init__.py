"""The same training step in several programs, to be compared in speed: ours, plain Flax, PyTorch."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np

from rvae_jax.config import Config


class Peer(abc.ABC):
    """A training step.

    A peer is made from a configuration and from arrays by name: ``images`` (uint8 ``[b, H, W, C]``), ``noise``
    (``[b, latent_dim]``), and the weights, named as by ``rvae_jax.storage.weights.flatten``.

    Attributes:
      name: its name in tables.
    """

    name: str

    @abc.abstractmethod
    def __init__(self, config: Config, arrays: dict[str, np.ndarray]) -> None: ...

    @abc.abstractmethod
    def first_step(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """The unweighted loss terms with the given noise, and the gradients of all trainable weights, by name."""

    @abc.abstractmethod
    def step(self) -> None:
        """Takes a step, with random noise; need not wait for its end."""

    @abc.abstractmethod
    def wait(self) -> None:
        """Waits for the end of all steps."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """Versions, and other facts that are known after some steps."""
