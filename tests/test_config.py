import dataclasses
import inspect
import json
import subprocess
import sys

import pytest

from rvae_jax.config import (
    SCHEDULES,
    Config,
    differences,
    flatten,
    from_dict,
    get_field,
    in_steps,
    make_tiny,
    replace_fields,
    require_variant,
    steps_of,
    to_dict,
    validate,
)
from rvae_jax.errors import UserError


def test_defaults_are_valid_and_the_papers():
    config = Config()
    validate(config, 4)
    assert config.model.image_shape == (256, 256, 3)
    loss = config.loss
    assert (loss.reconstruction_weight, loss.population_weight, loss.variance_weight) == (5000, 1, 0.2)
    assert (loss.adversarial_weight, loss.adversarial, loss.moments) == (100, "bce", "means")
    assert (config.optimizer.learning_rate, config.optimizer.beta1, config.optimizer.epsilon) == (1e-4, 0.5, 1e-7)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batch_size", 1, "--config.batch_size=1: expected at least 2"),
        ("batch_size", 6, "--config.batch_size=6: expected a multiple of the 4 devices"),
        ("remat_stages", 7, "--config.remat_stages=7: expected from 0 to 6, the number of stages"),
        ("remat_stages", -1, "--config.remat_stages=-1: expected from 0 to 6"),
        ("steps", 0, "--config.steps=0: expected at least 1"),
        ("seed", 2**32, r"--config.seed=4294967296: expected at least 0 and less than 2\^32"),
        (
            "model.image_shape",
            (256, 250, 3),
            r"image_shape=\(256, 250, 3\): expected a height and a width divisible by 64",
        ),
        ("model.image_shape", (256, 256), r"image_shape=\(256, 256\): expected a tuple of 3 whole"),
        ("model.decoder_filters", (128,) * 7, "decoder_filters=.*a list that ends with 3, the channels"),
        ("model.decoder_filters", (128, 3), "decoder_filters=.*7 numbers, as many as model.encoder_filters"),
        ("model.encoder_filters", (), r"encoder_filters=\(\): expected at most 32 numbers from 1 to 65,536"),
        ("model.encoder_filters", (0,) * 7, "encoder_filters=.*from 1 to"),
        ("model.discriminator_strides", (2, 1), "discriminator_strides=.*6 numbers"),
        ("model.discriminator_filters", (8,) * 6, "discriminator_filters=.*ends with 1"),
        ("model.latent_dim", 1, "latent_dim=1: expected at least 2"),
        ("model.norm", "layer", "norm='layer': expected 'frozen' or 'batch'"),
        ("model.encoder_identity_blocks", -1, "encoder_identity_blocks=-1"),
        ("loss.kl", "none", "loss.kl='none': expected 'population' or 'standard'"),
        ("loss.variance_weight", float("nan"), "loss.variance_weight=nan: expected a finite number"),
        ("loss.kl_start", -1, "loss.kl_start=-1"),
        ("loss.variance_target", 0.0, "loss.variance_target=0.0: expected from 1e-14 to 1e14"),
        ("loss.moments_decay", 1.0, "loss.moments_decay=1.0: expected at least 0 and less than 1"),
        ("loss.perceptual", "lpips", "loss.perceptual='lpips': expected 'none' or 'vgg16' or 'alexnet'"),
        ("loss.perceptual_crop", 32, "loss.perceptual_crop=32: expected 0 with loss.perceptual=none"),
        ("model.discriminator_head_width", 0, "model.discriminator_head_width=0: expected from 1 to 65,536"),
        ("loss.discriminator_crop", 32, "loss.discriminator_crop=32: expected 0, since there is no discriminator on"),
        ("loss.free_bits", 0.5, "loss.free_bits=0.5: expected 0 with loss.kl=population"),
        ("loss.sliced_weight", -1.0, "loss.sliced_weight=-1.0: expected a finite number, 0 or more"),
        ("loss.reconstruction", "gaussian", "loss.reconstruction_weight=5000.0: expected 1 with loss.recon.*=gaussian"),
        ("model.discriminator_stages", 6, "model.discriminator_stages=6: expected from 1 to 5"),
        ("loss.r1_every", 0, "loss.r1_every=0: expected at least 1"),
        ("loss.augment", 1.5, "loss.augment=1.5: expected from 0 to 1"),
        ("loss.prior_fakes", 1.0, "loss.prior_fakes=1.0: expected at least 0 and less than 1"),
        ("loss.prior_fakes", 0.3, "loss.prior_fakes=0.3: expected .* a whole number of the 5 images .*, such as 0.4"),
        ("optimizer.learning_rate", 0.0, "optimizer.learning_rate=0.0"),
        ("optimizer.beta2", 1.0, "optimizer.beta2=1.0"),
        (
            "optimizer.discriminator_learning_rate",
            0.0,
            "discriminator_learning_rate=0.0: expected a finite",
        ),
        ("optimizer.ema_decay", 1.5, "optimizer.ema_decay=1.5"),
        ("optimizer.clip_norm", 0.0, "optimizer.clip_norm=0.0"),
        ("optimizer.warmup", 500_000, "optimizer.warmup=500000: expected at most steps=400000, or, below 1, a share"),
        ("optimizer.warmup", 1.5, "optimizer.warmup=1.5: expected a whole number of steps, or, below 1, a share"),
        ("loss.kl_ramp", 1.25, "loss.kl_ramp=1.25: expected a whole number of steps, or, below 1, a share"),
        ("loss.kl_ramp", float("nan"), "loss.kl_ramp=nan: expected a finite number"),
        ("loss.kl_start", 400_000, "loss.kl_start=400000: expected less than steps=400000, .*; a weight of 0 leaves"),
        (
            "loss.adversarial_start",
            400_000,
            "loss.adversarial_start=400000: expected less than steps=400000, .*; loss.adversarial=none leaves",
        ),
        (
            "loss.texture_start",
            400_000,
            "loss.texture_start=400000: expected less than steps=400000, .*; loss.perceptual=none and",
        ),
        (
            "loss.texture_start",
            0.5,
            "loss.adversarial_start=0.0: expected at least loss.texture_start=0.5, before which there is no",
        ),
        ("eval_every", 0, "eval_every=0: expected above 0"),
        ("eval_every", -0.5, "eval_every=-0.5: expected a whole number of steps, or"),
        ("accumulate_steps", 4, "--config.accumulate_steps=4: expected a divisor of 5, the images"),
        ("data.jitter", 0.5, "data.jitter=0.5: expected at least 0 and less than 0.5"),
        ("data.crop", (0, 10), r"data.crop=\(0, 10\)"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(field, value, message):
    with pytest.raises(UserError, match=message) as error:
        validate(replace_fields(Config(), {field: value}), 4)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prior_fakes", 0.4),
        ("adaptive_weight", True),
        ("r1_weight", 0.1),
        ("lecam_weight", 0.1),
        ("augment", 0.5),
    ],
)
def test_what_needs_a_discriminator_is_refused_without_one(field, value):
    config = replace_fields(Config(), {f"loss.{field}": value})
    validate(config, 4)
    with pytest.raises(UserError, match=f"--config.loss.{field}={value}: expected .* with loss.adversarial=none"):
        validate(replace_fields(config, {"loss.adversarial": "none"}), 4)


