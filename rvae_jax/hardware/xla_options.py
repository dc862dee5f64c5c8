"""Compiler options for XLA, by platform."""

from __future__ import annotations

# Since jax 0.10 XLA's CPU backend runs products, sums and convolutions with YNNPACK. That is faster for products and
# sums, but kernel gradients of convolutions take twice as long as with Eigen (docs/performance.md).
_CPU = {
    "xla_cpu_experimental_ynn_fusion_type": ",".join(
        f"LIBRARY_FUSION_TYPE_{kind}" for kind in ("DOT", "INDIVIDUAL_DOT", "REDUCE")
    )
}


def compiler_options(platform: str) -> dict[str, str]:
    """Options for ``jax.jit`` and ``Lowered.compile`` on a platform: ``cpu``, ``gpu`` or ``tpu``."""
    return _CPU if platform == "cpu" else {}


def first_state_options(platform: str) -> dict[str, str]:
    """Options for the program that makes the first state. It runs once, so optimising it takes longer than it saves."""
    return {"xla_backend_optimization_level": "0"} if platform == "cpu" else {}
