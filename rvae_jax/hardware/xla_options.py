"""What XLA is told beside the program."""

from __future__ import annotations

# Since jax 0.10 XLA's CPU backend runs products, sums and convolutions with YNNPACK. That is faster for the first two,
# but not for convolutions: their kernel gradients take twice as long as with Eigen (docs/performance.md).
_CPU = {
    "xla_cpu_experimental_ynn_fusion_type": ",".join(
        f"LIBRARY_FUSION_TYPE_{kind}" for kind in ("DOT", "INDIVIDUAL_DOT", "REDUCE")
    )
}


def compiler_options(platform: str) -> dict[str, str]:
    """Options for ``jax.jit`` and ``Lowered.compile``, on devices of a platform: ``cpu``, ``gpu``, ``tpu``."""
    return _CPU if platform == "cpu" else {}


def first_state_options(platform: str) -> dict[str, str]:
    """The same for the program of a first state, which runs once: optimising it takes longer than it could save."""
    return {"xla_backend_optimization_level": "0"} if platform == "cpu" else {}
