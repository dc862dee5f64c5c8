"""The start from the principal components of the training images; see ``models.linear`` and docs/objective.md."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rvae_jax.config import LossConfig
from rvae_jax.data import images as pixels
from rvae_jax.data import pipeline
from rvae_jax.data.pixels import to_float
from rvae_jax.distributed.sharding import AXIS
from rvae_jax.models.linear import reduction
from rvae_jax.system.units import format_duration
from rvae_jax.training.run import Run
from rvae_jax.training.state import TrainState

# The images that are looked at. At 64x64 in colour they need 200 MB, over all devices.
_MOST_IMAGES = 16_384
# Augmentation shows more than the images themselves.
_LEAST_AUGMENTED = 8_192
_CHUNK = 512
_POWER_ITERATIONS = 3
_LEAST_LOG_VAR = -10.0


class PrincipalComponents(NamedTuple):
    """Principal components of n images of D numbers each.

    Attributes:
      mean: ``[D]``.
      components: orthonormal, by falling variance, ``[d, D]``; 0 beyond the rank of the images.
      deviations: of the images along each component, with 1/n, ``[d]``; 0 beyond the rank.
      explained: share of the variance that all d components have.
      error: mean absolute error of the reconstruction from d components.
    """

    mean: jax.Array
    components: jax.Array
    deviations: jax.Array
    explained: jax.Array
    error: jax.Array


def set_linear_path(run: Run, state: TrainState) -> TrainState:
    """Sets the linear path of a first state to the principal components of what training shows, augmentation included.

    The biases of the log variances, whose kernels are zero, become ``start_log_var``.
    """
    config, began = run.config, time.monotonic()
    print("Computing the principal components of the training images", flush=True)
    images = _reduced_images(run)
    found = principal_components(images, config.model.latent_dim, run.init_key)
    count = images.shape[0] * images.shape[1]
    rank = int(jnp.sum(found.deviations > 0))
    print(
        f"The linear path starts as {rank} principal components of {count:,} images as training shows them, which"
        f" have {float(found.explained):.1%} of the variance and an L1 of {float(found.error):.4f};"
        f" {format_duration(time.monotonic() - began)}"
    )
    if rank < config.model.latent_dim:
        print(f"Warning: the images vary in {rank} directions only; other dimensions of the code start as constants")
    shape = state.linear_path["mean_image"].shape
    arrays = {
        "mean_image": found.mean.reshape(shape),
        "components": found.components.reshape(-1, *shape),
        "deviations": found.deviations,
    }
    return state.with_start(arrays, start_log_var(found, config.loss))


def start_log_var(found: PrincipalComponents, loss: LossConfig) -> jax.Array:
    """Log variances of the posterior with the least loss for a linear decoder, ``[d]``, from -10 to 0.

    Noise of variance s in code k adds ``s_k^2 s`` to the squared error summed over an image, s_k being the deviation
    along component k, and so about ``c s_k^2 s`` to the weighted reconstruction. With the weight of the variances'
    term, r, and its target t, the loss has its minimum at ``s = 1 / (1/t + 2 c s_k^2 / r)``.
    """
    weight, target = (loss.beta, 1.0) if loss.kl == "standard" else (loss.variance_weight, loss.variance_target)
    cost = _cost_of_noise(found, loss) * jnp.square(found.deviations)
    log_var = -jnp.log(1.0 / target + 2.0 * cost / max(weight, 1e-12))
    return jnp.clip(log_var, _LEAST_LOG_VAR, 0.0)


def _cost_of_noise(found: PrincipalComponents, loss: LossConfig) -> jax.Array:
    """What a unit of squared error, summed over an image, adds to the weighted reconstruction: c of ``start_log_var``.

    The residuals are those of the components; in a mean absolute error they count as Laplacian, of density
    ``1 / (2 error)`` at zero.
    """
    error, size = jnp.maximum(found.error, 1e-6), found.mean.size
    match loss.reconstruction:
        case "l1":
            cost = 0.5 / error / size
        case "l2":
            cost = jnp.float32(1.0 / size)
        case "laplace":
            cost = 0.5 / jnp.square(error)
        case "gaussian":
            residual = jnp.sum(jnp.square(found.deviations)) * (1.0 / found.explained - 1.0)  # summed over an image
            cost = 0.5 * size / jnp.maximum(residual, 1e-6 * size)
    return loss.reconstruction_weight * cost


@functools.partial(jax.jit, static_argnums=1)
def principal_components(images: jax.Array, count: int, key: jax.Array) -> PrincipalComponents:
    """The first principal components of images, by randomised subspace iteration (Halko et al., 2011).

    It is exact where ``count`` and some more are as many as the numbers of an image.

    Args:
      images: uint8 ``[k, b, D]``, of which one ``[b, D]`` at a time becomes floats; they may be split over devices.
      count: d.
      key: a JAX random key, for the first subspace.
    """
    total, size = images.shape[0] * images.shape[1], images.shape[2]
    product = functools.partial(jnp.matmul, precision="highest")

    def sum_over(function: Callable[[jax.Array], jax.Array], like: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda sums, part: (sums + function(to_float(part)), None), like, images)[0]

    mean = sum_over(lambda part: jnp.sum(part, axis=0), jnp.zeros(size)) / total
    variance = sum_over(lambda part: jnp.sum(jnp.square(part - mean[None])), jnp.zeros(())) / total

    def covariance_times(basis: jax.Array) -> jax.Array:
        def one(part: jax.Array) -> jax.Array:
            part = part - mean[None]
            return product(part.T, product(part, basis))

        return sum_over(one, jnp.zeros_like(basis)) / total

    def orthonormal(basis: jax.Array) -> jax.Array:
        return jnp.linalg.qr(basis)[0]

    width = min(size, count + max(16, count // 4))
    basis = orthonormal(jax.random.normal(key, (size, width)))
    basis = jax.lax.fori_loop(0, _POWER_ITERATIONS, lambda _, basis: orthonormal(covariance_times(basis)), basis)
    variances, axes = jnp.linalg.eigh(product(basis.T, covariance_times(basis)))
    variances, components = variances[::-1][:count], product(basis, axes[:, ::-1][:, :count]).T
    if width < count:  # images of fewer numbers than codes
        variances = jnp.pad(variances, (0, count - width))
        components = jnp.pad(components, ((0, count - width), (0, 0)))
    # The sign is free: the largest entry is positive.
    largest = jnp.take_along_axis(components, jnp.argmax(jnp.abs(components), axis=1)[:, None], axis=1)
    is_used = variances > 1e-6 * variances[0]
    components = jnp.where(is_used[:, None], components * jnp.sign(largest), 0.0)
    variances = jnp.where(is_used, variances, 0.0)

    def absolute_error(part: jax.Array) -> jax.Array:
        part = part - mean[None]
        return jnp.mean(jnp.abs(part - product(product(part, components.T), components)))

    error = sum_over(absolute_error, jnp.zeros(())) / images.shape[0]
    return PrincipalComponents(mean, components, jnp.sqrt(variances), jnp.sum(variances) / variance, error)


def _reduced_images(run: Run) -> jax.Array:
    """Images as training shows them, at the linear path's resolution: uint8 ``[k, b, D]`` over the devices."""
    config, source = run.config, run.sources["train"]
    height, width, _ = config.model.image_shape
    factor = reduction(height, width)
    is_augmented = config.data.flip or config.data.jitter > 0
    wanted = min(max(2 * len(source), _LEAST_AUGMENTED) if is_augmented else len(source), _MOST_IMAGES)
    batches = pipeline.train_batches(source, config, 0, jax.process_index(), jax.process_count())

    def flat(image: np.ndarray) -> np.ndarray:
        return pixels.resize(image, height // factor, width // factor).reshape(-1) if factor > 1 else image.reshape(-1)

    # Products of many images at a time are several times as fast as of few.
    group = -(-_CHUNK // config.batch_size)
    count = -(-wanted // (group * config.batch_size)) * group
    rows = np.stack([np.stack([*map(flat, batch)]) for batch in itertools.islice(batches, count)])
    chunks = rows.reshape(count // group, -1, rows.shape[-1])
    sharding = NamedSharding(run.layout.mesh, PartitionSpec(None, AXIS))
    return jax.make_array_from_process_local_data(sharding, chunks)
