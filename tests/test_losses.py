import functools
import itertools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import strategies
from jax.sharding import Mesh, PartitionSpec
from reference import FIXTURE, LOSSES, relative_error, under

from rvae_jax import losses
from rvae_jax.losses import Moments

FLOAT32 = np.finfo(np.float32)

# The author's name of each loss: ours, of his inputs, and the inputs that he differentiates it in.
TERMS = {
    "rec_loss": (
        lambda a: a["r_loss_factor"] * jnp.mean(losses.l1_reconstruction(a["data_hat"], a["data"])),
        ["data_hat"],
    ),
    "kl_loss": (lambda a: losses.population_kl(losses.batch_moments(a["z_mean"])), ["z_mean", "z_log_var"]),
    "kl_loss_ind": (lambda a: 0.2 * jnp.mean(losses.variance_regularizer(a["z_log_var"])), ["z_mean", "z_log_var"]),
    "baseline_kl_loss": (
        lambda a: jnp.mean(losses.gaussian_kl(a["z_mean"], a["z_log_var"])),
        ["z_mean", "z_log_var"],
    ),
    "rl_dis_loss": (lambda a: 100 * jnp.mean(losses.generator_loss(a["logits_real"])), []),
    "fk_dis_loss": (lambda a: 100 * jnp.mean(losses.generator_loss(-a["logits_fake"])), []),
    "fk_gen_loss": (lambda a: 100 * jnp.mean(losses.generator_loss(a["logits_fake"])), ["logits_fake"]),
    "dis_loss": (
        lambda a: 100 * jnp.mean(losses.discriminator_loss(a["logits_real"], a["logits_fake"])),
        ["logits_real", "logits_fake"],
    ),
}
# One more case: what the networks of the other file give.
GIVEN = under(FIXTURE, "out/") | under(FIXTURE, "step/") | {"data": FIXTURE["in/x"], "r_loss_factor": np.float32(5000)}
GIVEN["data_hat"] = GIVEN["decoder_z_given"]
LOSSES = LOSSES | {f"given/in/{name}": GIVEN[name] for name in under(LOSSES, "rand_r1/in/")}
LOSSES |= {key: array for key, array in FIXTURE.items() if key.startswith("given/")}
CASES = sorted({key.split("/")[0] for key in LOSSES if key.startswith(("rand_", "edge_", "given"))})
NOT_FINITE = [
    ("edge_all_zero_latent", "kl_loss"),
    ("edge_batch1", "kl_loss"),
    ("edge_identical_means", "kl_loss"),
    ("edge_one_constant_dim", "kl_loss"),
    ("edge_huge_logvar", "kl_loss_ind"),
    ("edge_huge_logvar", "baseline_kl_loss"),
]
# Ten codes near 1000, 1e-3 apart: float32 knows their mean to 1e-4, depending on the order of summation.
ROUNDED = "edge_near_constant_big_offset"


def _value_and_gradients(case, term):
    inputs = under(LOSSES, f"{case}/in/")
    function, names = TERMS[term]
    chosen = {name: inputs[name] for name in names}
    return jax.jit(jax.value_and_grad(lambda chosen: function(inputs | chosen)))(chosen)


@pytest.mark.parametrize(("case", "term"), [pair for pair in itertools.product(CASES, TERMS) if pair not in NOT_FINITE])
def test_equals_the_released_code(case, term, record_property):
    value, gradients = _value_and_gradients(case, term)
    error = relative_error(value, LOSSES[f"{case}/loss/{term}"])
    errors = [relative_error(gradient, LOSSES[f"{case}/grad/{term}/{name}"]) for name, gradient in gradients.items()]
    record_property("error", max([error, *errors]))
    assert error <= 5e-6
    assert max(errors, default=0) <= (0.1 if (case, term) == (ROUNDED, "kl_loss") else 5e-6)


