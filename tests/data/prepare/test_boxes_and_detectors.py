import linecache
import sys

import numpy as np
import pytest
from making import prepare, prepare_error, published, read_images, read_rows
from PIL import Image


def _write_boxes(path, boxes):
    rows = "".join(f"{name},{','.join(map(str, box))}\n" for name, box in boxes.items())
    path.write_text(f"name,left,top,width,height\n{rows}")
    return path


def _all(box):
    return {f"{i:03d}.png": box for i in range(40)}


def _reflected(image, top, left, height, width):
    padded = np.pad(image, ((30, 30), (30, 30), (0, 0)), mode="reflect")
    return padded[30 + top : 30 + top + height, 30 + left : 30 + left + width]


@pytest.mark.parametrize(
    ("box", "margin", "shape", "part"),  # (left, top, width, height) and (top, left, height, width)
    [
        ((12, 10, 8, 8), 0.0, (8, 8), (10, 12, 8, 8)),
        ((12, 10, 8, 8), 0.25, (12, 12), (8, 10, 12, 12)),
        ((12, 10, 8, 8), 0.25, (12, 24), (8, 4, 12, 24)),
        ((12, 10, 8, 8), 0.0, (16, 8), (6, 12, 16, 8)),
        ((40, 30, 12, 12), 0.5, (24, 24), (24, 34, 24, 24)),
        ((-4, -6, 12, 12), 0.0, (12, 12), (-6, -4, 12, 12)),
    ],
)
def test_a_box_is_cut_out_with_margin_and_aspect(pictures, tmp_path, data_dir, box, margin, shape, part):
    boxes = _write_boxes(tmp_path / "boxes.csv", _all(box))
    prepare(pictures, data_dir, (*shape, 3), boxes=boxes, margin=margin)
    config = f"{shape[0]}" if shape[0] == shape[1] else f"{shape[0]}x{shape[1]}"
    images = read_images(data_dir, config)
    assert len(images) == 40
    for name, image in images.items():
        expected = _reflected(np.asarray(Image.open(pictures / name.decode())), *part)
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        (None, "it has no box"),
        ((60, 5, 20, 20), "its box lies outside of its 40x50 pixels"),
        ((5, -30, 20, 20), "its box lies outside of its 40x50 pixels"),
        ((5, 5, 0.5, 20), "its box is 0.5 wide and 20 high"),
        ((5, 5, 4, 4), "would be enlarged 4.0 times"),
        (("nan", 5, 20, 20), "its box"),
        ((1, 5, "inf", 20), "its box"),
        ((1, 5, 1_000_000_000, 1_000_000_000), "its box"),
    ],
)
def test_a_picture_without_a_good_box_is_skipped(pictures, tmp_path, data_dir, box, reason):
    boxes = _all((5, 5, 20, 20)) | {"007.png": box}
    if box is None:
        del boxes["007.png"]
    (made,) = prepare(pictures, data_dir, boxes=_write_boxes(tmp_path / "boxes.csv", boxes))
    ((name, found),) = read_rows(made / "skipped.csv")[1:]
    assert name == "007.png"
    assert reason in found


def test_boxes_of_other_columns_are_refused(pictures, tmp_path, data_dir):
    path = tmp_path / "boxes.csv"
    path.write_text("name,x,y,w,h\n000.png,1,2,3,4\n")
    message = prepare_error(pictures, data_dir, boxes=path)
    assert str(path) in message
    assert "expected name, left, top, width, height" in message
    assert "No such file" in prepare_error(pictures, data_dir, boxes=tmp_path / "none.csv")
    assert published(data_dir) == []


DETECTOR = """\
def corners(picture):
    yield 30, 20, 8, 8
    yield 12.0, 10.0, 16.0, 16.0
    yield 0, 0, 0, 99


def seldom(picture):
    return [] if picture[0, 0, 0] > 127 else [(12, 10, 16, 16, 0.99)]


number = 3
"""


@pytest.fixture
def detector(tmp_path, monkeypatch):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/face_finder.py").write_text(DETECTOR)
    monkeypatch.syspath_prepend(tmp_path / "modules")


@pytest.mark.usefixtures("detector")
def test_the_largest_box_of_a_detector_is_cut_out(pictures, data_dir):
    prepare(pictures, data_dir, (20, 20, 3), detector="face_finder:corners", margin=0.125)
    for name, image in read_images(data_dir, "20").items():
        np.testing.assert_array_equal(image, np.asarray(Image.open(pictures / name.decode()))[8:28, 10:30])


@pytest.mark.usefixtures("detector")
def test_where_a_detector_finds_nothing_the_picture_is_skipped(pictures, data_dir):
    (made,) = prepare(pictures, data_dir, detector="face_finder:seldom", options={"max_skipped": 1.0})
    light = [path.name for path in sorted(pictures.iterdir()) if np.asarray(Image.open(path))[0, 0, 0] > 127]
    assert 0 < len(light) < 40
    assert read_rows(made / "skipped.csv")[1:] == [[name, "the detector found nothing"] for name in light]


@pytest.mark.usefixtures("detector")
@pytest.mark.parametrize("spec", ["face_finder", "face_finder:nothing", "no_such:find", ":find", "face_finder:number"])
def test_a_detector_that_is_not_there_is_refused(pictures, data_dir, spec):
    message = prepare_error(pictures, data_dir, detector=spec)
    assert f"--detector={spec}" in message
    assert "expected module:function" in message


def test_another_detector_under_the_same_name_is_another_set(pictures, tmp_path, data_dir, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_detector", raising=False)
    code = "def find(image):\n    return [(0, 0, 20, 20)]\n"
    (tmp_path / "my_detector.py").write_text(code)
    prepare(pictures, data_dir, detector="my_detector:find")
    prepare(pictures, data_dir, detector="my_detector:find")
    del sys.modules["my_detector"]
    (tmp_path / "my_detector.py").write_text(code.replace("20", "30"))
    linecache.checkcache()
    assert "with other settings" in prepare_error(pictures, data_dir, detector="my_detector:find")


def test_a_detector_that_always_fails_is_told_with_its_error(pictures, data_dir, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_detector.py").write_text("def find(image):\n    import no_such_module\n")
    message = prepare_error(pictures, data_dir, detector="broken_detector:find")
    assert "No module named 'no_such_module'" in message
