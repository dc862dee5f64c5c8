"""Trains one arm that is not ours, in a process of its own, whose CPU time is the arm's: started by ``__main__``."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import pathlib

from benchmarks.comparison import arms, store
from benchmarks.comparison.cpu_time import Clock
from benchmarks.comparison.model import Model


def main() -> None:
    """Trains, and writes what the arm has made."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--arm", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--cpu_seconds", type=float, required=True)
    parser.add_argument("--images", type=pathlib.Path, required=True)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    images = store.read_images(arguments.images)
    model = make(arguments.arm, arguments.seed)
    clock = Clock(arguments.cpu_seconds)
    seen, steps = model.train(images.training, clock)
    used = clock.used()
    versions = {name: importlib.metadata.version(name) for name in model.packages}
    record = store.Record(arguments.arm, arguments.seed, used, seen, versions, steps)
    store.save(arguments.folder, model.material(images, seed=0), record)


def make(arm: str, seed: int) -> Model:
    """The model of an arm, untrained."""
    if arm in arms.LINEAR:
        from benchmarks.comparison import linear

        dimensions = arms.LINEAR[arm]
        return linear.PCA(seed, dimensions) if dimensions else linear.MeanFace(seed)
    module, _, name = arms.PEERS[arm].partition(".")
    return getattr(importlib.import_module(f"benchmarks.comparison.{module}"), name)(seed)


if __name__ == "__main__":
    main()