@pytest.mark.parametrize(("case", "term"), NOT_FINITE)
def test_finite_where_the_released_code_is_not(case, term):
    value, gradients = _value_and_gradients(case, term)
    assert not np.isfinite(LOSSES[f"{case}/loss/{term}"])
    assert np.isfinite(value)
    for name, gradient in gradients.items():
        theirs = LOSSES[f"{case}/grad/{term}/{name}"]
        assert np.isfinite(gradient).all()
        if case != "edge_identical_means":  # its codes differ by rounding alone
            same = np.isfinite(theirs) & (LOSSES[f"{case}/in/z_log_var"] <= losses.LOG_VAR_MAX)
            assert relative_error(gradient[same], theirs[same]) <= 5e-6


@pytest.mark.parametrize("case", CASES)
def test_moments_equal_the_released_codes(case):
    moments = losses.batch_moments(under(LOSSES, f"{case}/in/")["z_mean"])
    mean, log_var = (LOSSES[f"{case}/loss/{name}"] for name in ("Z_mean", "Z_log_var"))
    constant = np.isneginf(log_var)
    assert relative_error(moments.mean, mean) <= 5e-7
    assert np.all(moments.var[constant] == 0)
    if case != "edge_identical_means":
        difference = np.log(moments.var[~constant]) - log_var[~constant]
        assert np.max(np.abs(difference), initial=0) <= (0.1 if case == ROUNDED else 5e-6)


def _softplus(x):
    return np.logaddexp(0.0, x)


def _hinge(x):
    return np.maximum(0.0, 1.0 + x)


def _patches(x):
    return x.reshape(len(x), -1).mean(1)


def _moments(mean, log_var=None):
    added = 0.0 if log_var is None else np.exp(log_var).mean(0)
    return np.stack([mean.mean(0), ((mean - mean.mean(0)) ** 2).mean(0) + added])


def _kl(mean, variance):
    return 0.5 * (mean**2 + variance - 1 - np.log(variance)).sum(-1)


IMAGES, CODES, LOGITS, MOMENTS = (5, 4, 3, 2), (5, 4), (5, 3, 2, 1), (6,)

