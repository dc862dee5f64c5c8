import math

import pytest

from rvae_jax.hardware import speed
from rvae_jax.hardware.speed import Work


def test_a_step_is_predicted_from_its_parts_at_once_and_one_after_the_other():
    # 0.8 TFLOP at 197 TFLOP/s, 8 GB at 819 GB/s, 2 * 15 / 16 * 45 MB at 200 GB/s: 4.06, 9.77, 0.42 ms for 128 images.
    work = Work(8, 0.8e12, 8e9, 45e6)
    low, high = speed.predict(work, 16, flops=197e12, bandwidth=819e9, link=200e9)
    assert low == pytest.approx(4491, abs=1) and high == pytest.approx(13104, abs=1)
    assert speed.efficiency(work, 16, flops=197e12, bandwidth=819e9, link=200e9) == pytest.approx(0.959, abs=1e-3)


def test_one_device_needs_no_links():
    work = Work(8, 0.8e12, 8e9, 45e6)
    assert speed.predict(work, 1, flops=1e12, bandwidth=1e10) == (8 / 3.2, 8 / 0.8)


@pytest.mark.parametrize("measured", [30.0, 120.0])
def test_a_prediction_is_off_by_the_factor_from_the_middle_of_its_range(measured):
    assert math.isclose(speed.factor_off((30.0, 120.0), measured), 2.0)


@pytest.mark.parametrize("each", speed.MEASURED, ids=lambda each: each.machine)
def test_predictions_are_within_a_factor_of_two_of_every_measured_accelerator(each):
    """Predicted speeds may be shown only as long as this holds."""
    assert speed.factor_off(each.predicted, each.images_per_second) <= 2
    assert each.images_per_second < each.predicted[1]
