"""Programs that take the same training step, to be timed beside each other: ours, plain Flax, PyTorch."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np

from rvae_jax.config import Config


class Peer(abc.ABC):
    """A training step, ready to be taken.

    A peer is made from a configuration and from arrays by name: ``images`` (bytes, ``[b, H, W, C]``), ``noise``
    (``[b, latent_dim]``), and the weights, named as in ``rvae_jax.storage.weights.flatten``.

    Attributes:
      name: how tables call it.
    """

    name: str

    @abc.abstractmethod
    def __init__(self, config: Config, arrays: dict[str, np.ndarray]) -> None: ...

    @abc.abstractmethod
    def first_step(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """The loss terms, unweighted, with the given noise, and the gradient of every trainable weight, by its name."""

    @abc.abstractmethod
    def step(self) -> None:
        """Takes a step, with noise of its own; need not wait for its end."""

    @abc.abstractmethod
    def wait(self) -> None:
        """Waits for the end of all steps."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """Versions, and what else there is to say after some steps."""
