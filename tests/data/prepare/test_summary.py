import json

import numpy as np
from making import prepare, read_examples
from PIL import Image, ImageOps


def test_the_summary_has_the_numbers_of_numpy(mixed):
    folder, data_dir = mixed
    made = data_dir / "cats/12x20/1.0.0"
    statistics = json.loads((made / "summary.json").read_text())
    examples = read_examples(data_dir, "12x20")
    train = np.stack([row["image"] for row in examples["train"]]).astype(np.float64)
    assert statistics["shape"] == [12, 20, 3]
    assert statistics["images"] == {split: len(rows) for split, rows in examples.items()}
    assert statistics["skipped"] == 0
    np.testing.assert_allclose(statistics["pixel_mean"], train.mean(axis=(0, 1, 2)), atol=0.005001)
    np.testing.assert_allclose(statistics["pixel_std"], train.std(axis=(0, 1, 2)), atol=0.005001)
    sizes = np.array([ImageOps.exif_transpose(Image.open(path)).size for path in folder.iterdir()])
    for side, values in (("original_width", sizes[:, 0]), ("original_height", sizes[:, 1])):
        expected = {"min": values.min(), "median": int(np.median(values)), "max": values.max()}
        assert statistics[side] == expected


def test_the_contact_sheet_shows_images_and_their_mean(pictures, data_dir):
    (made,) = prepare(pictures, data_dir, (24, 24, 3))
    sheet = Image.open(made / "summary.png")
    sheet.load()
    train = np.stack([row["image"] for row in read_examples(data_dir, "24")["train"]])
    assert len(train) <= 36
    # Twelve tiles of 96 in a row, with gaps of 2; beside them, two pictures as large as 3x3 tiles, with captions of 22.
    assert sheet.size == (12 * 98 + 22 + 292 + 2, 22 + 2 * (292 + 22))
    pixels = np.asarray(sheet).astype(float)
    first = pixels[22 : 22 + 96, :96].reshape(24, 4, 24, 4, 3).mean(axis=(1, 3))
    assert np.abs(first - train[0]).mean() < 2
    left = 12 * 98 + 22
    mean = pixels[22 : 22 + 292, left : left + 292]
    assert np.abs(mean.mean(axis=(0, 1)) - train.mean(axis=(0, 1, 2))).max() < 1
