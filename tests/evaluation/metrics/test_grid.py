"""Grid and seam energy: the definitions in float64 by NumPy's FFT, and what is a grid and what is not."""

import cv2
import jax
import numpy as np
import pytest

from rvae_jax.evaluation.metrics import grid, similarity

SHAPES = [(3, 64, 64, 3), (2, 33, 47, 1), (2, 16, 70, 3)]


def natural(shape, seed=0):
    """Images whose amplitude falls with the frequency, as that of photographs does."""
    n, height, width, channels = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    noise = np.fft.fft2(np.random.default_rng(seed).normal(size=(n, channels, height, width)))
    x = np.fft.ifft2(noise / np.maximum(frequency, 1 / 64)).real.transpose(0, 2, 3, 1)
    return 128 + 40 * x / x.std()


def to_bytes(x):
    return np.clip(np.round(x), 0, 255).astype(np.uint8)


def spectrum_by_numpy(images):
    """Every second frequency of the complete transform of each window."""
    x = images.astype(np.float64) / 127.5 - 1
    height, width = x.shape[1:3]
    window = np.outer(np.hanning(17)[:16], np.hanning(17)[:16])[None, :, :, None]
    parts = [x[:, i : i + 16, j : j + 16] for i in range(0, height - 15, 8) for j in range(0, width - 15, 8)]
    powers = [np.abs(np.fft.fft2(part * window, axes=(1, 2))) ** 2 for part in parts]
    return np.mean(powers, axis=(0, 4))[:, ::2, ::2] / np.sum(window**2)


def energy_by_numpy(spectrum, real):
    """The definition as a sum over all frequencies (k/4, l/4) off the axes, and (1/2, 0) and (0, 1/2)."""
    excess = energy = least = 0.0
    for k, l in [(k, l) for k in (0, 2, 4, 6) for l in (0, 2, 4, 6) if (k and l) or k == 4 or l == 4]:  # noqa: E741
        near = [spectrum[(k + a) % 8, (l + b) % 8] for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b]
        weight = 4 * np.sin(np.pi * k / 8) ** 2 + 4 * np.sin(np.pi * l / 8) ** 2
        excess += weight * (spectrum[k, l] - np.prod(near) ** (1 / 8))
        energy += weight * real[k, l]
        least += weight * (7 / 127.5) ** 2
    return excess / max(energy, least)


@jax.jit
def measure(images):
    found = grid.local_spectrum(images), grid.seam_profile(images), similarity.sharpness(images)
    return [values.mean(axis=0) for values in found]


def grid_and_seams(images, real):
    (spectrum, seams, _), (of_real, _, sharpness) = measure(images), measure(real)
    return grid.grid_energy(spectrum, of_real), grid.seam_energy(seams, sharpness)


@pytest.fixture(scope="module")
def real():
    return natural((24, 64, 64, 3))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_spectrum_and_the_energy_are_those_of_float64(shape):
    real, other = (to_bytes(natural(shape, seed)) for seed in (1, 2))
    spectra = [spectrum_by_numpy(images) for images in (other, real)]
    found = [np.asarray(jax.jit(grid.local_spectrum)(images)) for images in (other, real)]
    assert found[0].shape == (shape[0], 8, 8)
    np.testing.assert_allclose(found, spectra, rtol=2e-3)
    energy = grid.grid_energy(*(values.mean(axis=0) for values in found))
    np.testing.assert_allclose(energy, energy_by_numpy(*(each.mean(axis=0) for each in spectra)), rtol=2e-3, atol=1e-4)


