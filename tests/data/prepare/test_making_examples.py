import dataclasses
import shutil

import numpy as np
import pytest
from making import (
    area_average,
    encode,
    fill,
    make_pixels,
    open_pictures,
    prepare,
    prepare_error,
    read_images,
    read_rows,
)
from PIL import Image, ImageOps

LUMA = np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize(("config", "place"), [("16", 0), ("12x20", 1), ("16_grey", 0)])
def test_an_image_is_the_area_average_of_the_middle(mixed, crops, config, place):
    folder, data_dir = mixed
    images = read_images(data_dir, config)
    assert len(images) == 36
    height, width = (12, 20) if config == "12x20" else (16, 16)
    for name, image in images.items():
        picture = ImageOps.exif_transpose(Image.open(folder / name.decode()))
        pixels = np.asarray(picture.convert("RGB"))
        top, left, h, w = crops[pixels.shape[:2]][place]
        expected = area_average(pixels[top : top + h, left : left + w], height, width)
        rounding = 0.51
        if config == "16_grey":
            expected, rounding = (expected @ LUMA)[:, :, None], 1.01  # rounded twice
        assert image.dtype == np.uint8
        assert image.shape == expected.shape
        assert np.abs(image - expected).max() <= rounding, name


def test_a_crop_is_cut_from_the_middle(pictures, data_dir):
    prepare(pictures, data_dir, (15, 10, 3), crop=(30, 20))
    for name, image in read_images(data_dir, "15x10").items():
        pixels = np.asarray(Image.open(pictures / name.decode()))
        assert np.abs(image - area_average(pixels[5:35, 15:35], 15, 10)).max() <= 0.51


def test_a_tall_picture_lying_on_its_side_keeps_its_sharpness(pictures, tmp_path, data_dir):
    """What JPEG may be decoded at a fraction of its size is decided by the upright picture."""
    exif = Image.Exif()
    exif[0x112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (12, 100, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    folder = shutil.copytree(pictures, tmp_path / "with_tall")
    (folder / "tall.jpg").write_bytes(encode(pixels, "JPEG", quality=95, subsampling=0, exif=exif))
    prepare(folder, data_dir, (8, 64, 3), enlarge=9.0)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(folder / "tall.jpg")))
    assert upright.shape == (800, 96, 3)
    expected = area_average(upright[394:406], 8, 64)
    assert np.abs(read_images(data_dir, "8x64")[b"tall.jpg"] - expected).max() <= 2


def test_a_picture_is_enlarged_up_to_the_limit(pictures, tmp_path, data_dir):
    folder = shutil.copytree(pictures, tmp_path / "cats")
    (folder / "small.png").write_bytes(encode(make_pixels(1, 10, 10)))
    (made,) = prepare(folder, data_dir, enlarge=1.6)
    assert read_rows(made / "skipped.csv")[1:] == []
    assert read_images(data_dir)[b"small.png"].shape == (16, 16, 3)
    (made,) = prepare(folder, tmp_path / "other", enlarge=1.5)
    ((name, reason),) = read_rows(made / "skipped.csv")[1:]
    assert name == "small.png"
    assert "enlarged 1.6 times" in reason


def test_a_picture_smaller_than_the_crop_is_skipped(pictures, tmp_path, data_dir):
    folder = shutil.copytree(pictures, tmp_path / "cats")
    (folder / "low.png").write_bytes(encode(make_pixels(1, 31, 50)))
    (made,) = prepare(folder, data_dir, crop=(32, 32))
    ((name, reason),) = read_rows(made / "skipped.csv")[1:]
    assert name == "low.png"
    assert "31x50 pixels, smaller than the crop of 32x32" in reason


def test_a_picture_may_be_too_small_for_one_shape_only(pictures, tmp_path, data_dir):
    folder = shutil.copytree(pictures, tmp_path / "cats")
    (folder / "small.png").write_bytes(encode(make_pixels(1, 10, 10)))
    small, large = prepare(folder, data_dir, (16, 16, 3), (24, 24, 3))
    assert read_rows(small / "skipped.csv")[1:] == []
    assert [row[0] for row in read_rows(large / "skipped.csv")[1:]] == ["small.png"]
    assert read_images(data_dir).keys() - read_images(data_dir, "24").keys() == {b"small.png"}


def test_a_file_that_may_be_readable_later_is_not_skipped(pictures, data_dir):
    source = open_pictures(pictures)

    def flaky(name, failing=[True]):  # noqa: B006 - the list is kept between calls
        if name == "007.png" and failing.pop():
            raise OSError(5, "Input/output error")
        return source.read(name)

    flaky_source = dataclasses.replace(source, read=flaky)
    assert "007.png: Input/output error; the same command goes on from here" in prepare_error(flaky_source, data_dir)
    flaky_source = dataclasses.replace(source, read=source.read)
    (folder,) = prepare(flaky_source, data_dir)
    assert read_rows(folder / "skipped.csv") == [["name", "reason"]]


def test_a_file_that_vanishes_is_not_skipped_but_a_broken_link_is(tmp_path, data_dir):
    folder = fill(tmp_path / "pictures")
    (folder / "link.png").symlink_to("nowhere")
    source = open_pictures(folder)
    moved = folder.rename(tmp_path / "not_mounted")
    message = prepare_error(source, data_dir)
    assert "No such file or directory; the same command goes on from here" in message
    moved.rename(folder)
    (made,) = prepare(source, data_dir)
    assert read_rows(made / "skipped.csv")[1:] == [["link.png", "cannot be read: No such file or directory"]]