# Our function, the same in NumPy, and the shapes of its arguments.
FUNCTIONS = {
    "l1_reconstruction": (losses.l1_reconstruction, lambda x_hat, x: _patches(np.abs(x - x_hat)), [IMAGES, IMAGES]),
    "gaussian_kl": (losses.gaussian_kl, lambda mean, log_var: _kl(mean, np.exp(log_var)), [CODES, CODES]),
    "variance_regularizer": (losses.variance_regularizer, lambda log_var: _kl(0.0, np.exp(log_var)), [CODES]),
    "batch_moments of means": (lambda mean: jnp.stack(losses.batch_moments(mean)), _moments, [CODES]),
    "batch_moments of the mixture": (
        lambda mean, log_var: jnp.stack(losses.batch_moments(mean, log_var)),
        _moments,
        [CODES, CODES],
    ),
    "population_kl": (
        lambda mean, signed: losses.population_kl(Moments(mean, jnp.abs(signed))),
        lambda mean, signed: _kl(mean, np.abs(signed)),
        [MOMENTS, MOMENTS],
    ),
    "discriminator_loss bce": (
        losses.discriminator_loss,
        lambda real, fake: _patches(_softplus(-real)) + _patches(_softplus(fake)),
        [LOGITS, LOGITS],
    ),
    "discriminator_loss hinge": (
        functools.partial(losses.discriminator_loss, kind="hinge"),
        lambda real, fake: _patches(_hinge(-real)) + _patches(_hinge(fake)),
        [LOGITS, LOGITS],
    ),
    "generator_loss bce": (losses.generator_loss, lambda fake: _patches(_softplus(-fake)), [LOGITS]),
    "generator_loss hinge": (
        functools.partial(losses.generator_loss, kind="hinge"),
        lambda fake: -_patches(fake),
        [LOGITS],
    ),
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def _arrays(shapes, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [rng.normal(0.3, 1.5, shape).astype(np.float32).astype(dtype) for shape in shapes]


@every_function
def test_value_equals_numpy_in_float64_and_in_float32(name):
    function, oracle, shapes = FUNCTIONS[name]
    arrays = _arrays(shapes)
    expected = oracle(*arrays)
    ours = jax.jit(function)(*(array.astype(np.float32) for array in arrays))
    assert ours.dtype == np.float32
    assert relative_error(ours, expected) <= 1e-6
    with jax.enable_x64(True):
        ours = jax.jit(function)(*arrays)
        assert ours.dtype == np.float64
        assert relative_error(ours, expected) <= 1e-14


@every_function
def test_gradient_equals_finite_differences_of_numpy(name):
    function, oracle, shapes = FUNCTIONS[name]
    arrays = _arrays(shapes)
    weights = np.random.default_rng(1).normal(size=oracle(*arrays).shape)
    step = 1e-5
    with jax.enable_x64(True):
        gradient = jax.grad(lambda arrays: jnp.sum(weights * function(*arrays)))
        ours = jax.jit(gradient)(arrays)
    for array, exact in zip(arrays, ours, strict=True):
        numeric = np.empty_like(array)
        for index in np.ndindex(array.shape):
            value, sides = array[index], []
            for array[index] in (value + step, value - step):
                sides.append(np.sum(weights * oracle(*arrays)))
            array[index] = value
            numeric[index] = (sides[0] - sides[1]) / (2 * step)
        assert relative_error(exact, numeric) <= 1e-8


@every_function
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_accumulated_in_float32(name, dtype):
    function, _, shapes = FUNCTIONS[name]
    shapes = [(8, 16, 16, 3) if len(shape) == 4 else (64,) * len(shape) for shape in shapes]
    arrays = [jnp.asarray(array, dtype) for array in _arrays(shapes, dtype=np.float32)]
    ours = jax.jit(function)(*arrays)
    gradients = jax.jit(jax.grad(lambda arrays: jnp.sum(function(*arrays))))(arrays)
    assert ours.dtype == jnp.float32
    assert all(gradient.dtype == dtype for gradient in gradients)
    assert relative_error(ours, function(*(array.astype(jnp.float32) for array in arrays))) <= 2e-6


@pytest.mark.parametrize("name", [name for name, (_, _, shapes) in FUNCTIONS.items() if len(shapes) == 2])
def test_arguments_of_two_types_mix_under_strict_promotion(name):
    function, oracle, shapes = FUNCTIONS[name]
    first, second = _arrays(shapes, dtype=np.float32)
    first = jnp.asarray(first, jnp.bfloat16)
    ours = jax.jit(function)(first, second)
    assert relative_error(ours, oracle(np.asarray(first, np.float64), second.astype(np.float64))) <= 2e-6


@hypothesis.settings(max_examples=8, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    count=strategies.integers(1, 3),
    size=strategies.integers(1, 3),
    dtype=strategies.sampled_from(["float32", "bfloat16", "float16"]),
    seed=strategies.integers(0, 2**32 - 1),
)
def test_any_shape_and_type(count, size, dtype, seed):
    arguments = {}
    for name, (_, _, shapes) in FUNCTIONS.items():
        shapes = [(count, *shape[1:-1], size) if len(shape) > 1 else (size,) for shape in shapes]
        arguments[name] = [jnp.asarray(array, dtype) for array in _arrays(shapes, seed, np.float32)]
    every = jax.jit(lambda arguments: {name: FUNCTIONS[name][0](*arrays) for name, arrays in arguments.items()})
    for name, ours in every(arguments).items():
        arrays = [np.asarray(array, np.float64) for array in arguments[name]]
        scale = 1 + max(np.max(np.square(array)) for array in arrays)
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, FUNCTIONS[name][1](*arrays), rtol=2e-6, atol=2e-6 * scale)


def _finite(tree):
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))


LATENT_TERMS = {
    "gaussian_kl": lambda mean, log_var: jnp.mean(losses.gaussian_kl(mean, log_var)),
    "variance_regularizer": lambda _, log_var: jnp.mean(losses.variance_regularizer(log_var)),
    "means": lambda mean, _: losses.population_kl(losses.batch_moments(mean)),
    "mixture": lambda mean, log_var: losses.population_kl(losses.batch_moments(mean, log_var)),
}


