import numpy as np
import pytest

from rvae_jax.inference import interpolation


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("kind", ["linear", "spherical"])
def test_transitions_begin_and_end_at_the_codes(rng, kind):
    start, end = rng.normal(size=(2, 4, 6)).astype(np.float32)
    codes = interpolation.transition(start, end, 5, kind)
    assert codes.shape == (4, 5, 6) and codes.dtype == np.float32
    np.testing.assert_allclose(codes[:, 0], start, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(codes[:, -1], end, rtol=1e-5, atol=1e-6)


def test_linear_transition_is_convex(rng):
    start, end = rng.normal(size=(2, 4, 6))
    np.testing.assert_allclose(interpolation.transition(start, end, 5)[:, 1], 0.75 * start + 0.25 * end, rtol=1e-5)


def test_spherical_transition_turns_evenly_and_keeps_the_length(rng):
    start, end = np.array([[2.0, 0.0]]), np.array([[0.0, 2.0]])
    codes = interpolation.transition(start, end, 4, "spherical")[0]
    angles = np.radians([0, 30, 60, 90])
    np.testing.assert_allclose(codes, 2 * np.column_stack([np.cos(angles), np.sin(angles)]), atol=1e-6)
    longer = interpolation.transition(start, 2 * end, 3, "spherical")[0, 1]
    assert np.linalg.norm(longer) == pytest.approx(3.0, rel=1e-5)


def test_spherical_transition_between_parallel_codes_is_linear():
    start = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    end = np.array([[3.0, 3.0], [-1.0, 0.0], [1.0, 0.0]])
    found = interpolation.transition(start, end, 3, "spherical")
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:2, 1], [[2.0, 2.0], [0.0, 0.0]], atol=1e-6)


def test_variants_move_two_dimensions_alone(rng):
    code = rng.normal(size=5)
    codes = interpolation.variants(code, (0, 3), (np.array([-1.0, 0.0]), np.array([0.0, 2.0, 4.0])))
    assert codes.shape == (2, 3, 5)
    np.testing.assert_allclose(codes[1, 0], code)
    np.testing.assert_allclose(codes[0, 2] - code, [-1.0, 0.0, 0.0, 4.0, 0.0], atol=1e-6)


def test_codes_along_directions(rng):
    code, directions = rng.normal(size=4), rng.normal(size=(3, 4))
    codes = interpolation.along(code, directions, np.array([-1.0, 0.0, 2.0]))
    np.testing.assert_allclose(codes[2, 2], code + 2 * directions[2], rtol=1e-5)
    np.testing.assert_allclose(codes[1, 1], code, rtol=1e-6)


def test_attribute_directions_are_differences_of_means(rng):
    smiling, bearded = rng.random((2, 4000)) < 0.5
    bearded |= smiling & (rng.random(4000) < 0.5)  # they occur together
    means = rng.normal(size=(4000, 5)) * 0.1
    means[:, 0] += smiling
    means[:, 1] += 2.0 * bearded
    attributes = {"smiling": smiling, "bearded": bearded, "rare": np.arange(4000) < 2}
    found = interpolation.attribute_directions(means, attributes)
    assert list(found) == ["smiling", "bearded"]
    np.testing.assert_allclose(found["smiling"], means[smiling].mean(0) - means[~smiling].mean(0), rtol=1e-5)
    assert found["smiling"][1] > 0.3

    straight = interpolation.attribute_directions(means, attributes, orthogonal=True)
    a, b = straight["smiling"], straight["bearded"]
    assert abs(a @ b) < 1e-5 < abs(found["smiling"] @ found["bearded"])
    for name in straight:
        assert np.linalg.norm(straight[name]) == pytest.approx(np.linalg.norm(found[name]), rel=1e-5)
    swapped = interpolation.attribute_directions(means, dict(reversed(attributes.items())), orthogonal=True)
    np.testing.assert_allclose(swapped["bearded"], b, atol=1e-5)


def test_more_orthogonal_attributes_than_dimensions_are_refused(rng):
    attributes = {str(i): rng.random(200) < 0.5 for i in range(4)}
    with pytest.raises(ValueError, match="4 attributes; expected at most the 3 dimensions"):
        interpolation.attribute_directions(rng.normal(size=(200, 3)), attributes, orthogonal=True)
    assert interpolation.attribute_directions(rng.normal(size=(200, 3)), {}) == {}
