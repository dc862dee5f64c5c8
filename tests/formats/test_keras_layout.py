"""The author's weight files are read and written as by his program, and other files are refused."""

import io
import zipfile

import h5py
import numpy as np
import pytest
from etils import epath
from reference import FIXTURE, under
from some_models import MODELS, assert_same_weights, config_of, random_weights

from rvae_jax.errors import UserError
from rvae_jax.formats import keras_layout
from rvae_jax.storage import weights as weights_lib

AUTHOR = epath.Path(__file__).parents[1] / "reference" / "small_a.weights.h5"


def contents(file):
    """Every group, and shape, type and bytes of every tensor."""
    found = {}

    def visit(name, node):
        found[name] = None if isinstance(node, h5py.Group) else (node.shape, node.dtype.str, node[()].tobytes())

    file.visititems(visit)
    return found


@pytest.fixture
def changed(tmp_path):
    """Writes the author's file with a change, and returns its path."""

    def change(edit):
        path = tmp_path / "changed.weights.h5"
        path.write_bytes(AUTHOR.read_bytes())
        with h5py.File(path, "a") as file:
            edit(file)
        return epath.Path(path)

    return change


def test_every_tensor_of_the_author_gets_its_name_by_us():
    leaves = weights_lib.flatten(keras_layout.read(AUTHOR, config_of("square")))
    theirs = under(FIXTURE, "w/")
    ours = {}
    for name, leaf in leaves.items():
        player, _, rest = name.split("/", 2)
        ours["discriminator/" + rest if player == "discriminator" else rest] = leaf
    assert ours.keys() == theirs.keys()
    for name, leaf in theirs.items():
        np.testing.assert_array_equal(ours[name], leaf, err_msg=name)


def test_the_file_of_the_author_is_written_as_it_was_read():
    config = config_of("square")
    written = keras_layout.to_bytes(config, keras_layout.read(AUTHOR, config))
    with h5py.File(AUTHOR) as theirs, h5py.File(io.BytesIO(written)) as ours:
        assert contents(ours) == contents(theirs)


def test_networks_that_the_author_does_not_have_are_refused():
    config = config_of("patches")
    message = r"model\.network='patches': the author's program has no such network; expected 'paper'"
    with pytest.raises(UserError, match=message):
        keras_layout.to_bytes(config, random_weights(config))
    with pytest.raises(UserError, match=message):
        keras_layout.read(AUTHOR, config)
    config.model.network = "paper"
    with pytest.raises(UserError, match=r"model\.linear_path='fixed'.* expected 'none'"):
        keras_layout.read(AUTHOR, config)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.network == "paper"])
def test_weights_survive_a_round_trip(name, norm, dtype, tmp_path):
    config = config_of(name, norm, dtype)
    weights = random_weights(config)
    path = epath.Path(tmp_path / "a.weights.h5")
    path.write_bytes(keras_layout.to_bytes(config, weights))
    assert_same_weights(keras_layout.read(path, config), weights)


def test_one_changed_bit_of_an_array_is_found(tmp_path):
    config = config_of("square")
    content = keras_layout.to_bytes(config, random_weights(config))
    with h5py.File(io.BytesIO(content)) as file:
        kernel = file["layers/vae/layers/sampler/dense1/vars/0"]
        place = kernel.id.get_chunk_info(0).byte_offset + 7
        assert kernel.fletcher32 and kernel.chunks == kernel.shape
    path = epath.Path(tmp_path / "a.weights.h5")
    path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    with pytest.raises(UserError, match="is not an HDF5 file, or is incomplete"):
        keras_layout.read(path, config)


def test_a_baseline_survives_a_round_trip(tmp_path):
    config = config_of("square", adversarial="none")
    weights = random_weights(config)
    path = epath.Path(tmp_path / "a.weights.h5")
    path.write_bytes(keras_layout.to_bytes(config, weights))
    with h5py.File(path) as file:
        assert set(file) == {"layers", "optimizer", "vars"}
    assert_same_weights(keras_layout.read(path, config), weights)


def test_averaged_weights_are_written_in_place_of_the_last_ones():
    config = config_of("wide and grey", ema_decay=0.9)
    weights = random_weights(config)
    averaged = {**weights, "vae": {**weights["vae"], "params": weights["ema_params"]}}
    del averaged["ema_params"]
    plain = keras_layout.to_bytes(config_of("wide and grey"), averaged)
    with h5py.File(io.BytesIO(keras_layout.to_bytes(config, weights))) as ours, h5py.File(io.BytesIO(plain)) as theirs:
        assert contents(ours) == contents(theirs)


def test_optimizers_may_be_missing(changed):
    def edit(file):
        for group in ("optimizer", "generator_optimizer", "discriminator_optimizer"):
            del file[group]

    config = config_of("square")
    assert_same_weights(keras_layout.read(changed(edit), config), keras_layout.read(AUTHOR, config))