@pytest.mark.parametrize("name", LATENT_TERMS)
def test_latent_terms_are_finite_over_the_stated_range(name):
    function = jax.jit(jax.value_and_grad(LATENT_TERMS[name], argnums=(0, 1)))
    pattern = np.random.default_rng(0).uniform(-1, 1, (4, 512)).astype(np.float32)
    means = [
        scale * sign for scale in (0.0, 1e-30, 1.0, 1e15) for sign in (np.sign(pattern), pattern, np.ones_like(pattern))
    ]
    log_vars = [FLOAT32.min, -1e30, -1e4, -88.0, -FLOAT32.tiny, 0.0, 40.0, 88.0, 100.0, 1e30, FLOAT32.max]
    for mean, log_var in itertools.product(means, log_vars):
        mean = mean.astype(np.float32)
        assert _finite(function(mean, np.full_like(mean, log_var))), (mean[0, 0], log_var)
        assert _finite(function(mean, np.where(pattern > 0, np.float32(log_var), np.float32(0)))), (mean[0, 0], log_var)
        assert _finite(function(mean[:1], np.full_like(mean[:1], log_var))), (mean[0, 0], log_var)


@pytest.mark.parametrize("kind", ["bce", "hinge"])
def test_adversarial_terms_are_finite_over_the_stated_range(kind):
    def both(real, fake):
        return losses.discriminator_loss(real, fake, kind=kind) + losses.generator_loss(fake, kind=kind)

    function = jax.jit(jax.value_and_grad(lambda real, fake: jnp.mean(both(real, fake)), argnums=(0, 1)))
    for real, fake in itertools.product([-1e30, -1e3, 0.0, 1e3, 1e30], repeat=2):
        assert _finite(function(*(np.full((2, 32, 32, 1), logit, np.float32) for logit in (real, fake))))


def test_guards_keep_the_gradient_of_where_they_stand():
    log_var = np.float32([[FLOAT32.min, -1e30, losses.LOG_VAR_MAX, 100.0, FLOAT32.max]])
    gradient = jax.jit(jax.grad(lambda log_var: jnp.sum(losses.variance_regularizer(log_var))))(log_var)
    largest = 0.5 * np.expm1(losses.LOG_VAR_MAX)
    np.testing.assert_allclose(gradient, [[-0.5, -0.5, largest, largest, largest]], rtol=1e-6)
    variance = jax.grad(lambda log_var: jnp.sum(losses.batch_moments(log_var * 0.0, log_var).var))
    gradient = jax.jit(variance)(log_var[:, 2:])
    np.testing.assert_allclose(gradient, np.full((1, 3), np.exp(losses.LOG_VAR_MAX)), rtol=1e-6)


@pytest.mark.parametrize("spread", [0.0, 1e-30, 1e-12, 1e-9, 1e-8, 1e-7, 1e-4, 1.0])
def test_gradient_near_collapse_pushes_the_codes_apart(spread):
    means = (spread * np.random.default_rng(0).normal(size=(6, 8))).astype(np.float32)
    count, exact = len(means), means.astype(np.float64)
    centred = exact - exact.mean(0)
    floored = np.maximum(np.mean(centred**2, 0), losses.VARIANCE_FLOOR)
    expected = (exact.mean(0) + centred - centred / floored) / count
    ours = jax.jit(jax.grad(lambda mean: losses.population_kl(losses.batch_moments(mean))))(means)
    assert relative_error(ours, expected) <= 2e-6
    if 0 < spread < 0.1:
        # Beyond the floor the push is that of the floor, 1e14 times the distance to the mean.
        assert np.max(np.abs(ours)) >= 0.1 * spread / max(spread**2, losses.VARIANCE_FLOOR)


def test_floors_move_no_ordinary_value():
    var = np.logspace(-12, 12, 200).astype(np.float32)
    function = jax.vmap(jax.value_and_grad(lambda v: losses.population_kl(Moments(jnp.zeros(1), v[None]))))
    value, gradient = jax.jit(function)(var)
    np.testing.assert_allclose(value, _kl(0.0, np.float64(var)[:, None]), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gradient, 0.5 - 0.5 / np.float64(var), rtol=1e-6, atol=1e-6)
    log_var = np.linspace(-30, 30, 241, dtype=np.float32)
    function = jax.vmap(jax.value_and_grad(lambda v: jnp.sum(losses.variance_regularizer(v[None, None]))))
    value, gradient = jax.jit(function)(log_var)
    np.testing.assert_allclose(value, _kl(0.0, np.exp(np.float64(log_var))[:, None]), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gradient, 0.5 * np.expm1(np.float64(log_var)), rtol=1e-6, atol=1e-6)
    var = losses.batch_moments(np.zeros((2, 241), np.float32), np.stack([log_var, log_var])).var
    np.testing.assert_allclose(var, np.exp(np.float64(log_var)), rtol=1e-6)


