"""Every function on one device and on several; ``CASES`` says how each is used."""

import functools
import inspect
import operator
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import relative_error

from rvae_jax import losses
from rvae_jax.losses import Moments

COUNT, FEATURES, LATENT, IMAGE, PATCHES = 16, 5, 4, (2, 2, 3), 6
# The first is a small difference of large terms, the others divide by variances that all images have a part in.
BOUNDS = {"imq_mmd": 1e-5, "population_shape": 1e-5, "gaussian_total_correlation": 1e-5}
KINDS = ("bce", "hinge", "least_squares")
BOUND = 2e-6

MAPPINGS = ["vmap", "pmap", "shard_map with check_vma", "shard_map without check_vma"]
SPLITS = [*((how, 8) for how in (*MAPPINGS, "jit")), ("pmap", 2)]


def _normal(rng, *shape, scale=1.0, offset=0.0):
    return (offset + scale * rng.normal(size=shape)).astype(np.float32)


def _batch(seed):
    rng = np.random.default_rng(seed)
    return {
        "x": _normal(rng, COUNT, FEATURES, offset=0.3 * seed),
        "image": _normal(rng, COUNT, *IMAGE, scale=0.7),
        "noise": _normal(rng, COUNT, LATENT),
        "prior": _normal(rng, COUNT, LATENT),
    }


def _weights():
    rng = np.random.default_rng(10)
    return {
        "mean": _normal(rng, FEATURES, LATENT, scale=0.3),
        "log_var": _normal(rng, FEATURES, LATENT, scale=0.3, offset=-0.3),
        "x_hat": _normal(rng, FEATURES, np.prod(IMAGE), scale=0.3),
        "critic": _normal(rng, np.prod(IMAGE), PATCHES, scale=0.5),
        "log_scale": np.float32(-0.4),
    }


BATCHES, WEIGHTS = [_batch(seed) for seed in range(3)], _weights()
POPULATION = Moments(np.linspace(-1, 1, LATENT, dtype=np.float32), np.linspace(0.5, 2, LATENT, dtype=np.float32))


def _networks(weights, batch):
    def critic(images):
        return jnp.tanh(images.reshape(len(images), -1) @ weights["critic"])

    x_hat = jnp.tanh(batch["x"] @ weights["x_hat"]).reshape(-1, *IMAGE)
    mean, log_var = batch["x"] @ weights["mean"], batch["x"] @ weights["log_var"]
    return SimpleNamespace(
        **batch,
        mean=mean,
        log_var=log_var,
        conventions=[(mean,), (mean, log_var)],
        x_hat=x_hat,
        log_scale=weights["log_scale"],
        critic=critic,
        real=critic(batch["image"]),
        fake=critic(x_hat),
        with_decoder=lambda last: _networks(weights | {"x_hat": last}, batch),
        decoder=weights["x_hat"],
    )


def _averaged(tree, axis):
    return tree if axis is None else jax.lax.pmean(tree, axis)


def _stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _combined_moments(codes, axis):
    halves = [losses.batch_moments(*(code[start::2] for code in codes), axis_name=axis) for start in (0, 1)]
    return losses.combine_moments(_stacked(halves))


def _covariance(a, axis):
    return losses.batch_covariance(a.mean, a.log_var, shrinkage=0.1, axis_name=axis)


def _mixture_elbo(a, axis, moments):
    weights = {"reconstruction_weight": 10.0, "population_weight": 2.0, "variance_weight": 0.5}
    reconstruction = losses.l1_reconstruction(a.x_hat, a.image)
    return losses.mixture_elbo(
        reconstruction, a.mean, a.log_var, moments=moments, variance_target=0.5, axis_name=axis, **weights
    )


def _adaptive_weight(a, axis):
    def gradient(loss):
        return jax.grad(lambda last: _averaged(jnp.mean(loss(a.with_decoder(last))), axis))(a.decoder)

    reconstruction = gradient(lambda a: losses.l1_reconstruction(a.x_hat, a.image))
    generator = gradient(lambda a: losses.generator_loss(a.fake))
    return losses.adaptive_generator_weight(reconstruction, generator, delta=0.1, axis_name=axis)


