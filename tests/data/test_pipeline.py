import itertools

import grain
import jax
import numpy as np
import pytest
from making import area_average, noise, user_error

from rvae_jax.config import Config, DataConfig, ModelConfig
from rvae_jax.data import pipeline
from rvae_jax.data.pixels import to_float
from rvae_jax.data.records import DamagedError


def _config(image_shape=(8, 6, 1), batch_size=4, seed=0, flip=False, crop=None, jitter=0.0):
    data = DataConfig(crop=crop, flip=flip, jitter=jitter)
    return Config(seed=seed, batch_size=batch_size, model=ModelConfig(image_shape=image_shape), data=data)


def _take(iterator, count):
    return np.stack(list(itertools.islice(iterator, count)))


# Preprocessing


@pytest.mark.parametrize(
    ("old", "new"), [((24, 36, 3), (8, 12, 3)), ((24, 36, 1), (8, 12, 1)), ((112, 92, 1), (56, 46, 1))]
)
def test_shrinking_by_an_integer_averages_boxes(old, new):
    image = noise(*old)
    factor = old[0] // new[0]
    boxes = image.reshape(new[0], factor, new[1], factor, new[2]).mean(axis=(1, 3))
    result = pipeline.preprocess(image, new, None)
    assert result.dtype == np.uint8
    assert np.abs(result - boxes).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("old", "new", "crop", "box"),
    [
        ((112, 92, 1), (64, 64, 1), None, (10, 102, 0, 92)),
        ((218, 178, 3), (64, 64, 3), (178, 178), (20, 198, 0, 178)),
        ((50, 100, 3), (30, 20, 3), None, (0, 50, 33, 66)),
        ((60, 100, 3), (20, 30, 3), None, (0, 60, 5, 95)),
        ((41, 40, 1), (13, 17, 1), (30, 35), (7, 34, 2, 37)),  # 27x35 of it has the shape
    ],
)
def test_the_crop_is_averaged_over_areas(old, new, crop, box):
    image = noise(*old)
    top, bottom, left, right = box
    expected = area_average(image[top:bottom, left:right], *new[:2])
    assert np.abs(pipeline.preprocess(image, new, crop) - expected).max() <= 0.51


def test_a_crop_that_is_not_scaled_keeps_its_pixels():
    image = noise(13, 20, 3)
    np.testing.assert_array_equal(pipeline.preprocess(image, (5, 8, 3), (5, 8)), image[4:9, 6:14])
    np.testing.assert_array_equal(pipeline.preprocess(image, (13, 20, 3), None), image)


def test_enlarging_continues_a_ramp():
    ramp = np.broadcast_to(np.arange(0, 200, 10, dtype=np.uint8)[:, None, None], (20, 10, 1))
    result = pipeline.preprocess(ramp, (60, 30, 1), None)
    expected = ((np.arange(60) + 0.5) / 3 - 0.5) * 10
    assert np.abs(result[6:-6, :, 0] - expected[6:-6, None]).max() <= 1


def test_grey_and_rgb_become_each_other():
    grey, rgb = noise(12, 10, 1), noise(12, 10, 3)
    np.testing.assert_array_equal(pipeline.preprocess(grey, (12, 10, 3), None), np.repeat(grey, 3, axis=-1))
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    result = pipeline.preprocess(rgb, (12, 10, 1), None)
    assert result.shape == (12, 10, 1)
    assert np.abs(result[:, :, 0] - luma).max() <= 1


def test_a_crop_or_channels_that_do_not_fit_are_refused():
    assert "data.crop=(13, 5): larger than an image of 12x10" in user_error(
        pipeline.preprocess, noise(12, 10, 3), (8, 8, 3), (13, 5)
    )
    assert "data.crop=(5, 11)" in user_error(pipeline.preprocess, noise(12, 10, 3), (8, 8, 3), (5, 11))
    message = user_error(pipeline.preprocess, noise(12, 10, 3), (8, 8, 4), None)
    assert "4 channels for images of 3" in message
    assert "2 channels" in user_error(pipeline.preprocess, noise(12, 10, 1), (8, 8, 2), None)


