"""What a case is: a function of the losses, its formula in NumPy, and its arguments."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np


class Argument(NamedTuple):
    """What a number is decides which numbers ``test_ranges`` tries."""

    kind: str
    shape: tuple[int, ...]


class Case(NamedTuple):
    """``gradient_of`` gives, at a point, the function whose derivative is ours there, if it is not the value's."""

    function: Callable
    oracle: Callable
    arguments: list[Argument]
    gradient_of: Callable | None = None


IMAGES = Argument("image", (5, 4, 3, 2))
SMALL_IMAGES = Argument("image", (5, 2, 2, 1))
LOGITS = Argument("logit", (5, 3, 2, 1))
MEANS, LOG_VARS, NOISE = (Argument(kind, (5, 4)) for kind in ("mean", "log_var", "noise"))
MEAN, VARIANCE = Argument("mean", (4,)), Argument("variance", (4,))
PARTS, PART_VARIANCES = (Argument(kind, (3, 4)) for kind in ("mean", "variance"))
COVARIANCE = Argument("covariance", (4, 4))
ERRORS = Argument("error", (5,))
WEIGHT = Argument("weight", ())


@functools.cache
def jitted(function):
    """One jitted form of a function for all tests, so that it is compiled once for each shape and type."""
    return jax.jit(function)


def draw(argument, rng):
    kind, shape = argument
    if kind == "covariance":
        root = rng.normal(size=shape)
        array = root @ root.T / len(root) + 0.2 * np.eye(len(root))
    elif kind in ("variance", "weight", "error"):
        array = np.exp(rng.normal(size=shape))
    elif kind == "noise":
        array = rng.normal(size=shape)
    else:
        array = rng.normal(0.3, 1.5, shape)
    return np.asarray(array, np.float32)


def arrays_of(case, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [draw(argument, rng).astype(dtype) for argument in case.arguments]


def each(function):
    """``function`` of every image on its own."""
    return lambda *arrays: np.array([function(*rows) for rows in zip(*arrays, strict=True)])


def constant(function):
    """At any point the function that stays what ``function`` is there."""
    return lambda *at: lambda *arrays: function(*at)


def value_of(at):
    """The value, where ``at`` gives the function whose derivative is ours."""
    return lambda *arrays: at(*arrays)(*arrays)