@pytest.mark.parametrize(
    ("function", "first", "second"),
    [
        (losses.l1_reconstruction, (4, 2, 2, 3), (4, 2, 2, 1)),
        (losses.l1_reconstruction, (4, 2, 2, 3), (2, 2, 3)),
        (losses.gaussian_kl, (4, 3), (4, 1)),
        (losses.batch_moments, (4, 3), (1, 3)),
        (lambda mean, var: losses.population_kl(Moments(mean, var)), (3,), (1,)),
        (losses.discriminator_loss, (4, 2, 2, 1), (4, 1, 1, 1)),
        (losses.discriminator_loss, (4, 2, 2, 1), (8, 2, 2, 1)),
    ],
)
def test_shapes_that_differ_raise_and_are_both_named(function, first, second):
    with pytest.raises(ValueError, match="shapes must be equal") as error:
        function(jnp.ones(first), jnp.ones(second))
    assert str(first) in str(error.value)
    assert str(second) in str(error.value)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: losses.gaussian_kl(x, x), (3,)),
        (losses.variance_regularizer, (3,)),
        (losses.batch_moments, (3,)),
        (losses.batch_moments, (2, 3, 4)),
        (lambda x: losses.population_kl(Moments(x, x)), (2, 3)),
    ],
)
def test_wrong_number_of_axes_raises_and_the_shape_is_named(function, shape):
    with pytest.raises(ValueError, match="axes, got shape") as error:
        function(jnp.ones(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: losses.l1_reconstruction(x, x),
        lambda x: losses.discriminator_loss(x, x),
        losses.generator_loss,
    ],
)
def test_scalar_raises(function):
    with pytest.raises(ValueError, match="batch axis"):
        function(jnp.ones(()))


def test_unknown_kind_raises():
    logits = jnp.ones((2, 3, 3, 1))
    with pytest.raises(ValueError, match="wasserstein"):
        losses.discriminator_loss(logits, logits, kind="wasserstein")
    with pytest.raises(ValueError, match="wasserstein"):
        losses.generator_loss(logits, kind="wasserstein")


def test_released_kl_terms_are_the_standard_kl_less_a_part_and_a_barrier():
    mean, log_var = (0.7 * array for array in _arrays([(10, 512)] * 2, dtype=np.float32))
    released = losses.population_kl(losses.batch_moments(mean)) + 0.2 * jnp.mean(losses.variance_regularizer(log_var))
    variance, population = np.exp(np.float64(log_var)), np.var(np.float64(mean), axis=0)
    less = 0.4 * np.mean(np.sum(variance - 1 - log_var, axis=1)) + 0.5 * np.sum(1 + np.log(population))
    assert relative_error(released, np.float64(jnp.mean(losses.gaussian_kl(mean, log_var))) - less) <= 5e-6


def test_mixture_moments_bound_the_kl_of_the_mixture_from_below():
    rng = np.random.default_rng(0)
    samples, count, size = 40_000, 6, 3
    for scale, log_var in ((0.0, 0.5), (0.5, -1.0), (2.0, -3.0)):
        mean = scale * rng.normal(size=(count, size))
        sigma = np.exp(0.5 * log_var)
        z = mean[rng.integers(count, size=samples)] + sigma * rng.normal(size=(samples, size))
        squares = ((z[:, None] - mean) ** 2).sum(-1) / sigma**2
        log_q = scipy.special.logsumexp(-0.5 * squares, axis=1) - np.log(count) - size * np.log(sigma)
        log_ratio = log_q + 0.5 * (z**2).sum(-1)
        estimate, standard_error = log_ratio.mean(), log_ratio.std() / np.sqrt(samples)
        mean, log_vars = mean.astype(np.float32), np.full((count, size), log_var, np.float32)
        bound = losses.population_kl(losses.batch_moments(mean, log_vars))
        assert standard_error < 0.02
        if scale == 0:
            assert abs(bound - estimate) < 4 * standard_error
        else:
            assert bound < estimate + 4 * standard_error
            assert estimate - bound > 4 * standard_error
        if scale < 1:
            assert losses.population_kl(losses.batch_moments(mean)) > estimate + 4 * standard_error