def _moments_averages(a, states, axis):
    states = [
        losses.update_moments_average(state, losses.batch_moments(*codes, axis_name=axis), decay=0.8)
        for state, codes in zip(states, a.conventions, strict=True)
    ]
    return states, [
        losses.anchored_moments(state.moments, *codes, axis_name=axis)
        for state, codes in zip(states, a.conventions, strict=True)
    ]


def _means_queue(a, state, axis):
    state = losses.update_means_queue(state, a.mean, axis_name=axis)
    return state, [
        losses.anchored_moments(losses.queue_moments(state, *codes[1:], axis_name=axis), *codes, axis_name=axis)
        for codes in a.conventions
    ]


def _lecam_penalty(a, state, axis):
    penalty, state = losses.lecam_penalty(a.real, a.fake, state, decay=0.8, axis_name=axis)
    return state, penalty


# What is equal on all devices, and what belongs to single images but depends on the batch, in all variants.
STATISTICS = {
    "batch_moments": lambda a, axis: [losses.batch_moments(*codes, axis_name=axis) for codes in a.conventions],
    "batch_covariance": lambda a, axis: [
        losses.batch_covariance(*codes, shrinkage=0.1, axis_name=axis) for codes in a.conventions
    ],
    "combine_moments": lambda a, axis: [_combined_moments(codes, axis) for codes in a.conventions],
    "anchored_moments": lambda a, axis: [
        losses.anchored_moments(POPULATION, *codes, axis_name=axis) for codes in a.conventions
    ],
    "population_kl": lambda a, axis: [
        *(losses.population_kl(losses.batch_moments(*codes, axis_name=axis)) for codes in a.conventions),
        losses.population_kl(_covariance(a, axis)),
    ],
    "gaussian_total_correlation": lambda a, axis: losses.gaussian_total_correlation(_covariance(a, axis)),
    "dip_penalty": lambda a, axis: losses.dip_penalty(_covariance(a, axis)),
    "mixture_elbo": lambda a, axis: [_mixture_elbo(a, axis, moments) for moments in ("means", "mixture")],
    "free_bits_kl": lambda a, axis: losses.free_bits_kl(a.mean, a.log_var, free_nats=0.3, axis_name=axis),
    "imq_mmd": lambda a, axis: losses.imq_mmd(a.mean, a.prior, axis_name=axis),
    "batch_norm_kl_bound": lambda a, axis: losses.batch_norm_kl_bound(losses.batch_moments(a.mean, axis_name=axis)),
    "active_units": lambda a, axis: losses.active_units(losses.batch_moments(a.mean, axis_name=axis), threshold=0.3),
    "population_shape": lambda a, axis: [losses.population_shape(*codes, axis_name=axis) for codes in a.conventions],
    "optimal_log_scale": lambda a, axis: [
        losses.optimal_log_scale(a.x_hat, a.image, kind=kind, axis_name=axis) for kind in ("gaussian", "laplace")
    ],
    "adaptive_generator_weight": _adaptive_weight,
}
OF_IMAGES = {
    "mixture_kl": lambda a, axis: losses.mixture_kl(a.mean, a.log_var, a.noise, axis_name=axis),
    "mutual_information": lambda a, axis: losses.mutual_information(a.mean, a.log_var, a.noise, axis_name=axis),
    "kl_decomposition": lambda a, axis: [
        losses.kl_decomposition(a.mean, a.log_var, a.noise, dataset_size=100, weighting=weighting, axis_name=axis)
        for weighting in ("stratified", "weighted")
    ],
    "gaussian_nll": lambda a, axis: [
        losses.gaussian_nll(a.x_hat, a.image, log_scale)
        for log_scale in (a.log_scale, losses.optimal_log_scale(a.x_hat, a.image, axis_name=axis))
    ],
    "laplace_nll": lambda a, axis: [
        losses.laplace_nll(a.x_hat, a.image, log_scale)
        for log_scale in (a.log_scale, losses.optimal_log_scale(a.x_hat, a.image, kind="laplace", axis_name=axis))
    ],
}
# What is carried from step to step: the state before the first, and a function of it.
STATISTICS_WITH_STATE = {
    "update_moments_average": ([losses.init_moments_average(LATENT)] * 2, _moments_averages),
    "update_means_queue, queue_moments": (losses.init_means_queue(40, LATENT), _means_queue),
}
OF_IMAGES_WITH_STATE = {"lecam_penalty": (losses.init_lecam_anchors(), _lecam_penalty)}
# What depends on a single image alone.
OF_SINGLE_IMAGES = {
    "l1_reconstruction": lambda a: losses.l1_reconstruction(a.x_hat, a.image),
    "l1_sum": lambda a: losses.l1_sum(a.x_hat, a.image),
    "l2_sum": lambda a: losses.l2_sum(a.x_hat, a.image),
    "l2_reconstruction": lambda a: losses.l2_reconstruction(a.x_hat, a.image),
    "perceptual_reconstruction": lambda a: losses.perceptual_reconstruction(
        a.x_hat, a.image, lambda x_hat, x: jnp.mean(jnp.square(jnp.sin(x_hat) - jnp.sin(x)), axis=(1, 2, 3))
    ),
    "gaussian_kl": lambda a: losses.gaussian_kl(a.mean, a.log_var),
    "kl_by_dimension": lambda a: losses.kl_by_dimension(a.mean, a.log_var),
    "variance_regularizer": lambda a: losses.variance_regularizer(a.log_var, target=0.5),
    "beta_vae": lambda a: losses.beta_vae(losses.l2_reconstruction(a.x_hat, a.image), a.mean, a.log_var, beta=2.0),
    "discriminator_loss": lambda a: [losses.discriminator_loss(a.real, a.fake, kind=kind) for kind in KINDS],
    "generator_loss": lambda a: [losses.generator_loss(a.fake, kind=kind) for kind in KINDS],
    "r1_penalty": lambda a: losses.r1_penalty(a.critic, a.image),
}
WITHOUT_GRADIENT = {"active_units", "adaptive_generator_weight"}
OF_NO_BATCH = {"init_lecam_anchors", "init_means_queue", "init_moments_average", "ramp", "small_batch_bias"}