def test_a_discriminator_on_features_needs_pictures_and_no_r1():
    config = replace_fields(Config(), {"model.discriminator": "vgg16"})
    validate(config, 4)
    with pytest.raises(UserError, match=r"loss.r1_weight=1\.0: expected 0 with model.discriminator=vgg16"):
        validate(replace_fields(config, {"loss.r1_weight": 1.0}), 4)
    wide = {"model.image_shape": (256, 256, 4), "model.decoder_filters": (128,) * 6 + (4,)}
    with pytest.raises(UserError, match=r"discriminator='vgg16': expected 'patch' with images that have neither"):
        validate(replace_fields(config, wide), 4)


def test_r1_is_refused_where_images_share_statistics():
    config = replace_fields(Config(), {"loss.r1_weight": 1.0, "model.norm": "batch"})
    with pytest.raises(UserError, match=r"--config.loss.r1_weight=1\.0: expected 0 with model.norm=batch"):
        validate(config, 4)


CHANGES = {"model.latent_dim": 64, "optimizer.ema_decay": 0.999, "data.crop": (148, 148)}


def test_stored_form_gives_the_configuration_back():
    config = replace_fields(Config(), CHANGES)
    assert from_dict(to_dict(config)) == config


def test_fields_are_replaced_in_a_copy():
    original = Config()
    config = replace_fields(original, CHANGES)
    assert differences(config, original) == list(CHANGES)
    assert [get_field(config, name) for name in CHANGES] == list(CHANGES.values())
    assert original == Config()
    config.loss.beta = 2.0
    assert original == Config()
    with pytest.raises(TypeError, match="'depth'"):
        replace_fields(original, {"model.depth": 3})


