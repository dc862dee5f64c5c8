"""The networks of the author's weight files are told by their shapes."""

import dataclasses
import itertools

import numpy as np
import pytest
from etils import epath
from some_models import MODELS, config_of

from rvae_jax import config as config_lib
from rvae_jax.config import Config, ModelConfig
from rvae_jax.errors import UserError
from rvae_jax.formats import keras_layout
from rvae_jax.formats.keras_networks import flags, infer
from rvae_jax.storage import weights as weights_lib

AUTHOR = epath.Path(__file__).parents[1] / "reference" / "small_a.weights.h5"
PATH = epath.Path("some.weights.h5")


def tensors_of(config):
    """What a file of these networks holds, zeros."""
    shapes = weights_lib.shapes(weights_lib.expected_weights(config))
    layers = itertools.chain.from_iterable(layer.datasets() for layer in keras_layout.layers(config))
    return {dataset: np.broadcast_to(np.float32(0), shapes[name]) for dataset, name in layers}


def shape_of(**model):
    return config_lib.replace_fields(
        config_of("wide and grey"), {f"model.{name}": value for name, value in model.items()}
    )


def test_the_networks_of_the_authors_file_are_found_without_a_word_of_them():
    found = infer(AUTHOR, keras_layout.read_tensors(AUTHOR), Config())
    assert found == dataclasses.replace(Config(), model=config_of("square").model)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"input_norm": True, "image_shape": (8, 48, 1)},
        {"encoder_identity_blocks": 0, "decoder_identity_blocks": 0},
        {"encoder_identity_blocks": 3, "encoder_filters": (5, 7), "decoder_filters": (9, 1), "latent_dim": 5},
        {"encoder_filters": (2, 3, 4, 5), "decoder_filters": (6, 7, 8, 1)},
    ],
)
def test_widths_blocks_codes_and_images_are_found(changes):
    config = shape_of(**changes)
    size = config.model.image_shape if not config.model.input_norm else (256, 256, 3)
    stranger = config_lib.replace_fields(
        Config(), {"model.image_shape": size, "model.discriminator_strides": (2, 1), "model.network": "patches"}
    )
    assert infer(PATH, tensors_of(config), stranger).model == config.model


def test_a_file_without_a_discriminator_makes_a_run_without_one():
    config = config_lib.replace_fields(config_of("wide and grey"), config_lib.NO_DISCRIMINATOR)
    given = config_lib.replace_fields(config_of("wide and grey"), {"loss.prior_fakes": 0.5, "loss.r1_weight": 1.0})
    assert infer(PATH, tensors_of(config), given).loss == config.loss
    assert infer(PATH, tensors_of(config), config) == config


def test_a_file_with_a_discriminator_makes_a_run_with_one():
    config = config_of("wide and grey")
    without = config_lib.replace_fields(config, {**config_lib.NO_DISCRIMINATOR, "model.discriminator": "vgg16"})
    assert infer(PATH, tensors_of(config), without) == config


def test_what_the_shapes_leave_open_is_asked_for():
    tensors = tensors_of(config_of("wide and grey"))  # images of 16x24, of 4x6 features
    with pytest.raises(UserError) as error:
        infer(PATH, tensors, Config())
    message = str(error.value)
    assert "has a discriminator of 2 layers, of widths 6, 1, whose strides its shapes do not tell" in message
    assert "give them by --config.model.discriminator_strides=2,1, for instance, in place of 2,2,2,1,1,1" in message
    with pytest.raises(UserError) as error:
        infer(PATH, tensors, Config(model=ModelConfig(discriminator_strides=(2, 1))))
    message = str(error.value)
    assert "4x96, 8x48, 12x32, 16x24, 24x16, 32x12, 48x8, 96x4; give --config.model.image_shape=24,16,1" in message
    assert "\n" not in message


def test_one_possible_size_needs_no_flag():
    config = shape_of(image_shape=(4, 4, 1))
    given = Config(model=ModelConfig(discriminator_strides=(2, 1)))
    assert infer(PATH, tensors_of(config), given).model.image_shape == (4, 4, 1)


@pytest.mark.parametrize("removed", ["decoder_model/layers/conv2d_transpose_3/", "encoder_model/layers/conv2d_3/"])
def test_layers_that_make_no_stages_are_counted(removed):
    tensors = {name: value for name, value in tensors_of(config_of("wide and grey")).items() if removed not in name}
    with pytest.raises(UserError, match=r"convolutions in the encoder, 16 and \d transposed ones in the decoder"):
        infer(PATH, tensors, config_of("wide and grey"))


def test_a_missing_dense_layer_is_left_to_what_names_it():
    tensors = {name: value for name, value in tensors_of(config_of("wide and grey")).items() if "dense1" not in name}
    found = infer(PATH, tensors, config_of("wide and grey"))
    with pytest.raises(UserError, match="dense1/vars/0"):
        keras_layout.place(PATH, tensors, dataclasses.replace(found, model=MODELS["wide and grey"]))


def test_flags_lead_from_one_configuration_to_the_other():
    given = flags(Config(), config_lib.replace_fields(Config(), {"model.image_shape": (32, 32, 3), "seed": 5}))
    assert sorted(given) == ["--config.model.image_shape=32,32,3", "--config.seed=5"]
    one = config_lib.replace_fields(Config(), {"model.discriminator_filters": (1,)})
    assert flags(Config(), one) == ["--config.model.discriminator_filters=1,"]
