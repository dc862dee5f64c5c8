"""A test of the codes against N(0, I) by characteristic functions, on random lines."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from rvae_jax.losses import _arrays

# Of 17 knots on [-5, 5], those above 0: the integrand is even, and zero at 0.
_STEP = 0.625
_KNOTS = _STEP * np.arange(1, 9)
# Trapezoids on both sides of 0, under the density of N(0, 1).
_WEIGHTS = _STEP * np.exp(-0.5 * _KNOTS**2) / math.sqrt(2 * math.pi) * np.where(_KNOTS == 5.0, 1, 2)


def random_directions(key: jax.Array, count: int, latent_dim: int) -> jax.Array:
    """Directions for ``sliced_normality``, uniform on the sphere.

    Args:
      key: a JAX random key, equal on all devices.
      count: number of directions.
      latent_dim: d.

    Returns:
      ``[count, d]``, rows of length 1.

    Raises:
      ValueError: ``count`` is below 1.
    """
    _arrays.require_between("random_directions", 1, float("inf"), count=count)
    normal = jax.random.normal(key, (count, latent_dim))
    return normal / jnp.linalg.norm(normal, axis=1, keepdims=True)


def sliced_normality(
    mean: jax.Array, log_var: jax.Array | None, directions: jax.Array, *, axis_name: str | None = None
) -> jax.Array:
    """Squared distance of the codes' characteristic function from that of N(0, I), on lines through the origin.

    ``mean_u int |phi(t u) - exp(-t^2/2)|^2 w(t) dt`` over directions u, with ``phi(t u) = E exp(i t u^T z)`` and w the
    density of N(0, 1): the statistic of Epps and Pulley (1983) without its factor N, sliced as in SIGReg (Balestriero
    and LeCun, 2025). It is zero for N(0, I) alone, and so sees what the population KL does not, such as clusters,
    heavy tails, and dependence without correlation. Codes far away have little gradient; keep a KL beside it.

    With ``mean`` alone, z are the means. With ``log_var``, z is distributed as the mixture of the posteriors, and no
    sample is drawn: each posterior has ``phi_i(t u) = exp(i t u^T mean_i - t^2/2 sum_d u_d^2 s_id)``.

    ``|phi|^2`` is estimated by the pairs of different codes, ``(N |mean_i phi_i|^2 - mean_i |phi_i|^2) / (N - 1)``. So
    the estimate is unbiased, like its gradient, and can be negative. With all pairs it would be too high by up to
    1 / N, and lowest for codes that are too narrow.

    The integral is the trapezoidal rule with 17 knots on [-5, 5], exact to 3e-4 where codes lie within 6 of each other
    on every line. Its work is linear in N; the closed form takes all pairs.

    Args:
      mean: ``[b, d]``.
      log_var: natural logarithm of the variances, ``[b, d]``, or None.
      directions: ``[m, d]``, rows of length 1, equal on all devices; new ones in each step, see ``random_directions``.
      axis_name: mapped axis over which the batch is split into equal parts; the characteristic function is then that of
        the global batch.

    Returns:
      A scalar, at most 3 in size; 0.16 if all codes are 0.

    Raises:
      ValueError: the shapes do not match, or there is only one code.
    """
    _arrays.require_codes("sliced_normality", mean=mean, log_var=log_var)
    _arrays.require_rank("sliced_normality", 2, directions=directions)
    _arrays.require_shape("sliced_normality", "directions", directions, (jnp.shape(directions)[0], jnp.shape(mean)[1]))
    count = jnp.shape(mean)[0] * (1 if axis_name is None else jax.lax.axis_size(axis_name))
    if count < 2:
        raise ValueError(f"sliced_normality: expected at least 2 codes, got mean {jnp.shape(mean)}")
    mean, directions = _arrays.at_least_float32(mean), _arrays.at_least_float32(directions)
    knots, weights = (jnp.asarray(array, mean.dtype)[:, None] for array in (_KNOTS, _WEIGHTS))
    # By default, GPUs and TPUs multiply in TF32 or bfloat16.
    places = jnp.matmul(mean, directions.T, precision="highest")
    angle = knots[None] * places[:, None, :]  # [b, knots, m]
    size = jnp.ones_like(angle)
    if log_var is not None:
        var = jnp.exp(_arrays.guarded_log_var(log_var))
        var = jnp.matmul(var, jnp.square(directions).T, precision="highest")
        size = jnp.exp(-0.5 * jnp.square(knots)[None] * var[:, None, :])
    parts = jnp.stack([size * jnp.cos(angle), size * jnp.sin(angle), jnp.square(size)], axis=1)
    real, imaginary, own = _arrays.batch_mean(parts, axis_name)
    squared = (count * (jnp.square(real) + jnp.square(imaginary)) - own) / (count - 1)
    normal = jnp.exp(-0.5 * jnp.square(knots))
    return jnp.mean(jnp.sum(weights * (squared - 2.0 * real * normal + jnp.square(normal)), axis=0))