def refused(path, config, match):
    with pytest.raises(UserError, match=match) as error:
        keras_layout.read(epath.Path(path), config)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_file_without_a_sampler_is_refused(changed):
    def edit(file):
        for dense in ("dense1", "dense2"):
            for number in "01":
                del file[f"layers/vae/layers/sampler/{dense}/vars/{number}"]

    refused(changed(edit), config_of("square"), r"lacks the sampler \(layers/vae/layers/sampler/dense1 and dense2")


def test_a_file_with_other_players_than_the_configuration_is_refused(changed):
    refused(AUTHOR, config_of("square", adversarial="none"), "has a discriminator.* --config.loss.adversarial=bce")
    path = changed(lambda file: file.__delitem__("discriminator_model"))
    refused(path, config_of("square"), "has no discriminator.* --config.loss.adversarial=none")
    assert "discriminator" not in keras_layout.read(path, config_of("square", adversarial="none"))


def test_other_networks_are_refused_and_the_networks_of_the_file_are_described():
    refused(
        AUTHOR,
        config_of("full size"),
        r"layer_normalization/vars/0 \(vae/params/encoder/norm/gamma\) is float32 of shape \(32, 32\); expected float32"
        r" of shape \(256, 256\), and \d+ more differ.*The file has images of 32x32, 3 stages and 16 latent dimensions",
    )


def resized(shape, dtype=np.float32):
    def edit(file):
        name = "layers/vae/decoder_model/layers/conv2d_3/vars/1"
        del file[name]
        file[name] = np.zeros(shape, dtype)

    return edit


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (
            resized((9,)),
            r"conv2d_3/vars/1 \(vae/params/decoder/.*/bias\) is float32 of shape \(9,\); expected.*\(8,\)\.",
        ),
        (resized((8,), np.float64), r"conv2d_3/vars/1 .* is float64 of shape \(8,\); expected float32"),
        (
            lambda file: file.__delitem__("layers/vae/encoder_model/layers/conv2d_10"),
            r"encoder_model/layers/conv2d_10/vars/0 \(vae/params/encoder/.*/kernel\) is missing.*and 1 more",
        ),
        (
            lambda file: file.create_dataset("layers/vae/encoder_model/layers/conv2d_99/vars/0", data=np.zeros(3)),
            "conv2d_99/vars/0 is not in the configuration's networks",
        ),
        (
            lambda file: file.create_dataset("something/else", data=np.zeros(3)),
            "something/else is not in the configuration's networks",
        ),
    ],
)
def test_a_missing_surplus_or_differing_tensor_is_named(edit, match, changed):
    refused(changed(edit), config_of("square"), match)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_refused(share, tmp_path):
    whole = AUTHOR.read_bytes()
    path = tmp_path / "cut.weights.h5"
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path, config_of("square"), "is not an HDF5 file, or is incomplete")


def test_a_name_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "odd.weights.h5"
    with h5py.File(path, "w") as file:
        file["a_name/b"] = 1.0
    path.write_bytes(path.read_bytes().replace(b"a_name", b"a_\xcdame"))
    refused(path, config_of("square"), "is not an HDF5 file, or is incomplete")


def test_foreign_files_are_refused(tmp_path):
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["model_weights/dense/kernel"] = np.zeros((2, 2))
    refused(foreign, config_of("square"), "is not from the author's program: .* found model_weights/dense")
    archive = tmp_path / "model.keras"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("model.weights.h5", b"")
    refused(archive, config_of("square"), r"is a \*.keras file; unzip it")
    text = tmp_path / "text.weights.h5"
    text.write_text("no weights")
    refused(text, config_of("square"), "is not an HDF5 file")
    refused(tmp_path / "none.weights.h5", config_of("square"), "does not exist")
    refused(tmp_path, config_of("square"), "is a folder")


def in_another_file(file):
    file.create_dataset(f"{keras_layout.ENCODER}/x", (8,), np.float32, external=[("/etc/hostname", 0, 32)])


def virtual(file):
    layout = h5py.VirtualLayout((8,), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "x", (8,))
    file.create_virtual_dataset(f"{keras_layout.ENCODER}/x", layout)


def huge(file):
    file.create_dataset(f"{keras_layout.ENCODER}/x", (1 << 40,), np.float32, chunks=(1024,))


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (in_another_file, "encoder_model/x is in another file; expected all tensors in this one"),
        (virtual, "encoder_model/x is in another file; expected all tensors in this one"),
        (huge, r"encoder_model/x is float32 of shape \(1099511627776,\); expected at most 2,147,483,648 bytes in all"),
        (lambda file: file.__setitem__("a\nb", 1.0), r"a\\nb is not in the configuration's networks"),
    ],
)
def test_what_a_file_claims_or_fetches_from_elsewhere_is_refused_in_one_line(edit, match, changed):
    refused(changed(edit), config_of("square"), match)


def test_a_name_of_two_lines_is_written_in_one(tmp_path):
    path = tmp_path / "foreign.weights.h5"
    with h5py.File(path, "w") as file:
        file["a\nb/c"] = 1.0
    refused(path, config_of("square"), r"is not from the author's program: .* found a\\nb/c")
