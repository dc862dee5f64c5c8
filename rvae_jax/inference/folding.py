"""The population of codes, folded into the decoder: a decoder of N(0, I) in place of one of codes."""

from __future__ import annotations

from typing import Any

import numpy as np
from flax import traverse_util

from rvae_jax.inference import samplers

_DENSE, _LINEAR = "decoder/dense", "linear"


def fold(variables: Any, mean: np.ndarray, covariance: np.ndarray) -> Any:
    """Variables with which ``decode(e)`` is ``decode(mean + R e)`` with the given ones; R is ``samplers.root``.

    So codes from N(0, I) give images of codes from the population's Gaussian. Both layers that a code enters change,
    in float64 and exactly: ``(m + R e) W + b = e (R^T W) + (m W + b)``. Encoding with these variables is meaningless.

    Args:
      variables: of a ``models.VAE``.
      mean: of the codes, ``[d]``.
      covariance: of the codes, ``[d, d]``.
    """
    root = samplers.root(covariance)
    folded = {}
    for collection, tree in variables.items():
        leaves = {name: np.asarray(leaf) for name, leaf in traverse_util.flatten_dict(tree, sep="/").items()}
        if f"{_DENSE}/kernel" in leaves:
            kernel, bias = (leaves[f"{_DENSE}/{name}"].astype(np.float64) for name in ("kernel", "bias"))
            leaves |= {f"{_DENSE}/kernel": root.T @ kernel, f"{_DENSE}/bias": mean @ kernel + bias}
        if f"{_LINEAR}/components" in leaves:
            deviations = leaves[f"{_LINEAR}/deviations"].astype(np.float64)
            components = np.tensordot(np.diag(deviations), leaves[f"{_LINEAR}/components"].astype(np.float64), axes=1)
            leaves |= {
                f"{_LINEAR}/components": np.tensordot(root.T, components, axes=1),
                f"{_LINEAR}/deviations": np.ones_like(deviations),
                f"{_LINEAR}/mean_image": leaves[f"{_LINEAR}/mean_image"] + np.tensordot(mean, components, axes=1),
            }
        leaves = {name: leaf.astype(np.float32) for name, leaf in leaves.items()}
        folded[collection] = traverse_util.unflatten_dict(leaves, sep="/")
    return folded
