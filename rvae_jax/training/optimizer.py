"""The optimizer of both players."""

from __future__ import annotations

import optax

from rvae_jax.config import OptimizerConfig, steps_of


def learning_rate_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then constant, or a cosine that reaches 0 at ``steps``."""
    rate, warmup = config.learning_rate, steps_of(config.warmup, steps)
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(rate, max(1, steps - warmup))
    else:
        after = optax.constant_schedule(rate)
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(rate / warmup, rate, warmup - 1), after], [warmup])


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Adam, as optax has it: ``rate * m_hat / (sqrt(v_hat) + epsilon)``, after clipping by the global norm if asked.

    Keras, which the author used, adds epsilon to the root of the *uncorrected* second moment: its epsilon acts as
    ``epsilon / sqrt(1 - beta2^t)`` here, 32 times as large at the first step. So at the author's epsilon of 1e-7 our
    first steps are larger where gradients are tiny: 1.3 times at |g| = 1e-5, 3.8 times at 1e-6. The difference fades
    as t grows towards 1 / (1 - beta2) and beyond.
    """
    adam = optax.adam(learning_rate_schedule(config, steps), b1=config.beta1, b2=config.beta2, eps=config.epsilon)
    return adam if config.clip_norm is None else optax.chain(optax.clip_by_global_norm(config.clip_norm), adam)


def discriminator_pace(config: OptimizerConfig) -> float:
    """The discriminator's learning rate over the VAE's; Adam's updates are proportional to the rate."""
    rate = config.discriminator_learning_rate
    return 1.0 if rate is None else rate / config.learning_rate
