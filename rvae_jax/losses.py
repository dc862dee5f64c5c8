"""The objective of "How to train your VAE", and what it is compared with.

Pure functions of arrays; this module imports JAX alone. Every function takes any float type, computes in at least
float32, and leaves the reduction over the batch to the caller (a result of shape ``[b]`` is one value an example).
KL terms are in nats per image. Arguments whose shapes do not match raise ``ValueError``; nothing broadcasts silently.

Range: values and gradients are finite for ``|mean| <= 1e15``, any finite ``log_var`` and ``|logits| <= 1e30``. Two
guards make that so. Each acts on the value only, while the gradient goes on as if it stood at the guard, so that it
still points back to the ordinary range:

* ``log v`` of a population variance is ``log max(v, VARIANCE_FLOOR)``, with gradient ``1 / max(v, VARIANCE_FLOOR)``;
* ``log_var`` is read as ``clip(log_var, LOG_VAR_MIN, LOG_VAR_MAX)``, with gradient one.

Source of the formulas: M. Rivera, "How to train your VAE", ICIP 2024 (arXiv 2309.13160), and its released code.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

VARIANCE_FLOOR = 1e-14
LOG_VAR_MIN = -1e30
LOG_VAR_MAX = 40.0

AdversarialKind = Literal["bce", "hinge"]


class Moments(NamedTuple):
    """Mean and variance of the population of codes, one value a latent dimension.

    Attributes:
      mean: ``[d]``.
      var: ``[d]``, with 1/N.
    """

    mean: jax.Array
    var: jax.Array


def l1_reconstruction(x_hat: jax.Array, x: jax.Array) -> jax.Array:
    """Mean absolute error of each image, ``mean_{h,w,c} |x - x_hat|``.

    Args:
      x_hat: reconstructions, ``[b, h, w, c]``.
      x: images, ``[b, h, w, c]``.

    Returns:
      ``[b]``, in the images' own unit (for images in [-1, 1]: from 0 to 2).

    Raises:
      ValueError: the shapes differ, or have no batch axis.
    """
    _require_same_shape("l1_reconstruction", x_hat=x_hat, x=x)
    _require_batch_axis("l1_reconstruction", x=x)
    error = jnp.abs(_at_least_float32(x) - _at_least_float32(x_hat))
    return jnp.mean(error, axis=tuple(range(1, error.ndim)))


def gaussian_kl(mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """KL(N(mean, s) || N(0, I)) of each image, ``sum_d 1/2 (mean^2 + s - 1 - log s)`` with ``s = exp(log_var)``.

    The KL of the standard VAE (Kingma and Welling, 2014).

    Args:
      mean: ``[b, d]``.
      log_var: natural logarithm of the variances, ``[b, d]``.

    Returns:
      ``[b]``, nats per image.

    Raises:
      ValueError: the shapes differ, or are not ``[b, d]``.
    """
    _require_same_shape("gaussian_kl", mean=mean, log_var=log_var)
    return variance_regularizer(log_var) + 0.5 * jnp.sum(jnp.square(_at_least_float32(mean)), axis=-1)


def variance_regularizer(log_var: jax.Array) -> jax.Array:
    """Pull of every posterior variance towards 1, ``sum_d 1/2 (s - 1 - log s)`` with ``s = exp(log_var)``.

    It is KL(N(0, s) || N(0, I)). The released code writes ``0.1 * mean_i sum_d (s - 1 - log s)``: a weight of 0.2 here.

    Args:
      log_var: natural logarithm of the variances, ``[b, d]``.

    Returns:
      ``[b]``, nats per image.

    Raises:
      ValueError: ``log_var`` is not ``[b, d]``.
    """
    _require_rank("variance_regularizer", 2, log_var=log_var)
    log_var = _clip_log_var(_at_least_float32(log_var))
    return 0.5 * jnp.sum(jnp.expm1(log_var) - log_var, axis=-1)


def batch_moments(mean: jax.Array, log_var: jax.Array | None = None, *, axis_name: str | None = None) -> Moments:
    """Mean and variance of the population of codes, estimated on the batch.

    With ``mean`` alone (convention "means", the released code's) the variance is ``Var_i(mean_i)``. With ``log_var``
    (convention "mixture") it is ``Var_i(mean_i) + mean_i(exp(log_var_i))``: the moments of the mixture
    ``1/N sum_i N(mean_i, exp(log_var_i))`` by the law of total variance. Both use 1/N and two passes.

    Under ``pmap``, ``shard_map`` or ``vmap`` give the mapped axis as ``axis_name``: the moments are then those of the
    global batch, and equal on every device. For right gradients the caller must also ``pmean`` the loss inside the
    differentiated function, and the gradients. Under ``jit`` with global arrays leave it None.

    Args:
      mean: ``[b, d]``.
      log_var: natural logarithm of the variances, ``[b, d]``, or None.
      axis_name: mapped axis over which the batch is split into equal parts.

    Returns:
      ``Moments`` with ``[d]`` each.

    Raises:
      ValueError: the shapes differ, or are not ``[b, d]``.
    """
    _require_rank("batch_moments", 2, mean=mean)

    def batch_mean(values: jax.Array) -> jax.Array:
        average = jnp.mean(values, axis=0)
        return average if axis_name is None else jax.lax.pmean(average, axis_name)

    mean = _at_least_float32(mean)
    population_mean = batch_mean(mean)
    population_var = batch_mean(jnp.square(mean - population_mean[None, :]))
    if log_var is not None:
        _require_same_shape("batch_moments", mean=mean, log_var=log_var)
        population_var += batch_mean(jnp.exp(_clip_log_var(_at_least_float32(log_var))))
    return Moments(population_mean, population_var)


def population_kl(moments: Moments) -> jax.Array:
    """KL(N(m, v) || N(0, I)) of the moment-matched Gaussian, ``sum_d 1/2 (m^2 + v - 1 - log v)``.

    With the "mixture" moments it bounds the KL of the mixture itself from below. With the "means" moments of N codes it
    overestimates, by -1/2 [digamma((N-1)/2) + log(2/N)] a dimension for Gaussian codes; that constant has no gradient.

    Args:
      moments: ``[d]`` each, see ``batch_moments``.

    Returns:
      A scalar, nats per image.

    Raises:
      ValueError: the shapes differ, or are not ``[d]``.
    """
    _require_same_shape("population_kl", mean=moments.mean, var=moments.var)
    _require_rank("population_kl", 1, mean=moments.mean)
    mean, var = (_at_least_float32(moment) for moment in moments)
    return 0.5 * jnp.sum(jnp.square(mean) + var - 1.0 - _floored_log(var))


def discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array, *, kind: AdversarialKind = "bce") -> jax.Array:
    """What the discriminator minimises: the real term plus the fake term, each a mean over patches, not halved.

    * ``bce``: ``softplus(-real) + softplus(fake)``, i.e. BCE-with-logits against 1 and 0 (Goodfellow et al., 2014);
    * ``hinge``: ``max(0, 1 - real) + max(0, 1 + fake)`` (Lim and Ye, 2017).

    Args:
      real_logits: logits of images, ``[b, ...]``, one a patch.
      fake_logits: logits of reconstructions, of the same shape.
      kind: ``bce`` or ``hinge``.

    Returns:
      ``[b]``, in nats for ``bce``.

    Raises:
      ValueError: the shapes differ, have no batch axis, or ``kind`` is unknown.
    """
    _require_same_shape("discriminator_loss", real_logits=real_logits, fake_logits=fake_logits)
    real, fake = _at_least_float32(real_logits), _at_least_float32(fake_logits)
    match kind:
        case "bce":
            return _mean_over_patches(jax.nn.softplus(-real)) + _mean_over_patches(jax.nn.softplus(fake))
        case "hinge":
            return _mean_over_patches(jax.nn.relu(1.0 - real)) + _mean_over_patches(jax.nn.relu(1.0 + fake))
    raise ValueError(f"discriminator_loss: kind is {kind!r}, expected 'bce' or 'hinge'")


def generator_loss(fake_logits: jax.Array, *, kind: AdversarialKind = "bce") -> jax.Array:
    """What the VAE minimises against the discriminator, a mean over patches.

    * ``bce``: ``softplus(-fake)``, the non-saturating form (Goodfellow et al., 2014);
    * ``hinge``: ``-fake`` (Lim and Ye, 2017).

    Args:
      fake_logits: logits of reconstructions, ``[b, ...]``, one a patch.
      kind: ``bce`` or ``hinge``.

    Returns:
      ``[b]``, in nats for ``bce``.

    Raises:
      ValueError: there is no batch axis, or ``kind`` is unknown.
    """
    fake = _at_least_float32(fake_logits)
    match kind:
        case "bce":
            return _mean_over_patches(jax.nn.softplus(-fake))
        case "hinge":
            return _mean_over_patches(-fake)
    raise ValueError(f"generator_loss: kind is {kind!r}, expected 'bce' or 'hinge'")


@jax.custom_jvp
def _floored_log(var: jax.Array) -> jax.Array:
    return jnp.log(jnp.maximum(var, VARIANCE_FLOOR))


@_floored_log.defjvp
def _floored_log_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (var,), (tangent,) = primals, tangents
    return _floored_log(var), tangent / jnp.maximum(var, VARIANCE_FLOOR)


@jax.custom_jvp
def _clip_log_var(log_var: jax.Array) -> jax.Array:
    return jnp.clip(log_var, LOG_VAR_MIN, LOG_VAR_MAX)


@_clip_log_var.defjvp
def _clip_log_var_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return _clip_log_var(*primals), tangents[0]


def _at_least_float32(array: jax.Array) -> jax.Array:
    array = jnp.asarray(array)
    return array if array.dtype == jnp.float64 else array.astype(jnp.float32)


def _mean_over_patches(values: jax.Array) -> jax.Array:
    _require_batch_axis("adversarial loss", logits=values)
    return jnp.mean(values.reshape(values.shape[0], -1), axis=-1)


def _require_same_shape(function: str, **arrays: jax.Array) -> None:
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{function}: shapes must be equal, got {listed}")


def _require_rank(function: str, rank: int, **arrays: jax.Array) -> None:
    for name, array in arrays.items():
        if jnp.ndim(array) != rank:
            raise ValueError(f"{function}: {name} must have {rank} axes, got shape {jnp.shape(array)}")


def _require_batch_axis(function: str, **arrays: jax.Array) -> None:
    for name, array in arrays.items():
        if jnp.ndim(array) == 0:
            raise ValueError(f"{function}: {name} must have a leading batch axis, got a scalar")
