"""Every function gives the same on one device and on several."""

import functools
import inspect
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from device_cases import (
    BATCHES,
    CASES,
    INITIAL_STATES,
    OF_BATCH,
    OF_IMAGES,
    OF_IMAGES_WITH_STATE,
    OF_NO_BATCH,
    OF_SINGLE_IMAGES,
    STATISTICS,
    STATISTICS_WITH_STATE,
    WEIGHTS,
    WITH_STATE,
    WITHOUT_GRADIENT,
    apply_networks,
    averaged,
    mixture_elbo,
    stacked,
)
from reference import relative_error

from rvae_jax import losses

# The first two are small differences of large terms; the others divide by variances that depend on all images.
BOUNDS = {"imq_mmd": 1e-5, "sliced_normality": 1e-5, "population_shape": 1e-5, "gaussian_total_correlation": 1e-5}
BOUND = 2e-6

MAPPINGS = ["vmap", "pmap", "shard_map with check_vma", "shard_map without check_vma"]
# Each way once; eight devices, and two.
SPLITS = [("vmap", 8), ("pmap", 8), ("shard_map with check_vma", 8), ("shard_map without check_vma", 2), ("jit", 8)]


def _step(weights, batch, states, axis_name, *, pooled=True):
    """Returns, for every case, the new states, what is equal on all devices, and what belongs to single images.

    Every case has its own objective and its own copy of the weights; one differentiation gives all gradients.
    """
    axis = axis_name if pooled else None

    def objective(copies):
        networks = {name: apply_networks(copy, batch) for name, copy in copies.items()}
        with_state = {name: case(networks[name], states[name], axis) for name, (_, case) in WITH_STATE.items()}
        new_states = {name: state for name, (state, _) in with_state.items()}
        statistics = {name: case(networks[name], axis) for name, case in STATISTICS.items()}
        statistics |= {name: with_state[name][1] for name in STATISTICS_WITH_STATE}
        of_images = {name: case(networks[name], axis) for name, case in OF_IMAGES.items()}
        of_images |= {name: with_state[name][1] for name in OF_IMAGES_WITH_STATE}
        of_images |= {name: case(networks[name]) for name, case in OF_SINGLE_IMAGES.items()}
        results = statistics | of_images
        values = [sum(jnp.mean(jnp.square(1.0 * leaf)) for leaf in jax.tree.leaves(results[name])) for name in CASES]
        values = averaged(jnp.stack(values), axis_name)
        return jnp.sum(values), (new_states, statistics, values, of_images)

    gradients, (new_states, statistics, values, of_images) = jax.grad(objective, has_aux=True)(
        dict.fromkeys(CASES, weights)
    )
    gradients = averaged(stacked([gradients[name] for name in CASES]), axis_name)
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
    """State, statistics, value and gradient, with a leading axis of devices; and the results of single images."""
    states, (statistics, stacked), of_images = result
    value_and_gradient = jax.tree.map(lambda leaf: leaf[:, CASES.index(name)], stacked)
    return (states.get(name), statistics.get(name), value_and_gradient), of_images.get(name)


# One test for all functions: they are one program, which takes long to compile.
@pytest.mark.parametrize(("how", "devices"), SPLITS)
def test_split_batch_has_the_values_and_gradients_of_the_complete_batch(how, devices):
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


def test_statistics_without_axis_name_differ_from_those_of_the_complete_batch():
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
    # The gradient of anchored moments is linear in each device's codes, so its average is right even without axis_name.
    assert differs == {*OF_BATCH} - {"anchored_moments"}
    assert drifts == WITH_STATE.keys()


@pytest.mark.parametrize("name", WITH_STATE)
def test_shard_map_with_check_vma_refuses_states_computed_without_axis_name(name):
    def alone(weights, batch, states, axis_name):
        state, _ = WITH_STATE[name][1](apply_networks(weights, batch), states, None)
        return state, (), ()

    with pytest.raises(ValueError, match="check_vma"):
        next(_run(alone, "shard_map with check_vma", 2, INITIAL_STATES[name]))


def _gradient(weights, batch, states, axis_name, *, average_loss, average_gradient):
    def objective(weights):
        a = apply_networks(weights, batch)
        population = losses.population_kl(losses.batch_moments(a.mean, axis_name=axis_name))
        loss = population + jnp.mean(losses.variance_regularizer(a.log_var))
        return averaged(loss, axis_name) if average_loss else loss

    gradient = jax.grad(objective)(weights)
    return (), averaged(gradient, axis_name) if average_gradient else gradient, ()


@pytest.mark.parametrize("average_gradient", [True, False])
@pytest.mark.parametrize("average_loss", [True, False])
@pytest.mark.parametrize("how", MAPPINGS)
def test_gradients_are_right_only_if_loss_and_gradients_are_averaged(how, average_loss, average_gradient):
    def gradient(how, devices, **averages):
        _, equal, _ = next(_run(functools.partial(_gradient, **averages), how, devices))
        return _first(equal)

    ours = gradient(how, 2, average_loss=average_loss, average_gradient=average_gradient)
    whole = gradient("jit", 1, average_loss=True, average_gradient=True)
    # With check_vma, shard_map sums the gradient over the devices for weights that it knows to be equal on them.
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
        return losses.batch_moments(*codes(apply_networks(weights, part)), axis_name=axis_name)

    def objective(weights, part):
        a = apply_networks(weights, part)
        if anchored:
            return mixture_elbo(a, axis_name, losses.anchored_moments(population, *codes(a), axis_name=axis_name)).total
        return mixture_elbo(a, axis_name, convention).total

    batches = [jax.tree.map(operator.itemgetter(slice(first, None, parts)), batch) for first in range(parts)]
    population = losses.combine_moments(stacked([moments(part) for part in batches]))
    of_parts = [jax.value_and_grad(objective)(weights, part) for part in batches]
    return (), averaged(jax.tree.map(lambda *leaves: sum(leaves) / parts, *of_parts), axis_name), ()


@pytest.mark.parametrize("convention", ["means", "mixture"])
@pytest.mark.parametrize(("how", "devices"), [("jit", 1), ("pmap", 2), ("shard_map with check_vma", 2)])
def test_accumulated_gradient_equals_that_of_the_complete_batch(how, devices, convention):
    def value_and_gradient(how, devices, **options):
        _, equal, _ = next(_run(functools.partial(_accumulated, convention=convention, **options), how, devices))
        return _first(equal)

    whole = value_and_gradient("jit", 1, parts=1, anchored=False)
    ours = value_and_gradient(how, devices, parts=4, anchored=True)
    assert max(_errors(ours, whole)) <= BOUND


@pytest.mark.parametrize("convention", ["means", "mixture"])
def test_accumulated_gradient_with_the_moments_of_each_part_differs(convention):
    def gradient(parts):
        function = functools.partial(_accumulated, convention=convention, parts=parts, anchored=False)
        _, (_, gradient), _ = next(_run(function, "jit", 1))
        return gradient["mean"][0]

    assert relative_error(gradient(4), gradient(1)) > 0.01


def test_every_function_of_a_batch_is_a_case():
    functions = {name: getattr(losses, name) for name in losses.__all__ if inspect.isfunction(getattr(losses, name))}
    assert {part for case in CASES for part in case.split(", ")} == functions.keys() - OF_NO_BATCH
    of_batch = {name for name, function in functions.items() if "axis_name" in inspect.signature(function).parameters}
    assert of_batch <= {part for case in OF_BATCH for part in case.split(", ")}
