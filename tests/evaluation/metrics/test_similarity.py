import itertools
from pathlib import Path

import numpy as np
import pytest
from skimage import metrics as skimage_metrics

from rvae_jax.evaluation.metrics import similarity


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :52] / 6
    clean = (127 + 90 * np.sin(x)[None, :, :, None] * np.cos(y)[None, :, :, None] * np.ones((3, 1, 1, 3))).round()
    noisy = clean + rng.normal(size=clean.shape) * np.array([3, 15, 40])[:, None, None, None]
    return clean.astype(np.uint8), np.clip(noisy.round(), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_psnr_and_ssim_against_scikit_image(pair, channels):
    clean, noisy = (images[..., :channels] for images in pair)
    psnr = [skimage_metrics.peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(clean, noisy, strict=True)]
    np.testing.assert_allclose(similarity.psnr(clean, noisy), psnr, rtol=1e-4)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    ssim = [
        skimage_metrics.structural_similarity(a, b, channel_axis=-1, **settings)
        for a, b in zip(clean, noisy, strict=True)
    ]
    assert 0 < min(ssim) < 0.5 < max(ssim) < 1
    np.testing.assert_allclose(similarity.ssim(clean, noisy), ssim, atol=2e-5)


def test_equal_images_have_infinite_psnr_and_ssim_1(pair):
    clean, _ = pair
    assert np.isinf(similarity.psnr(clean, clean)).all()
    np.testing.assert_allclose(similarity.ssim(clean, clean), 1.0, atol=1e-5)


def test_sharpness_of_a_step_and_of_blur(pair):
    step = np.zeros((1, 8, 8, 1), np.uint8)
    step[:, :, 4:] = 255
    assert similarity.sharpness(step)[0] == pytest.approx(4 / 7, rel=1e-5)  # one of seven differences, 2^2
    clean, noisy = pair
    assert (similarity.sharpness(noisy) > similarity.sharpness(clean)).all()


def test_lpips_agrees_with_pytorch():
    reference = np.load(Path(__file__).parents[2] / "reference" / "metrics.npz")
    images, others = reference["inception/colour/in"], reference["lpips/other"]
    found = similarity.lpips(similarity.load_lpips(), images, others)
    np.testing.assert_allclose(found, reference["lpips/out"], rtol=1e-4)


def test_lpips_orders_distortions_and_is_zero_for_equal_images(pair):
    clean, noisy = pair
    weights = similarity.load_lpips()
    found = np.asarray(similarity.lpips(weights, clean, noisy))
    assert 0 < found[0] < found[1] < found[2]
    np.testing.assert_allclose(similarity.lpips(weights, clean, clean), 0.0, atol=1e-6)
    grey = similarity.lpips(weights, clean[..., :1], noisy[..., :1])
    spread = [np.repeat(images[..., :1], 3, axis=-1) for images in pair]
    np.testing.assert_allclose(grey, similarity.lpips(weights, *spread), rtol=1e-6)
    with pytest.raises(ValueError, match="at least 32x32"):
        similarity.lpips(weights, clean[:, :31], noisy[:, :31])


def vgg16_distance(weights, images, others):
    """LPIPS by VGG16 in float64: weighted squared differences of normalised layers before each pooling."""

    def features(x):
        x = (x / 127.5 - 1 - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
        layers = iter(range(13))
        for convolutions in (2, 2, 3, 3, 3):
            for layer in itertools.islice(layers, convolutions):
                kernel, bias = (
                    np.asarray(weights["VGG16_0"][f"Conv_{layer}"][name], float) for name in ("kernel", "bias")
                )
                padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
                patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
                x = np.maximum(np.tensordot(patches, kernel, axes=([4, 5, 3], [0, 1, 2])) + bias, 0)
            yield x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-10)
            n, height, width, channels = x.shape
            x = (
                x[:, : height // 2 * 2, : width // 2 * 2]
                .reshape(n, height // 2, 2, width // 2, 2, channels)
                .max((2, 4))
            )

    linear = (np.asarray(weights[f"NetLinLayer_{i}"]["Conv_0"]["kernel"], float)[0, 0] for i in range(5))
    parts = zip(features(images), features(others), linear, strict=True)
    return sum((np.square(a - b) @ weight).mean((1, 2, 3)) for a, b, weight in parts)


def test_lpips_by_vgg_is_that_of_its_definition_in_float64(pair):
    clean, noisy = pair
    weights = similarity.load_lpips("vgg16")
    found = similarity.lpips(weights, clean, noisy, "vgg16")
    np.testing.assert_allclose(found, vgg16_distance(weights["params"], clean, noisy), rtol=1e-4)
    assert 0 < found[0] < found[1] < found[2]
    np.testing.assert_allclose(similarity.lpips(weights, clean, clean, "vgg16"), 0.0, atol=1e-6)
