"""A function with its weights as StableHLO: any batch size, on any platform, read with ``jax.export`` alone.

``jax.export`` needs the package flatbuffers to write and to read, which JAX does not declare.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flatbuffers  # noqa: F401 - so that it is missed at once
import jax
import jax.numpy as jnp
from jax import export

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def to_bytes(function: Callable[[Any, jax.Array], Any], weights: Any, item: tuple[int, ...]) -> bytes:
    """Compiles ``x -> function(weights, x)`` as far as is independent of the machine.

    ``jax.export.deserialize(bytearray(content)).call(x)`` runs it, with JAX of this version or up to six months newer,
    and, as far as JAX promises it, of three weeks older.

    Args:
      function: pure.
      weights: become constants.
      item: shape of one image or code; ``x`` is float32 of any number of them.
    """
    (batch,) = export.symbolic_shape("batch")
    exported = export.export(jax.jit(lambda x: function(weights, x)), platforms=PLATFORMS)(
        jax.ShapeDtypeStruct((batch, *item), jnp.float32)
    )
    return bytes(exported.serialize())
