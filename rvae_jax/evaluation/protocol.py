"""What an evaluation's figures rest on, as ``evaluation.json`` records it."""

from __future__ import annotations

import dataclasses

import jax

from rvae_jax.config import Config
from rvae_jax.data import reading
from rvae_jax.evaluation.material import ImageSets
from rvae_jax.evaluation.metrics import inception, similarity
from rvae_jax.evaluation.results import Protocol, RecordedSettings
from rvae_jax.evaluation.settings import EvaluationSettings


def record_settings(settings: EvaluationSettings) -> RecordedSettings:
    """The settings that the figures depend on."""
    values = dataclasses.asdict(settings) | {"inception": inception.checksum(settings.inception)}
    del values["cache"]
    return RecordedSettings(**values)


def record_protocol(
    config: Config, settings: EvaluationSettings, images: ImageSets, inception_checksum: str | None
) -> Protocol:
    """The protocol of an evaluation; ``inception_checksum`` is None where no distances were measured."""
    height, width, channels = images.held_out.shape[1:]
    protocol = Protocol(
        held_out_split=reading.split_name(config, settings.split),
        held_out_images=len(images.held_out),
        training_split=config.data.train_split,
        training_images=len(images.training),
        samples_of_each_sampler=len(images.held_out),
        image_shape=(height, width, channels),
        images="8 bits, reconstructions from the posterior's mean; samples decoded without noise",
        lpips=similarity.LPIPS_PROTOCOL,
        ssim=similarity.SSIM_PROTOCOL,
        seed=settings.seed,
        jax=jax.__version__,
        device=jax.devices()[0].device_kind,
    )
    if inception_checksum is not None:
        protocol = dataclasses.replace(
            protocol,
            inception_checksum=inception_checksum,
            inception_resizer=inception.RESIZER,
            distances="to the held-out images; real: as many training images, the floor. Few images bias FID"
            " upwards: compare only at equal numbers, and not with published values, which use 50,000",
        )
    if channels == 1:
        note = "the images have one channel, which LPIPS and Inception see as three equal ones"
        protocol = dataclasses.replace(protocol, channels=note)
    return protocol
