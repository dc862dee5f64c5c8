import itertools
import shutil

import pytest
from making import add_broken, encode, fill, make_pixels, prepare, prepare_two, read_tree
from PIL import Image


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """000.png to 039.png of 40x50; nobody writes here."""
    return fill(tmp_path_factory.mktemp("pictures") / "cats")


@pytest.fixture(scope="session")
def few(tmp_path_factory):
    """00.png to 39.png of 24x24; nobody writes here."""
    folder = tmp_path_factory.mktemp("few") / "few"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i:02d}.png").write_bytes(encode(make_pixels(i, 24, 24)))
    return folder


@pytest.fixture
def data_dir(tmp_path):
    (tmp_path / "datasets").mkdir()
    return tmp_path / "datasets"


@pytest.fixture(scope="session")
def broken_pictures(pictures, tmp_path_factory):
    """51 pictures, of which 11 are broken."""
    folder = shutil.copytree(pictures, tmp_path_factory.mktemp("broken") / "cats")
    add_broken(folder)
    return folder


@pytest.fixture(scope="session")
def undisturbed(broken_pictures, tmp_path_factory):
    """The files that ``prepare_two`` makes of the broken pictures when nothing happens to it."""
    data_dir = tmp_path_factory.mktemp("undisturbed")
    prepare_two(broken_pictures, data_dir)
    tree = read_tree(data_dir)
    assert sum("array_record" in name for name in tree) >= 12
    return tree


# (top, left, height, width) of the largest centred part of the shape 16:16 and 12:20, worked out by hand.
CROPS = {
    (40, 50): ((0, 5, 40, 40), (5, 0, 30, 50)),
    (64, 64): ((0, 0, 64, 64), (13, 0, 38, 64)),
    (33, 47): ((0, 7, 33, 33), (2, 0, 28, 47)),
    (90, 21): ((34, 0, 21, 21), (38, 0, 13, 21)),
}


@pytest.fixture(scope="session")
def crops():
    return CROPS


@pytest.fixture(scope="session")
def mixed(tmp_path_factory):
    """Pictures of many formats and sizes, prepared in three shapes at once."""
    folder, data_dir = tmp_path_factory.mktemp("mixed"), tmp_path_factory.mktemp("datasets")
    formats = {"png": "PNG", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP", "jpg": "JPEG"}
    exif = Image.Exif()
    exif[0x112] = 6  # lies on its side
    for i, (size, suffix) in enumerate(itertools.product(CROPS, formats)):
        for turned in range(2):
            if turned and suffix == "bmp":  # Pillow writes no EXIF into a BMP
                continue
            pixels = make_pixels(100 + i, *(size[::-1] if turned else size))
            options = {"lossless": True, "exif": exif} if turned else {"lossless": True}
            (folder / f"{i}_{turned}.{suffix}").write_bytes(encode(pixels, formats[suffix], **options))
    prepare(folder, data_dir, (16, 16, 3), (12, 20, 3), (16, 16, 1))
    return folder, data_dir
