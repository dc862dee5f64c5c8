"""The same networks in plain Flax: all layers are Flax's own, and JAX differentiates them."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from benchmarks.peers.ours import Ours
from rvae_jax.config import Config, ModelConfig, in_steps
from rvae_jax.data.pixels import to_float
from rvae_jax.models import Reconstruction
from rvae_jax.training.optimizer import make_optimizer
from rvae_jax.training.program import Program
from rvae_jax.training.state import TrainState, create_train_state
from rvae_jax.training.step import Metrics, make_train_step

NORM_LEAVES = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}

Norm = functools.partial(nn.BatchNorm, use_running_average=True, epsilon=1e-3, momentum=0.99)


def conv(filters: int, size: int, stride: int, dtype: jnp.dtype, name: str) -> nn.Conv:
    """Convolution, "same"."""
    return nn.Conv(filters, (size, size), (stride, stride), dtype=dtype, name=name)


class Block(nn.Module):
    """Residual block: ``identity``, ``down`` or ``up``."""

    kind: str
    filters: int
    dtype: jnp.dtype

    def _norm_relu(self, x: jax.Array, name: str) -> jax.Array:
        return nn.relu(Norm(dtype=self.dtype, name=name)(x))

    def _up(self, x: jax.Array, name: str) -> jax.Array:
        up = nn.ConvTranspose(self.filters, (3, 3), (2, 2), dtype=self.dtype, transpose_kernel=True, name=name)
        return up(x)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.kind == "up":
            h = conv(self.filters, 1, 1, self.dtype, "conv_1")(self._norm_relu(x, "bn_1"))
            h = self._up(self._norm_relu(h, "bn_2"), "convt_2")
            return h + self._up(self._norm_relu(x, "bn_3"), "convt_3")
        stride = 2 if self.kind == "down" else 1
        h = conv(self.filters, 3, 1, self.dtype, "conv_1")(self._norm_relu(x, "bn_1"))
        h = conv(self.filters, 3, 1, self.dtype, "conv_2")(self._norm_relu(h, "bn_2"))
        h = conv(self.filters, 1, stride, self.dtype, "conv_3")(self._norm_relu(h, "bn_3"))
        if self.kind == "identity":
            return x + h
        return h + conv(self.filters, 1, 2, self.dtype, "conv_4")(self._norm_relu(x, "bn_4"))


class Stage(nn.Module):
    """Identity blocks, then one that changes the size."""

    kind: str
    filters_in: int
    filters_out: int
    identity_blocks: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.identity_blocks):
            x = Block("identity", self.filters_in, self.dtype, name=f"identity_{i}")(x)
        return Block(self.kind, self.filters_out, self.dtype, name=self.kind)(x)


class InputNorm(nn.Module):
    """Normalises each channel of each image."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gamma = self.param("gamma", nn.initializers.ones, x.shape[1:3])
        beta = self.param("beta", nn.initializers.zeros, x.shape[1:3])
        mean, variance = jnp.mean(x, (1, 2), keepdims=True), jnp.var(x, (1, 2), keepdims=True)
        x = (x - mean) / jnp.sqrt(variance + 1e-3)
        return x * gamma[None, :, :, None] + beta[None, :, :, None]


class Encoder(nn.Module):
    """Images to features."""

    model: ModelConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        model = self.model
        if model.input_norm:
            x = InputNorm(name="norm")(x)
        x = conv(model.encoder_filters[0], 3, 1, self.dtype, "stem")(x)
        for i, (before, after) in enumerate(itertools.pairwise(model.encoder_filters)):
            x = Stage("down", before, after, model.encoder_identity_blocks, self.dtype, name=f"stage_{i}")(x)
        return conv(model.latent_dim // 8, 1, 1, self.dtype, "head")(x)


class Decoder(nn.Module):
    """Codes to images."""

    model: ModelConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        model = self.model
        height, width = (size >> (len(model.decoder_filters) - 1) for size in model.image_shape[:2])
        shape = (height, width, model.latent_dim // 8)
        x = nn.Dense(math.prod(shape), dtype=self.dtype, name="dense")(z).reshape(-1, *shape)
        x = conv(model.decoder_filters[0], 3, 1, self.dtype, "stem")(x)
        for i, (before, after) in enumerate(itertools.pairwise(model.decoder_filters)):
            x = Stage("up", before, after, model.decoder_identity_blocks, self.dtype, name=f"stage_{i}")(x)
        return conv(model.image_shape[2], 1, 1, self.dtype, "head")(x).astype(jnp.float32)


class Sampler(nn.Module):
    """Features to a Gaussian."""

    latent_dim: int

    @nn.compact
    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        flat = features.reshape(features.shape[0], -1).astype(jnp.float32)
        return nn.Dense(self.latent_dim, name="z_mean")(flat), nn.Dense(self.latent_dim, name="z_log_var")(flat)


class VAE(nn.Module):
    """Encoder, sampler, decoder."""

    config: ModelConfig
    dtype: jnp.dtype
    axis_name: None = None

    @nn.compact
    def __call__(self, x: jax.Array, noise: jax.Array, train: bool = False) -> Reconstruction:
        features = Encoder(self.config, self.dtype, name="encoder")(x)
        mean, log_var = Sampler(self.config.latent_dim, name="sampler")(features)
        z = mean + jnp.exp(0.5 * log_var) * noise
        return Reconstruction(Decoder(self.config, self.dtype, name="decoder")(z), mean, log_var)


class Layer(nn.Module):
    """Of the discriminator."""

    filters: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return Norm(dtype=self.dtype, name="bn")(conv(self.filters, 3, self.stride, self.dtype, "conv")(x))


class Discriminator(nn.Module):
    """Images to logits of patches."""

    model: ModelConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for i, (filters, stride) in enumerate(
            zip(self.model.discriminator_filters, self.model.discriminator_strides, strict=True)
        ):
            x = Layer(filters, stride, self.dtype, name=f"layer_{i}")(x if i == 0 else nn.leaky_relu(x, 0.3))
        return x.astype(jnp.float32)


class PlainFlax(Ours):
    """Flax's own layers, and our step."""

    name = "plain Flax"

    def our_name(self, name: str) -> str:
        path, leaf = name.rsplit("/", 1)
        return f"{path}/{NORM_LEAVES[leaf]}" if path.rsplit("/", 1)[1].startswith("bn") else name

    def compile(self, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        return lowered.compile()

    def make_program(self) -> Program:
        config: Config = self.config
        dtype = jnp.dtype(config.model.dtype)
        vae, discriminator = VAE(config.model, dtype), Discriminator(config.model, dtype)
        optimizer = make_optimizer(config.optimizer, config.steps)
        on_floats = make_train_step(vae, discriminator, optimizer, in_steps(config).loss)

        def train_step(state: TrainState, images: jax.Array, key: jax.Array) -> tuple[TrainState, Metrics]:
            return on_floats(state, to_float(images), key)

        return Program(
            vae,
            discriminator,
            optimizer,
            functools.partial(create_train_state, vae, discriminator, optimizer, ema=False),
            train_step,
        )
