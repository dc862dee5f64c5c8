"""Runs peers in turns, each in a process of its own, so that noise of the machine affects all of them alike."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import multiprocessing
import os
import pathlib
import statistics
import time
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import machine
from benchmarks.peers import Peer
from rvae_jax import config as config_lib
from rvae_jax.config import Config
from rvae_jax.errors import UserError, one_line

PEERS = {
    "rvae_jax": "ours.Ours",
    "plain_flax": "plain_flax.PlainFlax",
    "pytorch": "pytorch.PyTorch",
    "pytorch_eager": "pytorch.EagerPyTorch",
}

Check = tuple[dict[str, float], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Block:
    """The time of consecutive steps.

    Attributes:
      wall: seconds per step.
      cpu: CPU seconds per step, of all cores, including the system's.
    """

    wall: float
    cpu: float


class Contender:
    """A peer in a process of its own, idle between calls.

    The first contender writes the weights and inputs to a file, from which all are made.

    Attributes:
      name: name in ``PEERS``.
      blocks: the measurements of ``run``.
    """

    def __init__(self, name: str, config: Config, arrays: pathlib.Path, environment: dict[str, str]) -> None:
        self.name = name
        self.blocks: list[Block] = []
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, name, config_lib.to_dict(config), arrays), daemon=True
        )
        with mock.patch.dict(os.environ, environment):  # some is read before the process runs our code
            self._process.start()
        theirs.close()
        self._answer()

    def call(self, method: str, *arguments: Any) -> Any:
        """Calls a method of the peer.

        Raises:
          UserError: the method failed, or the process ended.
        """
        self._pipe.send((method, arguments))
        return self._answer()

    def run(self, seconds: float) -> None:
        """Takes steps for about this long, and records the time of one."""
        self.blocks.append(self.call("take_steps", seconds))

    @property
    def median(self) -> Block:
        """The medians over all blocks."""
        return Block(*(statistics.median(getattr(each, name) for each in self.blocks) for name in ("wall", "cpu")))

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()

    def _answer(self) -> Any:
        try:
            answer, problem = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise UserError(f"{self.name}: its process ended with status {self._process.exitcode}") from None
        if problem is not None:
            raise UserError(f"{self.name}: {problem}")
        return answer


def disagreement(ours: Check, theirs: Check) -> tuple[float, float]:
    """The relative errors between the first steps of two peers.

    Returns:
      The largest relative error of a loss term, and the relative error of the gradient of all weights, by norms.

    Raises:
      UserError: the peers have different terms or weights.
    """
    for mine, other in zip(ours, theirs, strict=True):
        if mine.keys() != other.keys():
            raise UserError(f"peers have different names: {sorted(mine.keys() ^ other.keys())[:6]}")
    terms = max(abs(theirs[0][name] - value) / abs(value) for name, value in ours[0].items())
    square = sum(float(np.sum(np.square(value, dtype=np.float64))) for value in ours[1].values())
    apart = sum(float(np.sum(np.square(theirs[1][name] - value, dtype=np.float64))) for name, value in ours[1].items())
    return terms, (apart / square) ** 0.5


def peer_class(name: str) -> type[Peer]:
    """The class of a peer in ``PEERS``."""
    module, _, cls = PEERS[name].partition(".")
    return getattr(importlib.import_module(f"benchmarks.peers.{module}"), cls)


def _serve(pipe: Any, name: str, fields: dict[str, Any], arrays: pathlib.Path) -> None:
    try:
        config = config_lib.from_dict(fields)
        if not arrays.exists():
            ours = importlib.import_module("benchmarks.peers.ours")
            np.savez(arrays, **ours.make_arrays(config))
        with np.load(arrays) as file:
            peer = peer_class(name)(config, dict(file))
        pipe.send((None, None))
        while True:
            method, arguments = pipe.recv()
            function = functools.partial(_take_steps, peer) if method == "take_steps" else getattr(peer, method)
            pipe.send((function(*arguments), None))
    except Exception as error:
        pipe.send((None, f"{type(error).__name__}: {one_line(error, limit=600)}"))


def _take_steps(peer: Any, seconds: float) -> Block:
    peer.step()
    peer.wait()
    began = time.perf_counter()
    peer.step()
    peer.wait()
    count = max(1, round(seconds / (time.perf_counter() - began)))
    cpu, began = machine.cpu_seconds(), time.perf_counter()
    for _ in range(count):
        peer.step()
    peer.wait()
    return Block((time.perf_counter() - began) / count, (machine.cpu_seconds() - cpu) / count)