def test_flat_form_has_json_types():
    flat = flatten(Config())
    assert flat["model.image_shape"] == [256, 256, 3] and flat["seed"] == 0
    assert flat == json.loads(json.dumps(flat))


def test_tiny_variant_is_a_valid_copy():
    original = Config()
    tiny = make_tiny(original)
    validate(tiny, 1)
    assert tiny.model.image_shape == (32, 32, 3) and tiny.loss == original.loss
    assert original == Config()


def test_import_needs_neither_jax_nor_flax():
    script = "import sys, rvae_jax.config; print({'jax', 'flax', 'numpy', 'absl'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


def test_rules_between_two_fields():
    config = replace_fields(Config(), {"accumulate_steps": 5, "model.norm": "batch"})
    with pytest.raises(UserError, match=r"accumulate_steps=5: expected 1 with model\.norm=batch"):
        validate(config, 4)
    config = replace_fields(Config(), {"shard_optimizer": True, "parallel": "pmap"})
    with pytest.raises(UserError, match="shard_optimizer=True: expected False with parallel=pmap"):
        validate(config, 4)


def test_a_start_is_not_checked_without_a_discriminator():
    validate(replace_fields(Config(), {"loss.adversarial": "none", "loss.adversarial_start": 400_000}), 4)


def test_a_field_that_a_file_sets_and_that_does_not_exist_is_named():
    config = Config()
    config.optimizer.warmup_steps = 10
    with pytest.raises(UserError, match=r"optimizer\.warmup_steps does not exist; it is called optimizer\.warmup now"):
        validate(config, 4)
    config = Config()
    config.sed = 1
    with pytest.raises(UserError, match=r"field sed does not exist; did you mean seed\? there are .*seed"):
        validate(config, 4)


@pytest.mark.parametrize(
    ("value", "steps", "expected"),
    [
        (0, 100, 0),
        (0.0, 1, 0),
        (1, 100, 1),  # one step, not the whole run
        (1.0, 1, 1),
        (480.0, 100, 480),
        (0.6, 800, 480),
        (0.29, 100, 29),  # 0.29 * 100 is 28.999999999999996
        (1_000 / 254_000, 254_000, 1_000),
        (0.06, 10, 1),  # to the nearest
        (0.04, 10, 0),
        (0.25, 10, 2),  # a half to the even one
        (0.999, 10, 9),  # below the number of steps
        (0.999, 1, 0),
        (0.5, 1, 0),
    ],
)
def test_a_schedule_in_steps(value, steps, expected):
    found = steps_of(value, steps)
    assert found == expected and isinstance(found, int)


def test_all_schedules_in_steps():
    shares = dict.fromkeys(SCHEDULES, 0.3)
    config = replace_fields(Config(), {"steps": 10, **shares})
    assert {name: get_field(in_steps(config), name) for name in SCHEDULES} == dict.fromkeys(SCHEDULES, 3)
    assert in_steps(in_steps(config)) == in_steps(config)
    assert differences(in_steps(config), config) == [name for name in flatten(config) if name in SCHEDULES]
    shortest = in_steps(replace_fields(config, {"steps": 1}))
    assert [get_field(shortest, name) for name in SCHEDULES] == [0, 0, 0, 0, 0, 0, 1]
    validate(shortest, 4)


