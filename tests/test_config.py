import dataclasses
import inspect

import pytest

from rvae_jax import config as config_lib
from rvae_jax.config import Config, from_dict, require_variant, to_dict, validate
from rvae_jax.errors import UserError


def changed(**fields):
    config = Config()
    for name, value in fields.items():
        *path, last = name.split("__")
        target = config
        for part in path:
            target = getattr(target, part)
        setattr(target, last, value)
    return config


def test_defaults_are_valid_and_the_papers():
    config = Config()
    validate(config, 4)
    assert config.model.image_shape == (256, 256, 3)
    loss = config.loss
    assert (loss.reconstruction_weight, loss.population_weight, loss.variance_weight) == (5000, 1, 0.2)
    assert (loss.adversarial_weight, loss.adversarial, loss.moments) == (100, "bce", "means")
    assert (config.optimizer.learning_rate, config.optimizer.beta1, config.optimizer.epsilon) == (1e-4, 0.5, 1e-7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 1}, "--config.batch_size=1: expected at least 2"),
        ({"batch_size": 6}, "--config.batch_size=6: expected a multiple of the 4 devices"),
        ({"remat_stages": 7}, "--config.remat_stages=7: expected from 0 to 6, the stages"),
        ({"remat_stages": -1}, "--config.remat_stages=-1: expected from 0 to 6"),
        ({"steps": 0}, "--config.steps=0: expected at least 1"),
        ({"seed": 2**32}, "--config.seed=4294967296: expected from 0"),
        ({"model__image_shape": (256, 250, 3)}, r"image_shape=\(256, 250, 3\): expected a height and width that 64"),
        ({"model__image_shape": (256, 256)}, r"image_shape=\(256, 256\): expected \(height, width, channels\)"),
        ({"model__decoder_filters": (128,) * 7}, "decoder_filters=.*a list that ends with 3, the channels"),
        ({"model__decoder_filters": (128, 3)}, "decoder_filters=.*7 numbers, as many as model.encoder_filters"),
        ({"model__encoder_filters": ()}, r"encoder_filters=\(\): expected numbers of at least 1"),
        ({"model__encoder_filters": (0,) * 7}, "encoder_filters=.*at least 1"),
        ({"model__discriminator_strides": (2, 1)}, "discriminator_strides=.*6 numbers"),
        ({"model__discriminator_filters": (8,) * 6}, "discriminator_filters=.*ends with 1"),
        ({"model__latent_dim": 7}, "latent_dim=7: expected at least 8"),
        ({"model__norm": "layer"}, "norm='layer': expected 'frozen' or 'batch'"),
        ({"model__encoder_identity_blocks": -1}, "encoder_identity_blocks=-1"),
        ({"loss__kl": "none"}, "loss.kl='none': expected 'population' or 'standard'"),
        ({"loss__variance_weight": float("nan")}, "loss.variance_weight=nan: expected a finite number"),
        ({"loss__kl_start_step": -1}, "loss.kl_start_step=-1"),
        ({"loss__variance_target": 0.0}, "loss.variance_target=0.0: expected from 1e-14 to 1e14"),
        ({"optimizer__learning_rate": 0.0}, "optimizer.learning_rate=0.0"),
        ({"optimizer__beta2": 1.0}, "optimizer.beta2=1.0"),
        ({"optimizer__ema_decay": 1.5}, "optimizer.ema_decay=1.5"),
        ({"optimizer__clip_norm": 0.0}, "optimizer.clip_norm=0.0"),
        ({"optimizer__warmup_steps": 500_000}, "optimizer.warmup_steps=500000: expected from 0 to steps=400000"),
        ({"data__jitter": 0.5}, "data.jitter=0.5: expected from 0"),
        ({"data__crop": (0, 10)}, r"data.crop=\(0, 10\)"),
    ],
)
def test_wrong_values_are_named(fields, message):
    with pytest.raises(UserError, match=message) as error:
        validate(changed(**fields), 4)
    assert "\n" not in str(error.value)


def test_round_trip_and_differences():
    config = changed(model__latent_dim=64, data__crop=(148, 148), optimizer__ema_decay=0.999)
    assert from_dict(to_dict(config)) == config
    assert config_lib.differences(config, Config()) == ["model.latent_dim", "optimizer.ema_decay", "data.crop"]


def test_unknown_stored_field_is_named():
    with pytest.raises(UserError, match=r"model\.depth does not exist; ModelConfig has image_shape"):
        from_dict({"model": {"depth": 3}})


def test_every_field_is_documented():
    for cls in (Config, *(type(getattr(Config(), field.name)) for field in dataclasses.fields(Config))):
        if dataclasses.is_dataclass(cls):
            for field in dataclasses.fields(cls):
                assert f"\n  {field.name}: " in inspect.getdoc(cls), (cls.__name__, field.name)


def test_unknown_variant():
    require_variant(None, ("tiny",))
    require_variant("tiny", ("tiny",))
    with pytest.raises(UserError, match="variant 'huge' does not exist; expected none, or tiny"):
        require_variant("huge", ("tiny",))
