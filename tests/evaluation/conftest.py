import dataclasses

import pytest
from trained_runs import QUICK, healthy, shared, trained, waves_dir, without_lpips, workdir  # noqa: F401 - fixtures

from rvae_jax.evaluation.metrics import inception


@pytest.fixture
def with_distances(monkeypatch):
    """Settings that allow few images, with means of 4x4 blocks in place of Inception's features."""

    def features(_, images):
        return images.reshape(len(images), 8, 4, 8, 4).mean(axis=(2, 4)).reshape(len(images), -1) / 64.0

    monkeypatch.setattr(inception, "load", lambda path: inception.Inception({}, "0123456789abcdef"))
    monkeypatch.setattr(inception, "features", features)
    monkeypatch.setattr(inception, "FEATURES", 64)
    return dataclasses.replace(QUICK, least_for_distances=20)
