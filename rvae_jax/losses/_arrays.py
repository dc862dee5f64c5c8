"""Shared by the loss functions: precision, guards, checks of shapes, and reductions over devices."""

import math
import numbers

import jax
import jax.numpy as jnp

VARIANCE_FLOOR = 1e-14
LOG_VAR_MIN = -1e30
LOG_VAR_MAX = 40.0
LOG_VARIANCE_FLOOR = math.log(VARIANCE_FLOOR)
SQUARE_MAX = 1e15


def as_float(array: jax.Array) -> jax.Array:
    """``array`` in float32, or in float64 if it is float64; raises a ValueError if it is complex."""
    array = jnp.asarray(array)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"expected real numbers, got {array.dtype}")
    return array if array.dtype == jnp.float64 else array.astype(jnp.float32)


def at_least_float32(array: jax.Array) -> jax.Array:
    """As ``as_float``, with NaN, and a gradient of NaN, for what is not finite: no guard or comparison hides it."""
    array = as_float(array)
    one, nan = (jnp.array(number, array.dtype) for number in (1, jnp.nan))
    return array * jnp.where(jnp.isfinite(array), one, nan)


@jax.custom_jvp
def straight_through(value: jax.Array, gradient_of: jax.Array) -> jax.Array:
    """``value``, with the derivative of ``gradient_of``; both have the same shape and type."""
    del gradient_of
    return value


@straight_through.defjvp
def _straight_through_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return straight_through(*primals), tangents[1]


def guard(array: jax.Array, low: float, high: float) -> jax.Array:
    """``clip(array, low, high)`` with gradient one."""
    return straight_through(jnp.clip(array, low, high), array)


def guarded_log_var(log_var: jax.Array) -> jax.Array:
    """``log_var`` in at least float32, limited so that its exponential is finite."""
    return guard(at_least_float32(log_var), LOG_VAR_MIN, LOG_VAR_MAX)


def guarded_square(array: jax.Array) -> jax.Array:
    """The square, finite for any finite number."""
    return jnp.square(guard(array, -SQUARE_MAX, SQUARE_MAX))


def floored(var: jax.Array) -> jax.Array:
    """``max(var, VARIANCE_FLOOR)`` with gradient one."""
    return straight_through(jnp.maximum(var, VARIANCE_FLOOR), var)


def batch_mean(values: jax.Array, axis_name: str | None) -> jax.Array:
    """Mean over the first axis, and over the devices if ``axis_name`` is given."""
    average = jnp.mean(values, axis=0)
    return average if axis_name is None else jax.lax.pmean(average, axis_name)


def batch_outer(vectors: jax.Array, axis_name: str | None) -> jax.Array:
    """Mean over the batch, and over the devices, of the outer product of each row ``[d]`` with itself: ``[d, d]``."""
    # By default, GPUs and TPUs multiply in TF32 or bfloat16.
    average = jnp.matmul(vectors.T, vectors, precision="highest") / vectors.shape[0]
    return average if axis_name is None else jax.lax.pmean(average, axis_name)


def batch_mean_var(log_var: jax.Array, axis_name: str | None) -> jax.Array:
    """Mean over the batch, and over the devices, of the variances: ``[d]``."""
    return batch_mean(jnp.exp(guarded_log_var(log_var)), axis_name)


def global_batch(local: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """The parts ``[b, ...]`` of all n devices, concatenated to ``[n b, ...]``; and the rows ``[b]`` of this device.

    This is an ``all_gather`` written as a sum, so that ``shard_map(check_vma=True)`` knows that the result is equal on
    all devices.
    """
    rows = jnp.arange(local.shape[0])
    if axis_name is None:
        return local, rows
    rows += local.shape[0] * jax.lax.axis_index(axis_name)
    parts = jnp.zeros((local.shape[0] * jax.lax.axis_size(axis_name), *local.shape[1:]), local.dtype)
    return jax.lax.psum(parts.at[rows].set(local), axis_name), rows


def mean_over_rest(function: str, values: jax.Array) -> jax.Array:
    """Mean over all axes but the first."""
    require_batch_axis(function, values=values)
    return jnp.mean(values.reshape(values.shape[0], -1), axis=-1)


def sum_over_rest(function: str, values: jax.Array) -> jax.Array:
    """Sum over all axes but the first."""
    require_batch_axis(function, values=values)
    return jnp.sum(values.reshape(values.shape[0], -1), axis=-1)


def covariance(function: str, mean: jax.Array, cov: jax.Array) -> jax.Array:
    """``cov`` in at least float32; raises a ValueError unless ``mean`` is ``[d]`` and ``cov`` ``[d, d]``."""
    require_rank(function, 1, mean=mean)
    require_shape(function, "cov", cov, jnp.shape(mean) * 2)
    return at_least_float32(cov)


def require_same_shape(function: str, **arrays: jax.Array) -> None:
    """Raises a ValueError with every shape, unless all are equal."""
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{function}: shapes must be equal, got {listed}")


def require_shape(function: str, name: str, array: jax.Array, shape: tuple[int, ...]) -> None:
    """Raises a ValueError with both shapes, unless ``array`` has ``shape``."""
    if jnp.shape(array) != shape:
        raise ValueError(f"{function}: {name} must have shape {shape}, got {jnp.shape(array)}")


def require_rank(function: str, rank: int, **arrays: jax.Array) -> None:
    """Raises a ValueError with the shape, unless every array has ``rank`` axes."""
    for name, array in arrays.items():
        if jnp.ndim(array) != rank:
            raise ValueError(f"{function}: {name} must have {rank} axes, got shape {jnp.shape(array)}")


def require_codes(function: str, **arrays: jax.Array | None) -> None:
    """Raises a ValueError with the shapes, unless all arrays except None are ``[b, d]`` with the same b and d."""
    given = {name: array for name, array in arrays.items() if array is not None}
    require_same_shape(function, **given)
    require_rank(function, 2, **given)
    require_any(function, **given)


def require_batch_axis(function: str, **arrays: jax.Array) -> None:
    """Raises a ValueError unless every array has a first axis that is not empty."""
    for name, array in arrays.items():
        if jnp.ndim(array) == 0:
            raise ValueError(f"{function}: {name} must have a leading batch axis, got a scalar")
    require_any(function, **arrays)


def require_any(function: str, **arrays: jax.Array) -> None:
    """Raises a ValueError if the first axis of an array is empty."""
    for name, array in arrays.items():
        if jnp.shape(array)[0] == 0:
            raise ValueError(f"{function}: {name} is empty, with shape {jnp.shape(array)}; expected at least one image")


def require_between(function: str, low: float, high: float, **known_or_traced: float | jax.Array) -> None:
    """Raises a ValueError unless every number is in [low, high]; traced numbers are not checked."""
    for name, number in known_or_traced.items():
        if isinstance(number, numbers.Real) and not low <= number <= high:
            raise ValueError(f"{function}: {name} is {number:g}, expected {low:g} to {high:g}")


def require_decay(function: str, decay: float | jax.Array) -> None:
    """Raises a ValueError unless ``decay`` is in [0, 1); a traced one is not checked."""
    if isinstance(decay, numbers.Real) and not 0 <= decay < 1:
        raise ValueError(f"{function}: decay is {decay}, expected 0 <= decay < 1")