@pytest.mark.parametrize(("count", "excess"), [(10, 0.110), (32, 0.032), (128, 0.0079)])
def test_batch_kl_exceeds_the_kl_by_a_constant_that_knows_no_scale(count, excess):
    exact = -0.5 * (scipy.special.digamma((count - 1) / 2) + np.log(2 / count))
    assert exact == pytest.approx(excess, rel=0.02)
    size = 400_000 // count
    for mean, sigma in ((0.0, 1.0), (0.0, 0.1), (1.0, 3.0)):
        codes = np.random.default_rng(0).normal(mean, sigma, (count, size)).astype(np.float32)
        per_dimension = jax.vmap(lambda m, v: losses.population_kl(Moments(m[None], v[None])))
        sample = np.float64(jax.jit(per_dimension)(*losses.batch_moments(codes)))
        standard_error = sample.std() / np.sqrt(size)
        kl = 0.5 * (mean**2 + sigma**2 - 1 - np.log(sigma**2))
        assert abs(sample.mean() - kl - exact) < 4 * standard_error


def _objective(weights, x, axis_name, pooled, convention):
    mean, log_var = x @ weights["mean"], x @ weights["log_var"]
    moments = losses.batch_moments(
        mean, log_var if convention == "mixture" else None, axis_name=axis_name if pooled else None
    )
    total = losses.population_kl(moments) + 0.2 * jnp.mean(losses.variance_regularizer(log_var))
    return (total if axis_name is None else jax.lax.pmean(total, axis_name)), moments


def _on_devices(how, count, weights, x, **options):
    def one(weights, x):
        (value, moments), gradient = jax.value_and_grad(_objective, has_aux=True)(weights, x, "batch", **options)
        return value, moments, jax.lax.pmean(gradient, "batch")

    parts = x.reshape(count, -1, x.shape[-1])
    if how == "vmap":
        mapped = jax.vmap(one, in_axes=(None, 0), axis_name="batch")
        return jax.tree.map(lambda leaf: leaf[0], jax.device_get(jax.jit(mapped)(weights, parts)))
    if how == "pmap":
        mapped = jax.pmap(one, "batch", in_axes=(None, 0), devices=jax.devices()[:count])
        return jax.tree.map(lambda leaf: leaf[-1], jax.device_get(mapped(weights, parts)))
    split, whole = PartitionSpec("batch"), PartitionSpec()
    mesh = Mesh(np.array(jax.devices()[:count]), ("batch",))
    mapped = jax.shard_map(
        one, mesh=mesh, in_specs=(whole, split), out_specs=whole, check_vma=how == "shard_map with check_vma"
    )
    return jax.jit(mapped)(weights, x)


@pytest.mark.parametrize("convention", ["means", "mixture"])
@pytest.mark.parametrize("how", ["vmap", "pmap", "shard_map with check_vma", "shard_map without check_vma"])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_split_batch_has_the_moments_and_gradients_of_the_whole(count, how, convention):
    x, mean, log_var = _arrays([(16, 5), (5, 4), (5, 4)], dtype=np.float32)
    weights = {"mean": 0.1 * mean, "log_var": 0.3 * log_var - 0.5}
    whole = jax.value_and_grad(
        functools.partial(_objective, axis_name=None, pooled=True, convention=convention), has_aux=True
    )
    (value, moments), gradient = jax.jit(whole)(weights, x)
    ours = _on_devices(how, count, weights, x, pooled=True, convention=convention)
    for mine, expected in zip(jax.tree.leaves(ours), jax.tree.leaves((value, moments, gradient)), strict=True):
        assert relative_error(mine, expected) <= 2e-6
    if count > 1 and how != "shard_map with check_vma":  # which refuses moments that differ
        _, _, wrong = _on_devices(how, count, weights, x, pooled=False, convention=convention)
        assert relative_error(wrong["mean"], gradient["mean"]) > 0.01
