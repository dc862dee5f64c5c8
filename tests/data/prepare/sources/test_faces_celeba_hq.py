import numpy as np
import pytest
from face_files import (
    ATTRIBUTES,
    error_of,
    examples_by_name,
    examples_of,
    make_jpeg,
    make_tar_of,
    pixels_of,
    prepare_named,
)
from PIL import Image

from rvae_jax.data.prepare.sources import faces


@pytest.mark.parametrize(("height", "chosen"), [(16, 64), (64, 64), (65, 128), (128, 128)])
def test_the_smallest_archive_that_is_large_enough_is_taken(data_dir, height, chosen, capsys):
    for size in (64, 128):
        files = {f"data{size}x{size}/{i:05d}.jpg": make_jpeg(i, size, size) for i in range(30)}
        make_tar_of(data_dir / f"downloads/manual/data{size}x{size}.tar", files)
    source = faces.open_celeba_hq(None, data_dir, data_dir, height)
    assert set(source.files) == {f"data{chosen}x{chosen}/{i:05d}.jpg" for i in range(30)}
    assert "has 30 pictures; CelebA-HQ has 30,000" in capsys.readouterr().out
    if height == 64:
        prepare_named("celeb_a_hq", data_dir, (64, 64, 3))
        row = examples_by_name(data_dir, "64")["data64x64/00007.jpg"]
        np.testing.assert_array_equal(row["image"], pixels_of(make_jpeg(7, 64, 64)))


def test_without_an_archive_that_is_large_enough_it_is_told(data_dir):
    make_tar_of(data_dir / "downloads/manual/data64x64.tar", {"data64x64/0.jpg": make_jpeg(0, 64, 64)})
    message = error_of(faces.open_celeba_hq, None, data_dir, data_dir, 128)
    assert f"{data_dir}/downloads/manual has no data{{R}}x{{R}}.tar with R of at least 128" in message
    assert "CelebAMask-HQ" in message


MAPPING = {0: 162_769, 1: 162_770, 2: 182_636, 3: 182_637, 4: 0, 5: 202_598}  # numbers that count from 0


EXPECTED = {0: "train", 1: "validation", 2: "validation", 3: "test", 4: "train", 5: "test"}


@pytest.fixture
def mask_hq(tmp_path):
    folder = tmp_path / "CelebAMask-HQ"
    pictures = folder / "CelebA-HQ-img"
    masks = folder / "CelebAMask-HQ-mask-anno/0"
    for path in (pictures, masks):
        path.mkdir(parents=True)
    lines = [str(len(MAPPING)), " ".join(ATTRIBUTES)]
    for i in MAPPING:
        (pictures / f"{i}.jpg").write_bytes(make_jpeg(i, 64, 64))
        Image.fromarray(np.zeros((51, 51), np.uint8)).save(masks / f"{i:05d}_skin.png")
        lines.append(f"{i}.jpg  " + " ".join("1" if (i + j) % 3 == 0 else "-1" for j in range(40)))
    (folder / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join(lines) + "\n")
    rows = [f"{i:<11d} {number:<12d} {number + 1:06d}.jpg" for i, number in MAPPING.items()]
    (folder / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(["idx   orig_idx   orig_file", *rows]) + "\n")
    return folder


@pytest.mark.parametrize("by_name", [True, False])
def test_celebamask_hq_has_celebas_partition_and_attributes(mask_hq, data_dir, by_name):
    name, path = ("celeb_a_hq", mask_hq) if by_name else (str(mask_hq), None)
    source = prepare_named(name, data_dir, path=path)
    assert set(source.files) == {f"{i}.jpg" for i in MAPPING}
    assert "non-commercial" in source.terms
    examples = examples_of(data_dir)
    found = {int(row["name"][:-4]): split for split, rows in examples.items() for row in rows}
    assert found == EXPECTED
    for name, row in examples_by_name(data_dir).items():
        i = int(name[:-4])
        assert [row["attributes"][key] for key in ATTRIBUTES] == [(i + j) % 3 == 0 for j in range(40)]


def test_celebamask_hq_may_lack_its_lists(mask_hq, data_dir):
    (mask_hq / "CelebA-HQ-to-CelebA-mapping.txt").unlink()
    source = faces.open_celebamask_hq(mask_hq)
    assert source.splits is None
    assert set(source.labels) == {"attributes"}
    (mask_hq / "CelebAMask-HQ-attribute-anno.txt").unlink()
    assert faces.open_celebamask_hq(mask_hq).labels == {}


def test_a_picture_without_attributes_is_told(mask_hq):
    (mask_hq / "CelebA-HQ-img/6.jpg").write_bytes(make_jpeg(6, 64, 64))
    assert "no line for 6.jpg" in error_of(faces.open_celebamask_hq, mask_hq)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("CelebAMask-HQ-attribute-anno.txt", b""),
        ("CelebAMask-HQ-attribute-anno.txt", b"\xff\xfe"),
        ("CelebAMask-HQ-attribute-anno.txt", b"1\nBald Young\n0.jpg 1"),
        ("CelebAMask-HQ-attribute-anno.txt", b"1\nBald\n0.jpg yes"),
        ("CelebAMask-HQ-attribute-anno.txt", b"1\nBald\n0.jpg 1" + b"0" * 30),
        ("CelebA-HQ-to-CelebA-mapping.txt", b"idx orig_idx\n0"),
        ("CelebA-HQ-to-CelebA-mapping.txt", b"idx orig_idx\n0 x"),
    ],
)
def test_a_list_of_another_form_is_named_in_one_line(name, content, mask_hq):
    (mask_hq / name).write_bytes(content)
    message = error_of(faces.open_celebamask_hq, mask_hq)
    assert f"{mask_hq / name}: cannot be read (" in message and "\n" not in message
