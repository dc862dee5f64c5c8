"""The floating point operations of the networks, by the author's layers: the unit in which work is measured.

A convolution counts ``2 k^2 in out`` for each pixel of its result, a transposed one for each pixel of its input.
Nothing else counts; the two dense layers that make the code are too small. At 256x256 the paper's encoder has 162.2
GFLOP per image, its decoder 17.1, its discriminator 1.85. A program that skips work whose result is discarded, such as
three quarters of the second convolution of ``Down``, appears faster by this count.
"""

from __future__ import annotations

import itertools
import math

from rvae_jax.config import Config, ModelConfig


def of_step(config: Config) -> float:
    """FLOPs of a training step per image.

    A gradient costs twice as much as its function. The discriminator sees images and reconstructions once each (2). Its
    own gradient goes back through both (4); the VAE's goes back through the reconstructions, without the weights (1).
    """
    vae = 3 * (of_encoder(config.model) + of_decoder(config.model))
    return vae if config.loss.adversarial == "none" else vae + 7 * of_discriminator(config.model)


def of_encoder(model: ModelConfig) -> float:
    """FLOPs of encoding an image, without the dense layers that make the code.

    Counts the stem, the stages (identity blocks, then ``Down`` with two 3x3 convolutions at full resolution), the head.
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
    """FLOPs of decoding a code: dense layer, stem, stages (identity blocks, then ``Up``) and head."""
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
    """FLOPs of the discriminator's logits of one image."""
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