# Batches for training


def _numbered(count):
    """Images whose left half tells their number and whose right half is white, so that a mirrored one is told apart."""
    images = np.full((count, 8, 6, 1), 255, np.uint8)
    images[:, :, :3] = np.arange(count)[:, None, None, None]
    return list(images)


def _to_uint8(batches):
    if batches.dtype == np.uint8:
        return batches.astype(int)
    pixels = (batches + np.float32(1)) * 127.5
    np.testing.assert_allclose(pixels, np.round(pixels), atol=1e-4)
    return np.round(pixels).astype(int)


def _numbers_and_mirrored(batches):
    pixels = _to_uint8(batches)[..., 0].reshape(-1, 8, 6)
    mirrored = pixels[:, 0, 0] == 255
    numbers = np.where(mirrored, pixels[:, 0, 5], pixels[:, 0, 0])
    numbered_half = (np.arange(6) < 3) != mirrored[:, None]
    expected = np.where(numbered_half, numbers[:, None], 255)
    np.testing.assert_array_equal(pixels, np.repeat(expected[:, None], 8, axis=1))
    return numbers, mirrored


@pytest.mark.parametrize(("flip", "jitter"), [(False, 0.0), (True, 0.0), (True, 0.2)])
def test_batches_are_a_function_of_seed_and_step(flip, jitter, monkeypatch):
    source, config = _numbered(20), _config(flip=flip, jitter=jitter, seed=3)
    batches = _take(pipeline.train_batches(source, config), 12)  # 2.4 epochs
    assert batches.dtype == np.uint8
    assert batches.shape == (12, 4, 8, 6, 1)
    for start in (0, 1, 7):
        np.testing.assert_array_equal(_take(pipeline.train_batches(source, config, start), 12 - start), batches[start:])
    assert not np.array_equal(_take(pipeline.train_batches(source, _config(flip=flip, seed=4)), 12), batches)
    monkeypatch.setattr(pipeline, "_THREADS", 5)
    np.testing.assert_array_equal(_take(pipeline.train_batches(source, config), 12), batches)


def test_a_run_resumes_far_into_it():
    source, config = _numbered(10), _config(flip=True)
    steps = pipeline.train_batches(source, config, 400_000)
    again = pipeline.train_batches(source, config, 400_001)
    next(steps)
    np.testing.assert_array_equal(next(steps), next(again))