WITH_STATE = STATISTICS_WITH_STATE | OF_IMAGES_WITH_STATE
OF_BATCH = [*STATISTICS, *OF_IMAGES, *WITH_STATE]
CASES = [*OF_BATCH, *OF_SINGLE_IMAGES]
INITIAL_STATES = {name: state for name, (state, _) in WITH_STATE.items()}


def _step(weights, batch, states, axis_name, *, pooled=True):
    """The new states, what is equal on all devices, and what belongs to single images, of every case.

    Every case has its objective, and its copy of the weights. Their gradients are averaged at once.
    """
    axis = axis_name if pooled else None

    def objective(copies):
        networks = {name: _networks(copy, batch) for name, copy in copies.items()}
        with_state = {name: case(networks[name], states[name], axis) for name, (_, case) in WITH_STATE.items()}
        new_states = {name: state for name, (state, _) in with_state.items()}
        statistics = {name: case(networks[name], axis) for name, case in STATISTICS.items()}
        statistics |= {name: with_state[name][1] for name in STATISTICS_WITH_STATE}
        of_images = {name: case(networks[name], axis) for name, case in OF_IMAGES.items()}
        of_images |= {name: with_state[name][1] for name in OF_IMAGES_WITH_STATE}
        of_images |= {name: case(networks[name]) for name, case in OF_SINGLE_IMAGES.items()}
        results = statistics | of_images
        values = [sum(jnp.mean(jnp.square(1.0 * leaf)) for leaf in jax.tree.leaves(results[name])) for name in CASES]
        values = _averaged(jnp.stack(values), axis_name)
        return jnp.sum(values), (new_states, statistics, values, of_images)

    gradients, (new_states, statistics, values, of_images) = jax.grad(objective, has_aux=True)(
        dict.fromkeys(CASES, weights)
    )
    gradients = _averaged(_stacked([gradients[name] for name in CASES]), axis_name)
    return new_states, (statistics, (values, gradients)), of_images


def _parts(devices, leaf):
    return leaf.reshape(devices, -1, *leaf.shape[1:])


def _replicas(leaf):
    return np.stack([shard.data for shard in leaf.addressable_shards])