def test_white_noise_has_its_variance_at_every_frequency():
    images = to_bytes(128 + 20 * np.random.default_rng(0).normal(size=(40, 64, 64, 1)))
    spectrum = np.asarray(measure(images)[0])
    np.testing.assert_allclose(spectrum[2:7, 2:7], (20 / 127.5) ** 2, rtol=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_seam_profile_is_that_of_float64(shape):
    images = to_bytes(natural(shape))
    x = images.astype(np.float64) / 127.5 - 1
    expected = np.zeros((shape[0], 2, 4))
    for axis in (0, 1):
        e = np.square(np.diff(x, axis=axis + 1)).mean(axis=(2 - axis, 3))
        for position in range(4):
            inner = [i for i in range(1, e.shape[1] - 1) if (i - 1) % 4 == position]
            expected[:, axis, position] = np.mean([e[:, i] - (e[:, i - 1] + e[:, i + 1]) / 2 for i in inner], axis=0)
    np.testing.assert_allclose(grid.seam_profile(images), expected, rtol=1e-3, atol=1e-5)


def checkerboard(y, x):
    return (-1.0) ** (y + x)


def stripes(y, x):
    return (-1.0) ** x


def dots(y, x):
    return 4.0 * ((y % 4 == 1) & (x % 4 == 2))


@pytest.mark.parametrize("pattern", [checkerboard, stripes, dots])
@pytest.mark.parametrize("blur", [0.0, 2.0])
def test_a_faint_pattern_on_sharp_and_on_blurred_images_is_a_grid(real, pattern, blur):
    y, x = np.mgrid[:64, :64]
    base = np.stack([cv2.GaussianBlur(image, (0, 0), blur) if blur else image for image in real])
    energies = [grid_and_seams(to_bytes(base + a * pattern(y, x)[..., None]), to_bytes(real))[0] for a in (0, 4, 8)]
    assert energies[0] < 0.1 < 0.2 < energies[1]
    # Energy is the square of the amplitude.
    assert energies[2] - energies[0] == pytest.approx(4 * (energies[1] - energies[0]), rel=0.1)


def test_a_flat_image_has_no_grid_and_a_flat_image_with_a_checkerboard_has_its_energy(real):
    flat = np.full((2, 64, 64, 3), 128.0)
    assert grid_and_seams(to_bytes(flat), to_bytes(real)) == pytest.approx((0.0, 0.0), abs=1e-4)
    y, x = np.mgrid[:64, :64]
    found = measure(to_bytes(flat + 5 * checkerboard(y, x)[..., None]))[0]
    # A wave of amplitude a has a^2 (sum w)^2 / sum w^2, which is (8 / 6)^2 * 16 / 16 * ... = 64^2 / 36 for 16x16 Hann.
    assert found[4, 4] == pytest.approx((5 / 127.5) ** 2 * 64**2 / 36, rel=1e-3)


def test_beside_smooth_images_only_a_pattern_that_one_can_see_is_a_grid():
    y, x = np.mgrid[:64, :64]
    smooth = np.full((1, 64, 64, 1), 128.0)
    half = to_bytes(smooth + checkerboard(y, x)[..., None] * 0.5 + 0.01)  # 128 and 129
    whole = to_bytes(smooth + checkerboard(y, x)[..., None])
    assert 0.05 < grid_and_seams(half, to_bytes(smooth + 2 * x[..., None]))[0] < 0.1
    assert grid_and_seams(whole, to_bytes(smooth + 2 * x[..., None]))[0] > 0.2


@pytest.mark.parametrize(
    "change",
    [
        lambda x: cv2.GaussianBlur(x, (0, 0), 0.7),
        lambda x: cv2.GaussianBlur(x, (0, 0), 2.0),
        lambda x: x + 4 * np.random.default_rng(0).normal(size=x.shape),
        lambda x: x + 30 * np.random.default_rng(0).normal(size=x.shape),
        lambda x: cv2.GaussianBlur(x, (0, 0), 2.0) + 10 * np.random.default_rng(0).normal(size=x.shape),
        lambda x: np.roll(x, 5, axis=1),
    ],
    ids=["little blur", "much blur", "noise", "much noise", "blur and noise", "shift"],
)
def test_blur_and_noise_are_not_a_grid(real, change):
    energy, seams = grid_and_seams(to_bytes(np.stack([change(image) for image in real])), to_bytes(real))
    assert energy < 0.1 and seams < 0.1


@pytest.mark.parametrize("cell", [2, 4])
def test_seams_between_cells_are_seen_in_colour_and_in_grey(real, cell):
    for images in (real, real[..., :1]):
        small = images.reshape(24, 64 // cell, cell, 64 // cell, cell, -1).mean(axis=(2, 4))
        constant = small.repeat(cell, axis=1).repeat(cell, axis=2)
        energy = float(measure(to_bytes(constant))[2] / measure(to_bytes(images))[2])
        # All gradient energy lies at the seams; profiles leave out the first and the last difference.
        assert grid_and_seams(to_bytes(constant), to_bytes(images))[1] == pytest.approx(energy, rel=0.1)


def test_images_smaller_than_a_window_are_refused():
    with pytest.raises(ValueError, match="expected at least 16x16"):
        grid.local_spectrum(np.zeros((1, 15, 40, 3), np.uint8))
