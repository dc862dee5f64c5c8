"""Pictures of phones: HEIC and AVIF."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from encoded import IMAGE, assert_near, decoded, exif_of, natural, reason_for
from making import encode, open_pictures, prepare, read_images, user_error
from PIL import Image

from rvae_jax.config import Config, ModelConfig
from rvae_jax.data import reading
from rvae_jax.data.prepare.sources import kinds
from rvae_jax.errors import install

pillow_heif.register_heif_opener()  # to write them

KINDS = {"HEIF": ("heic", 6.0), "AVIF": ("avif", 3.0)}  # suffix, and how far their pixels are on average


def _file(kind, image=IMAGE, **options):
    return encode(image, kind, quality=95, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_phones_are_close(kind):
    assert_near(decoded(_file(kind)), IMAGE, KINDS[kind][1])
    reason_for(_file(kind)[:-300])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 3), (8, 1)])
def test_pictures_of_phones_are_turned_upright(kind, orientation, turns):
    data = _file(kind, exif=exif_of(orientation).tobytes())
    assert_near(decoded(data), np.rot90(IMAGE, turns), KINDS[kind][1])


@pytest.mark.parametrize("kind", KINDS)
def test_transparency_of_phones_pictures_lies_on_white(kind):
    alpha = np.full(IMAGE.shape[:2], 255, np.uint8)
    alpha[:20] = 0
    pixels = decoded(_file(kind, np.dstack([IMAGE, alpha])))
    assert pixels[:16].min() > 250
    assert_near(pixels[24:], IMAGE[24:], KINDS[kind][1])


def _album(folder):
    """40 pictures, of which 5 are HEIC and 3 AVIF."""
    folder.mkdir()
    for i in range(40):
        kind, suffix = ("HEIF", "HEIC") if i < 5 else ("AVIF", "avif") if i < 8 else ("PNG", "png")
        (folder / f"{i:02d}.{suffix}").write_bytes(encode(natural(24, 24, i), kind))
    return folder


def test_an_album_is_prepared(tmp_path, data_dir):
    prepare(_album(tmp_path / "album"), data_dir, (24, 24, 3))
    images = read_images(data_dir, "24")
    assert len(images) == 40
    assert_near(images[b"03.HEIC"], natural(24, 24, 3), 12)
    assert_near(images[b"06.avif"], natural(24, 24, 6), 12)


BLOCK = "import sys; sys.modules['pillow_heif'] = sys.modules['PIL._avif'] = None\n"


def test_without_their_decoders_one_line_says_how_many_were_left_out(tmp_path):
    _album(tmp_path / "album")
    script = f"{BLOCK}from rvae_jax import prepare; sys.argv[0] = 'prepare'; prepare.main()"
    arguments = tmp_path / "album", "--size=24", f"--data_dir={tmp_path}/data", "--processes=1"
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "not looked at: 5 .heic, 3 .avif" in result.stdout
    assert lines[-2] == f"8 pictures (.avif, .heic) were left out: to read them, {install('heic')}"
    assert lines[-1].startswith("Train on it with")


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(kinds, "_MISSING", kinds._OF_PHONES)
    monkeypatch.setattr(kinds, "FORMATS", tuple(kinds._USUAL))
    monkeypatch.setattr(kinds, "SUFFIXES", (".jpg", ".png"))


def test_an_album_of_phones_pictures_alone_is_told_what_it_needs(tmp_path, nothing_installed):
    with zipfile.ZipFile(tmp_path / "album.zip", "w") as archive:
        archive.writestr("a.heic", _file("HEIF"))
    message = user_error(open_pictures, tmp_path / "album.zip")
    assert "no picture there, but 1 .heic; 1 pictures (.heic) were left out: to read them, pip install" in message
    assert "[heic]" in message


def test_a_heic_by_another_name_is_told_what_it_needs(nothing_installed):
    assert f"HEIF needs {install('heic')}" in reason_for(_file("HEIF"))
    assert f"AVIF needs {install('heic')}" in reason_for(_file("AVIF"))


def test_pictures_of_a_folder_used_later_are_named_if_left_out(tmp_path, nothing_installed):
    (tmp_path / "later").mkdir()
    (tmp_path / "later/a.heic").write_bytes(_file("HEIF"))
    Image.fromarray(IMAGE).save(tmp_path / "later/b.png")
    names, _, skipped = reading.read_folder(tmp_path / "later", Config(model=ModelConfig(image_shape=(16, 16, 3))))
    assert names == ["b.png"]
    assert skipped[0].startswith("1 pictures (.heic) were left out")
