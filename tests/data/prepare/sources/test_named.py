import os
import shutil
import socket
import subprocess

import pytest
from making import noise
from PIL import Image

from rvae_jax.data.prepare.sources.faces import FACE_SETS
from rvae_jax.data.prepare.sources.named import open_named
from rvae_jax.data.prepared import FACE_SET_NAMES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "My Cats"
    path.mkdir()
    for i in range(40):
        Image.fromarray(noise(24, 36, 3, seed=i)).save(path / f"{i:02d}.png")
    return path


def test_what_was_unpacked_by_a_killed_process_is_removed(folder, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "cats"), "gztar", folder)
    here = f".unpacked.{socket.gethostname()}"
    child = subprocess.Popen(["true"])
    child.wait()
    names = f"{here}.{child.pid}", f"{here}.{os.getppid()}", ".unpacked.elsewhere.1", f"{here}.example.1"
    dead, *others = (tmp_path / name for name in names)
    for left in (dead, *others):
        left.mkdir()
    with open_named(archive, None, tmp_path, 16) as source:
        assert len(source.files) == 40
        assert len(list(tmp_path.glob(".unpacked*"))) == 4
    assert set(tmp_path.glob(".unpacked*")) == set(others)


def test_every_known_face_set_has_a_name_and_can_be_opened():
    assert FACE_SETS.keys() == FACE_SET_NAMES.keys()
