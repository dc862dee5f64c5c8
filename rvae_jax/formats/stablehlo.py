"""A function with its weights as StableHLO, for any batch size and platform; ``jax.export`` alone reads it.

To write and to read, ``jax.export`` needs the package flatbuffers, which JAX does not declare.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flatbuffers  # noqa: F401 - so that its absence is noticed here
import jax
import jax.numpy as jnp
from jax import export

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def to_bytes(function: Callable[[Any, jax.Array], Any], weights: Any, item: tuple[int, ...]) -> bytes:
    """Serializes ``x -> function(weights, x)``.

    ``jax.export.deserialize(bytearray(content)).call(x)`` runs it. JAX promises this for versions from three weeks
    older to six months newer than the one that wrote it.

    Args:
      function: a pure function.
      weights: its first argument; they become constants.
      item: shape of one image or code; ``x`` is float32 ``[batch, *item]`` with any ``batch``.
    """
    (batch,) = export.symbolic_shape("batch")
    exported = export.export(jax.jit(lambda x: function(weights, x)), platforms=PLATFORMS)(
        jax.ShapeDtypeStruct((batch, *item), jnp.float32)
    )
    return bytes(exported.serialize())