def _first(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _run(function, how, devices, states=()):
    """Yields, for batch after batch, what ``function(weights, batch, states, axis_name)`` gives on all devices.

    New states and what should be equal on all devices have a leading axis of devices.
    """
    one, axis, whole = functools.partial(function, axis_name="batch"), jax.P("batch"), jax.P()
    mesh = jax.make_mesh((devices,), ("batch",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices])
    inputs, outputs = (whole, axis, whole), (whole, whole, axis)
    match how:
        case "vmap":
            mapped = jax.jit(jax.vmap(one, (None, 0, None), axis_name="batch"))
        case "pmap":
            mapped = jax.pmap(one, "batch", in_axes=(None, 0, None), devices=list(mesh.devices))
        case "jit":
            shard = functools.partial(jax.tree.map, functools.partial(jax.NamedSharding, mesh))
            mapped = jax.jit(
                functools.partial(function, axis_name=None), in_shardings=shard(inputs), out_shardings=shard(outputs)
            )
        case _:
            check_vma = how == "shard_map with check_vma"
            mapped = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=check_vma))
    if how in ("vmap", "pmap"):
        split, replicas, images = functools.partial(_parts, devices), np.asarray, np.concatenate
    else:
        split, replicas, images = np.asarray, _replicas, np.asarray
    for batch in BATCHES:
        states, equal, of_images = mapped(WEIGHTS, jax.tree.map(split, batch), states)
        states, equal = jax.tree.map(replicas, (states, equal))
        yield states, equal, jax.tree.map(images, of_images)
        states = _first(states)


def _errors(ours, whole):
    leaves = zip(jax.tree.leaves(ours), jax.tree.leaves(whole), strict=True)
    return [relative_error(mine, expected) for mine, expected in leaves]


@functools.cache
def _whole():
    return list(_run(_step, "jit", 1, INITIAL_STATES))


def _of_case(name, result):
    """State, statistics, value and gradient, with a leading axis of devices; and what belongs to single images."""
    states, (statistics, stacked), of_images = result
    value_and_gradient = jax.tree.map(lambda leaf: leaf[:, CASES.index(name)], stacked)
    return (states.get(name), statistics.get(name), value_and_gradient), of_images.get(name)


# One test for all functions: it is one program, that each worker of pytest-xdist would compile for itself.
@pytest.mark.parametrize(("how", "devices"), SPLITS)
def test_split_batch_has_the_values_and_gradients_of_the_whole(how, devices):
    wrong, unequal = {}, set()
    for step, (ours, whole) in enumerate(zip(_run(_step, how, devices, INITIAL_STATES), _whole(), strict=True)):
        for name in CASES:
            (equal, of_images), (whole_equal, whole_of_images) = _of_case(name, ours), _of_case(name, whole)
            for leaf in jax.tree.leaves(equal):
                assert len(leaf) == devices
                if any(replica.tobytes() != leaf[0].tobytes() for replica in leaf):
                    unequal.add((name, step))
            errors = _errors((_first(equal), of_images), (_first(whole_equal), whole_of_images))
            if not np.max(errors) <= BOUNDS.get(name, BOUND):
                wrong[name, step] = errors
    assert not wrong
    assert not unequal


def test_statistics_of_each_device_alone_are_not_those_of_the_whole():
    alone, whole = next(_run(functools.partial(_step, pooled=False), "pmap", 8, INITIAL_STATES)), _whole()[0]
    differs, drifts = set(), set()
    for name in CASES:
        (state, _, (value, gradient)), _ = _of_case(name, alone)
        (_, _, (whole_value, whole_gradient)), _ = _of_case(name, whole)
        ours, expected = (value, whole_value) if name in WITHOUT_GRADIENT else (gradient, whole_gradient)
        if max(_errors(_first(ours), _first(expected))) > 0.01:
            differs.add(name)
        replicas = zip(*jax.tree.leaves(state), strict=True)
        if len({b"".join(leaf.tobytes() for leaf in replica) for replica in replicas}) == 8:
            drifts.add(name)
    # The gradient of anchored moments is linear in each device's codes: its average is right without axis_name, too.
    assert differs == {*OF_BATCH} - {"anchored_moments"}
    assert drifts == WITH_STATE.keys()