def test_every_epoch_has_every_image_once_in_an_order_of_its_own():
    numbers, mirrored = _numbers_and_mirrored(_take(pipeline.train_batches(_numbered(10), _config()), 20))
    epochs = numbers.reshape(8, 10)  # batches of 4: the epochs begin within a batch
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (8, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 8
    assert not mirrored.any()


def test_mirroring_is_drawn_anew_for_half_of_the_images():
    batches = _take(pipeline.train_batches(_numbered(200), _config(flip=True, batch_size=200)), 20)
    numbers, mirrored = _numbers_and_mirrored(batches)
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    of_image = mirrored[np.argsort(numbers, kind="stable")].reshape(200, 20)
    assert np.all(of_image.any(axis=1) & ~of_image.all(axis=1))
    assert np.all(np.abs(np.corrcoef(of_image, rowvar=False)[np.triu_indices(20, 1)]) < 0.35)  # between epochs


@pytest.mark.parametrize("channels", [1, 3])
def test_zoom_and_shift_move_a_ramp_as_they_say(channels):
    y, x = np.mgrid[:40, :60].astype(np.float64)
    image = np.repeat((2 * x + 3 * y)[:, :, None].astype(np.uint8), channels, axis=2)

    moved = pipeline.zoom_and_shift(image, 1.1, np.array([0.05, -0.05]))
    assert moved.shape == image.shape
    zoom, shift_x, shift_y = 1.1, 0.05 * 60, -0.05 * 40
    expected = 2 * ((x - 29.5 - shift_x) / zoom + 29.5) + 3 * ((y - 19.5 - shift_y) / zoom + 19.5)
    inside = (slice(4, -8), slice(8, -4))
    assert np.abs(moved[inside] - expected[inside][:, :, None]).max() < 0.7


def test_jitter_is_drawn_anew_for_each_image():
    source = [np.arange(48, dtype=np.uint8).reshape(8, 6, 1) * 5] * 4
    (batch,) = _take(pipeline.train_batches(source, _config(jitter=0.3)), 1)
    assert len({image.tobytes() for image in batch}) == 4


def test_pixels_are_from_minus_1_to_1():
    source = [np.zeros((8, 6, 1), np.uint8), np.full((8, 6, 1), 255, np.uint8), np.full((8, 6, 1), 51, np.uint8)]
    (batch,) = _take(pipeline.train_batches(source, _config(batch_size=3)), 1)
    expected = np.float32([-1, np.float32(51) / np.float32(127.5) - 1, 1])
    np.testing.assert_array_equal(np.unique(to_float(batch)), expected)
    on_device = jax.jit(to_float)(batch)
    assert on_device.dtype == np.float32
    np.testing.assert_allclose(np.unique(on_device), expected, atol=1e-7)
    ((images, _),) = pipeline.eval_batches(source, _config(), 3)
    np.testing.assert_array_equal(np.unique(images), expected)


def test_batches_are_preprocessed():
    source = [noise(30, 20, 1, seed=seed) for seed in range(20)]
    (batch,) = _take(pipeline.train_batches(source, _config(image_shape=(12, 8, 3), batch_size=20)), 1)
    expected = [pipeline.preprocess(image, (12, 8, 3), None).tobytes() for image in source]
    found = [image.tobytes() for image in batch]
    assert sorted(found) == sorted(expected)
    assert found != expected


class Recording(list):
    """Notes which images are read."""

    def __init__(self, images):
        super().__init__(images)
        self.read = []

    def __getitem__(self, index):
        self.read.append(int(index))
        return super().__getitem__(index)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_read_parts_of_the_same_batches_and_nothing_else(hosts, monkeypatch):
    monkeypatch.setattr(pipeline, "_read_options", lambda source: grain.ReadOptions(0, 0))  # reads nothing ahead
    config = _config(flip=True, jitter=0.2, batch_size=8)
    whole = _take(pipeline.train_batches(_numbered(20), config, 3), 5)
    parts = []
    read = []
    for host in range(hosts):
        source = Recording(_numbered(20))
        batches = pipeline.train_batches(source, config, 3, host, hosts)
        source.read.clear()  # the settings are tried on an image
        parts.append(_take(batches, 5))
        assert len(source.read) == 5 * 8 // hosts
        read += source.read
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    source = Recording(_numbered(20))
    batches = pipeline.train_batches(source, config, 3)
    source.read.clear()
    _take(batches, 5)
    assert sorted(read) == sorted(source.read)


def test_a_batch_that_the_hosts_cannot_share_is_refused():
    assert "batch_size=4: expected a multiple of the 3 hosts" in user_error(
        pipeline.train_batches, _numbered(9), _config(), 0, 0, 3
    )


class Holed(list):
    """Some of its images cannot be read."""

    holes = (3, 4, 9)

    def __getitem__(self, index):
        if index in self.holes:
            raise DamagedError
        return super().__getitem__(index)


def test_a_damaged_image_is_replaced_by_the_next():
    batches = _take(pipeline.train_batches(Holed(_numbered(10)), _config(batch_size=10)), 3)
    numbers, _ = _numbers_and_mirrored(batches)
    expected = sorted([0, 1, 2, 5, 5, 5, 6, 7, 8, 0])
    assert [sorted(epoch) for epoch in numbers.reshape(3, 10).tolist()] == [expected] * 3
    undamaged, _ = _numbers_and_mirrored(_take(pipeline.train_batches(_numbered(10), _config(batch_size=10)), 3))
    kept = ~np.isin(undamaged, Holed.holes)
    np.testing.assert_array_equal(numbers[kept], undamaged[kept])


def test_when_no_image_can_be_read_the_search_ends():
    source = Holed(_numbered(10))
    source.holes = range(10)
    assert "none of the 10 images" in user_error(pipeline.mean_image, source, _config())


def test_a_damaged_image_does_not_count_in_evaluation():
    result = list(pipeline.eval_batches(Holed(_numbered(10)), _config(), 4))
    images, mask = (np.concatenate(parts) for parts in zip(*result, strict=True))
    np.testing.assert_array_equal(mask, [number not in (*Holed.holes, 10, 11) for number in range(12)])
    np.testing.assert_array_equal(_to_uint8(images[mask])[:, 0, 0, 0], [0, 1, 2, 5, 6, 7, 8])


def test_wrong_settings_raise_at_once():
    message = user_error(pipeline.train_batches, _numbered(3), _config())
    assert "batch_size=4: more than the 3 images" in message
    assert "data.train_split=train;" in message
    assert "data.crop" in user_error(pipeline.train_batches, _numbered(9), _config(crop=(9, 9)))
    assert "data.crop" in user_error(pipeline.eval_batches, _numbered(9), _config(crop=(9, 9)), 4)


def test_an_error_in_a_thread_reaches_the_caller():
    source = [*_numbered(7), np.zeros((4, 4, 1), np.uint8)]
    message = user_error(_take, pipeline.train_batches(source, _config(crop=(8, 6))), 2)
    assert "larger than an image of 4x4" in message


# Batches for evaluation


@pytest.mark.parametrize(("count", "batch_size", "batches"), [(10, 4, 3), (8, 4, 2), (3, 5, 1), (4, 1, 4)])
def test_eval_batches_have_every_image_once_in_order(count, batch_size, batches):
    source = _numbered(count)
    result = list(pipeline.eval_batches(source, _config(flip=True), batch_size))
    assert len(result) == batches
    for images, mask in result:
        assert images.shape == (batch_size, 8, 6, 1)
        assert images.dtype == np.float32
        assert mask.shape == (batch_size,)
        assert mask.dtype == np.bool_
    images, mask = (np.concatenate(parts) for parts in zip(*result, strict=True))
    np.testing.assert_array_equal(_to_uint8(images[mask]), np.stack(source))
    np.testing.assert_array_equal(mask, np.arange(len(mask)) < count)


@pytest.mark.parametrize(("count", "hosts"), [(10, 2), (9, 4), (1, 4)])
def test_hosts_evaluate_every_image_once(count, hosts):
    source = _numbered(count)
    whole = list(pipeline.eval_batches(source, _config(), 4))
    parts = [list(pipeline.eval_batches(source, _config(), 4, host, hosts)) for host in range(hosts)]
    for (images, mask), *of_hosts in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate([part[0] for part in of_hosts]), images)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in of_hosts]), mask)


@pytest.mark.parametrize(
    ("limit", "chosen"), [(4096, range(10)), (10, range(10)), (9, range(0, 10, 2)), (3, [0, 4, 8])]
)
def test_the_mean_image_is_of_evenly_spaced_images(limit, chosen):
    source = [noise(16, 12, 3, seed=seed) for seed in range(10)]
    mean = pipeline.mean_image(source, _config(image_shape=(8, 6, 3)), limit)
    images = [pipeline.preprocess(source[i], (8, 6, 3), None).astype(np.float64) / 127.5 - 1 for i in chosen]
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, np.mean(images, axis=0), atol=1e-6)
