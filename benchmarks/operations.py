"""The floating point operations of the networks, as the author's program does them: what work is measured by.

A convolution has ``2 k^2 in out`` for every pixel of its result, a transposed one for every pixel of its input, and
nothing else counts; the two dense layers that make the code are too small to. At 256x256 the paper's encoder has
162.2 G an image, its decoder 17.1 G, its discriminator 1.85 G. A program that leaves out what is then thrown away, such
as three quarters of ``Down``'s second convolution, does fewer, which shows as speed.
"""

from __future__ import annotations

import itertools
import math

from rvae_jax.config import Config, ModelConfig


def of_step(config: Config) -> float:
    """FLOPs of a training step for an image.

    A gradient costs twice what its function does. Images and reconstructions go through the discriminator once each;
    backwards it is gone through for its own weights with both, and for the VAE with the latter, not for the weights.
    """
    vae = 3 * (of_encoder(config.model) + of_decoder(config.model))
    return vae if config.loss.adversarial == "none" else vae + 7 * of_discriminator(config.model)


def of_encoder(model: ModelConfig) -> float:
    """FLOPs of encoding an image, up to the features that the code is made of.

    The stem, the stages (identity blocks, then ``Down`` with two 3x3 convolutions at full resolution), the head.
    """
    height, width, channels = model.image_shape
    pixels = height * width
    total = _convolution(3, channels, model.encoder_filters[0], pixels)
    for before, after in itertools.pairwise(model.encoder_filters):
        total += model.encoder_identity_blocks * _identity(before, pixels)
        total += _convolution(3, before, after, pixels) + _convolution(3, after, after, pixels)
        pixels //= 4
        total += _convolution(1, after, after, pixels) + _convolution(1, before, after, pixels)
    return total + _convolution(1, model.encoder_filters[-1], model.latent_dim // 8, pixels)


def of_decoder(model: ModelConfig) -> float:
    """FLOPs of decoding a code: the dense layer, the stem, the stages (identity blocks, then ``Up``), the head."""
    height, width, channels = model.image_shape
    pixels = height * width // 4 ** (len(model.decoder_filters) - 1)
    total = 2.0 * model.latent_dim * pixels * (model.latent_dim // 8)
    total += _convolution(3, model.latent_dim // 8, model.decoder_filters[0], pixels)
    for before, after in itertools.pairwise(model.decoder_filters):
        total += model.decoder_identity_blocks * _identity(before, pixels)
        total += _convolution(1, before, after, pixels) + _convolution(3, after, after, pixels)
        total += _convolution(3, before, after, pixels)
        pixels *= 4
    return total + _convolution(1, channels, channels, pixels)


def of_discriminator(model: ModelConfig) -> float:
    """FLOPs of the logits of an image's patches."""
    height, width, before = model.image_shape
    total = 0.0
    for after, stride in zip(model.discriminator_filters, model.discriminator_strides, strict=True):
        height, width = math.ceil(height / stride), math.ceil(width / stride)
        total += _convolution(3, before, after, height * width)
        before = after
    return total


def _identity(filters: int, pixels: int) -> float:
    return 2 * _convolution(3, filters, filters, pixels) + _convolution(1, filters, filters, pixels)


def _convolution(size: int, filters_in: int, filters_out: int, pixels: int) -> float:
    return 2.0 * size**2 * filters_in * filters_out * pixels