@pytest.mark.parametrize("name", WITH_STATE)
def test_checked_shard_map_refuses_states_of_each_device_alone(name):
    def alone(weights, batch, states, axis_name):
        state, _ = WITH_STATE[name][1](_networks(weights, batch), states, None)
        return state, (), ()

    with pytest.raises(ValueError, match="check_vma"):
        next(_run(alone, "shard_map with check_vma", 2, INITIAL_STATES[name]))


def _gradient(weights, batch, states, axis_name, *, average_loss, average_gradient):
    def objective(weights):
        a = _networks(weights, batch)
        population = losses.population_kl(losses.batch_moments(a.mean, axis_name=axis_name))
        loss = population + jnp.mean(losses.variance_regularizer(a.log_var))
        return _averaged(loss, axis_name) if average_loss else loss

    gradient = jax.grad(objective)(weights)
    return (), _averaged(gradient, axis_name) if average_gradient else gradient, ()


@pytest.mark.parametrize("average_gradient", [True, False])
@pytest.mark.parametrize("average_loss", [True, False])
@pytest.mark.parametrize("how", MAPPINGS)
def test_loss_and_gradient_must_be_averaged(how, average_loss, average_gradient):
    def gradient(how, devices, **averages):
        _, equal, _ = next(_run(functools.partial(_gradient, **averages), how, devices))
        return _first(equal)

    ours = gradient(how, 2, average_loss=average_loss, average_gradient=average_gradient)
    whole = gradient("jit", 1, average_loss=True, average_gradient=True)
    # Checked, shard_map sums the gradient in weights that it knows to be equal over the devices; the others do not.
    summed = how == "shard_map with check_vma"
    if average_loss if summed else average_gradient:
        assert max(_errors(ours, whole)) <= BOUND
    else:
        assert max(_errors(ours, whole)) > 0.01
    if summed and not average_loss:
        assert max(_errors(jax.tree.map(lambda leaf: leaf / 2, ours), whole)) <= BOUND


def _accumulated(weights, batch, states, axis_name, *, convention, parts, anchored):
    def codes(a):
        return a.conventions[("means", "mixture").index(convention)]

    def moments(part):
        return losses.batch_moments(*codes(_networks(weights, part)), axis_name=axis_name)

    def objective(weights, part):
        a = _networks(weights, part)
        if anchored:
            return _mixture_elbo(
                a, axis_name, losses.anchored_moments(population, *codes(a), axis_name=axis_name)
            ).total
        return _mixture_elbo(a, axis_name, convention).total

    batches = [jax.tree.map(operator.itemgetter(slice(first, None, parts)), batch) for first in range(parts)]
    population = losses.combine_moments(_stacked([moments(part) for part in batches]))
    of_parts = [jax.value_and_grad(objective)(weights, part) for part in batches]
    return (), _averaged(jax.tree.map(lambda *leaves: sum(leaves) / parts, *of_parts), axis_name), ()


@pytest.mark.parametrize("convention", ["means", "mixture"])
@pytest.mark.parametrize(("how", "devices"), [("jit", 1), ("pmap", 2), ("shard_map with check_vma", 2)])
def test_accumulated_gradient_is_that_of_the_whole(how, devices, convention):
    def value_and_gradient(how, devices, **options):
        _, equal, _ = next(_run(functools.partial(_accumulated, convention=convention, **options), how, devices))
        return _first(equal)

    whole = value_and_gradient("jit", 1, parts=1, anchored=False)
    ours = value_and_gradient(how, devices, parts=4, anchored=True)
    assert max(_errors(ours, whole)) <= BOUND


@pytest.mark.parametrize("convention", ["means", "mixture"])
def test_accumulated_gradient_of_the_parts_own_moments_is_another(convention):
    def gradient(parts):
        function = functools.partial(_accumulated, convention=convention, parts=parts, anchored=False)
        _, (_, gradient), _ = next(_run(function, "jit", 1))
        return gradient["mean"][0]

    assert relative_error(gradient(4), gradient(1)) > 0.01


def test_no_function_is_left_out():
    functions = {name: getattr(losses, name) for name in losses.__all__ if inspect.isfunction(getattr(losses, name))}
    assert {part for case in CASES for part in case.split(", ")} == functions.keys() - OF_NO_BATCH
    of_batch = {name for name, function in functions.items() if "axis_name" in inspect.signature(function).parameters}
    assert of_batch <= {part for case in OF_BATCH for part in case.split(", ")}
