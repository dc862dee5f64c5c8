"""Arguments of extreme size for the losses, and values with gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from case_parts import draw

FLOAT32 = np.finfo(np.float32)


# Magnitudes of each kind of argument. A covariance is that of means; other kinds are drawn as in the cases.
EXTREMES = {
    "mean": [0.0, 1e-30, 1e-7, 1.0, 1e7, 1e15],
    "log_var": [0.0, FLOAT32.tiny, 1.0, 33.0, 40.0, 88.0, 100.0, 1e30, 1e38, FLOAT32.max],
    "logit": [0.0, 1e-30, 1.0, 1e3, 1e15, 1e30],
    "anchor": [0.0, 1.0, 1e15],
    "image": [0.0, 1e-30, 1e-8, 1.0, 1e8],
    "error": [0.0, 1e-30, 1.0, 1e16],
    "noise": [0.0, 1e-30, 1.0, 6.0],
    "variance": [0.0, 1e-38, 1e-30, 1e-14, 1.0, 1e30],
    "log_scale": [0.0, 1.0, 16.0, 20.0, 100.0, 1e30, 1e38, FLOAT32.max],
}


POSITIVE = {"error", "variance"}


def extreme(argument, rng):
    kind, shape = argument
    if kind == "covariance":
        codes = extreme(argument._replace(kind="mean"), rng)
        cov = np.atleast_2d(np.cov(codes.T.astype(np.float64), bias=True))
        return np.float32(cov * np.where(np.eye(len(cov)), 1, 1 - rng.choice([0.01, 0.1, 1.0])))
    if kind not in EXTREMES:
        return draw(argument, rng)
    # One magnitude for all entries, one per column, or one per entry; then signs or other factors, likewise.
    sizes, factors = (shape[len(shape) - kept :] for kept in rng.integers(len(shape) + 1, size=2))
    factors = rng.choice([-1, 1], factors) if rng.random() < 0.7 else rng.uniform(-1, 1, factors)
    array = np.broadcast_to(rng.choice(EXTREMES[kind], sizes) * factors, shape).astype(np.float32)
    return np.abs(array) if kind in POSITIVE else array


def floats(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def values_and_gradients(function):
    def run(*arrays):
        values, pullback = jax.vjp(lambda *arrays: floats(function(*arrays)), *arrays)
        return values, pullback([jnp.ones_like(value) for value in values])

    return run
