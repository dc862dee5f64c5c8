"""The adaptive weight of the generator's loss, from the lengths of gradients in the reconstructions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from rvae_jax import losses

if TYPE_CHECKING:
    from rvae_jax.config import LossConfig

Lengths = dict[str, jax.Array]  # mean squared lengths of gradients by term

# Of the averages: they remember some hundred steps.
DECAY = 0.99


def first_lengths() -> Lengths:
    """Zeros: averages before the first step, and what ``measure`` takes the gradient in."""
    return {"reconstruction": jnp.zeros(()), "adversarial": jnp.zeros(())}


def average_lengths(averages: Lengths, new: Lengths) -> Lengths:
    """The averages after one more step."""
    return jax.tree.map(lambda average, each: DECAY * average + (1.0 - DECAY) * each, averages, new)


def adaptive_factor(loss: LossConfig, averages: Lengths) -> jax.Array:
    """Factor that makes the generator's gradient in a reconstruction as long as that of the terms of likeness.

    The lengths are root mean squares over images and past steps, so that no single batch decides, and a discriminator
    that gets stronger lowers the factor at once. The factor is at most 1e4, and 0 at the first step, before anything is
    measured. VQGAN (Esser et al., 2021) compares gradients in the decoder's last weights, in the latest batch.
    """
    # The averages begin at 0 and are too small by one common factor, which the ratio does not have.
    reconstruction, adversarial = (jnp.sqrt(averages[name]) for name in ("reconstruction", "adversarial"))
    return losses.adaptive_generator_weight(reconstruction, adversarial / (1.0 - loss.prior_fakes))


def measure(fakes: list[jax.Array], lengths: Lengths, weight: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
    """The reconstructions for the terms of likeness, and the fakes for the discriminator, with gradients measured.

    The gradient of a loss in ``lengths`` is the mean, over images, of the squared length of the gradient that an
    image's own loss has in its reconstruction. On its way back to the VAE, the discriminator's gradient is multiplied
    by ``weight``, after it is measured.

    Args:
      fakes: reconstructions and, if there are any, samples.
      lengths: of ``first_lengths``.
      weight: scalar.
    """
    x_hat, *samples = fakes
    alike = _measured(x_hat, lengths["reconstruction"], jnp.ones(()))
    judged = [_measured(x_hat, lengths["adversarial"], weight)]
    return alike, judged + [_measured(images, jnp.zeros(()), weight) for images in samples]


@jax.custom_vjp
def _measured(images: jax.Array, square: jax.Array, weight: jax.Array) -> jax.Array:
    del square, weight
    return images


def _measured_forward(images: jax.Array, square: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    del square
    return images, weight


def _measured_backward(weight: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    # The cotangent is of the mean over b images: b times it belongs to each image's own loss.
    square = cotangent.shape[0] * jnp.sum(jnp.square(cotangent))
    return weight * cotangent, square, jnp.zeros_like(weight)


_measured.defvjp(_measured_forward, _measured_backward)
