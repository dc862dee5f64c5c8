"""``config.json`` of a work directory: whatever is there is read, or refused in one line."""

import json
import os

import pytest
from etils import epath

from rvae_jax.config import Config, to_dict
from rvae_jax.errors import UserError
from rvae_jax.storage.workdir import read_config

WRONG = {
    "empty": (b"", "is not JSON"),
    "no text": (b"\xff\xfe", "is not JSON"),
    "cut off": (b'{"model": {', "is not JSON"),
    "deep": (b"[" * 10**5, "is not JSON"),
    "a list": (b"[]", r"is not JSON \(expected an object, found list\)"),
    "a number": (b"7", r"is not JSON \(expected an object, found int\)"),
    "an unknown field": ({"modle": {}}, "cannot be read: .*did you mean model"),
    "a name of two lines": ({"modle\n": {}}, r"cannot be read: configuration field modle\\n does not exist"),
    "an unknown kind": ({"model": {"norm": "layer"}}, "norm='layer': expected 'frozen' or 'batch'"),
    "text for a number": ({"model": {"latent_dim": "12"}}, "latent_dim='12': expected a whole number"),
    "a million blocks": ({"model": {"encoder_identity_blocks": 10**6}}, "encoder_identity_blocks=1000000: expected"),
    "wide layers": ({"model": {"encoder_filters": [10**9] * 7}}, "encoder_filters=.* from 1 to 65,536"),
    "many layers": ({"model": {"widths": [8] * 40, "network": "patches"}}, "widths=.*: expected at most 32 numbers"),
    "large images": ({"model": {"image_shape": [2**40, 2**40, 3]}}, "image_shape=.* from 1 to 65,536"),
    "a large file": (b" " * (2 << 20), "has 2,097,152 bytes; expected at most 1,048,576"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_configuration_is_one_line(name, tmp_path):
    content, expected = WRONG[name]
    path = tmp_path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(UserError, match=expected) as refused:
        read_config(epath.Path(tmp_path))
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_no_regular_file_is_not_read(kind, tmp_path):
    path = tmp_path / "config.json"
    make = {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/zero")}
    make[kind]()
    with pytest.raises(UserError, match=r"config\.json is no regular file; expected one"):
        read_config(epath.Path(tmp_path))


def test_a_right_configuration_is_read_through_a_link(tmp_path):
    (tmp_path / "there").write_text(json.dumps(to_dict(Config())))
    (tmp_path / "config.json").symlink_to("there")
    assert read_config(epath.Path(tmp_path)) == Config()