def test_stored_fields_of_earlier_versions_are_read():
    loss = {"kl_start_step": 1, "kl_ramp_steps": 2, "adversarial_start_step": 3, "adversarial_ramp_steps": 4}
    config = from_dict({"loss": loss, "optimizer": {"warmup_steps": 5}})
    names = "loss.kl_start", "loss.kl_ramp", "loss.adversarial_start", "loss.adversarial_ramp", "optimizer.warmup"
    assert config == replace_fields(Config(), {name: i for i, name in enumerate(names, 1)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss.perceptual": "vgg16", "model.image_shape": (64, 64, 4), "model.decoder_filters": (128,) * 6 + (4,)},
            "perceptual='vgg16': expected none with images of 64x64 and 4 channels",
        ),
        ({"loss.perceptual": "vgg16", "loss.perceptual_stages": 6}, "perceptual_stages=6: expected from 1 to 5"),
        (
            {"loss.perceptual": "vgg16", "loss.perceptual_crop": 16},
            "perceptual_crop=16: expected 0 .* or from 32",
        ),
        ({"loss.perceptual": "alexnet", "loss.perceptual_crop": 300}, "perceptual_crop=300: expected 0"),
        ({"loss.clip": True, "loss.adversarial": "none"}, "clip=True: expected False with loss.perceptual=none and"),
        (
            {"loss.texture_start": 5, "loss.adversarial": "none"},
            "texture_start=5: expected 0 with loss.perceptual=none",
        ),
        (
            {"model.discriminator": "vgg16", "loss.discriminator_crop": 300},
            "discriminator_crop=300: expected 0 for complete images, or from 32 to 256",
        ),
        ({"loss.kl": "standard", "loss.covariance": "full"}, "covariance='full': expected diagonal with loss.kl=stan"),
        ({"loss.kl": "standard", "loss.moments_decay": 0.9}, "moments_decay=0.9: expected 0 with loss.kl=standard"),
        (
            {"loss.reconstruction": "laplace", "loss.reconstruction_weight": 1.0, "accumulate_steps": 5},
            "accumulate_steps=5: expected 1 with loss.reconstruction=laplace",
        ),
    ],
)
def test_terms_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        validate(replace_fields(Config(), changes), 4)


def test_unknown_stored_field_is_named():
    with pytest.raises(UserError, match=r"model\.depth does not exist; there are image_shape"):
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


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch_size", "16", "--config.batch_size='16': expected a whole number"),
        ("batch_size", 16.0, r"--config.batch_size=16\.0: expected a whole number"),
        ("batch_size", True, "--config.batch_size=True: expected a whole number"),
        ("data.flip", 1, "--config.data.flip=1: expected True or False"),
        ("data.name", 5, "--config.data.name=5: expected a string or None"),
        ("optimizer.learning_rate", None, "--config.optimizer.learning_rate=None: expected a number"),
        ("optimizer.ema_decay", "0.9", "--config.optimizer.ema_decay='0.9': expected a number or None"),
        ("model.widths", [8, 16], r"--config.model.widths=\[8, 16\]: expected a tuple of whole numbers, such as"),
        ("model.widths", (8, 16.0), r"--config.model.widths=\(8, 16\.0\): expected a tuple of whole numbers"),
        ("data.crop", (64,), r"--config.data.crop=\(64,\): expected a tuple of 2 whole numbers or None"),
        ("model.norm", ["frozen"], r"--config.model.norm=\['frozen'\]: expected 'frozen' or 'batch'"),
        ("loss", None, "configuration section loss is None: expected LossConfig"),
    ],
)
def test_a_value_of_another_type_is_named(name, value, message):
    config = Config()
    section, _, field = name.rpartition(".")
    setattr(get_field(config, section) if section else config, field, value)
    with pytest.raises(UserError, match=message):
        validate(config, 4)


def test_whole_numbers_are_numbers():
    validate(replace_fields(Config(), {"optimizer.learning_rate": 1, "eval_every": 5}), 4)


def test_stored_values_of_another_type_are_named():
    with pytest.raises(UserError, match=r"--config.model.image_shape=\(64, 64\): expected a tuple of 3 whole numbers"):
        from_dict({"model": {"image_shape": [64, 64]}})
    with pytest.raises(UserError, match=r"configuration section model is \[1\]: expected a ModelConfig"):
        from_dict({"model": [1]})
