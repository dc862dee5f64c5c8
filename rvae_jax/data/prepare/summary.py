"""A contact sheet and statistics of what will be trained on, to look at."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rvae_jax.data import images, records
from rvae_jax.data.pixels import evenly_spaced

ROWS, COLUMNS = 6, 12
_TILE, _GAP, _LINE = 96, 2, 22
_MEAN_OF = 1024  # images at most

# An image's split, name, original (height, width), and a hash of its pixels.
Row = Sequence[Any]


def write(
    folder: Path,
    shape: tuple[int, int, int],
    rows: Sequence[Row],
    skipped: Sequence[Sequence[str]],
    duplicates: Sequence[Sequence[str]],
    ignored: dict[str, int],
) -> dict[str, Any]:
    """Writes ``summary.json`` and ``summary.png`` into the folder of a data set that is otherwise complete.

    Args:
      folder: of the data set.
      shape: of its images.
      rows: all images.
      skipped: the pictures that were skipped.
      duplicates: name, split, and those of the image with the same pixels, for each image that is one of another.
      ignored: the numbers of files that were not looked at, by kind.

    Returns:
      The statistics, as ``summary.json`` has them: counts, sizes of the original pictures in pixels, and mean and
      standard deviation of the pixels in [0, 255] by channel.
    """
    heights, widths = np.array([row[2] for row in rows]).T
    train = records.open_prepared(folder, "train")
    total, squares = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    sample = evenly_spaced(_MEAN_OF, len(train))
    for index in sample:
        image = train[index].astype(np.int32)
        total += image
        squares += image * image
    mean, second = total / len(sample), squares / len(sample)
    std = np.sqrt(second - mean**2)
    channel_mean = mean.mean(axis=(0, 1))
    channel_std = np.sqrt(second.mean(axis=(0, 1)) - channel_mean**2)
    crosses = sum(split != other for _, split, _, other in duplicates)
    statistics = {
        "shape": list(shape),
        "images": dict(Counter(row[0] for row in rows)),
        "skipped": len(skipped),
        "ignored_files": ignored,
        "duplicates": len(duplicates),
        "duplicates_in_another_split": crosses,
        "original_height": _range(heights),
        "original_width": _range(widths),
        "pixel_mean": channel_mean.round(2).tolist(),
        "pixel_std": channel_std.round(2).tolist(),
    }
    (folder / "summary.json").write_text(json.dumps(statistics, indent=2) + "\n")
    shown = np.stack([train[index] for index in evenly_spaced(ROWS * COLUMNS, len(train))])
    sheet = _sheet(shown, mean, std, in_words(statistics))
    sheet.save(folder / "summary.png")
    return statistics


def in_words(statistics: dict[str, Any]) -> str:
    """The statistics in one line."""
    height, width, channels = statistics["shape"]
    counts = ", ".join(f"{count:,} {split}" for split, count in statistics["images"].items())
    from_sizes = " x ".join(_span(statistics[side]) for side in ("original_height", "original_width"))
    words = f"{height}x{width} {'grey' if channels == 1 else 'RGB'}: {counts}; from pictures of {from_sizes}"
    words += f"; {statistics['skipped']:,} skipped, {statistics['duplicates']:,} duplicates"
    if statistics["duplicates_in_another_split"]:
        words += f" ({statistics['duplicates_in_another_split']:,} of an image in another split)"
    if statistics["ignored_files"]:
        kinds = sorted(statistics["ignored_files"].items(), key=lambda item: -item[1])[:5]
        words += f"; not looked at: {', '.join(f'{count:,} {kind}' for kind, count in kinds)}"
    return words


def _span(side: dict[str, int]) -> str:
    return f"{side['min']}" if side["min"] == side["max"] else f"{side['min']} to {side['max']}"


def _range(values: np.ndarray) -> dict[str, int]:
    return {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}


def _sheet(shown: np.ndarray, mean: np.ndarray, std: np.ndarray, title: str) -> Image.Image:
    """Images at left; at right, their mean and standard deviation by pixel, which tell whether they are aligned."""
    scale = _TILE / max(shown.shape[1:3])
    height, width = (max(1, round(side * scale)) for side in shown.shape[1:3])
    rows = -(-len(shown) // COLUMNS)
    pitch_y, pitch_x = height + _GAP, width + _GAP
    large = 3 * height + 2 * _GAP, 3 * width + 2 * _GAP
    left = COLUMNS * pitch_x + _LINE
    size = left + large[1] + _GAP, max(rows * pitch_y, 2 * (large[0] + _LINE)) + _LINE
    sheet = Image.new("RGB", size, "white")
    for index, image in enumerate(shown):
        y, x = divmod(index, COLUMNS)
        sheet.paste(_tile(image, height, width), (x * pitch_x, _LINE + y * pitch_y))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    draw.text((2, 3), title, "black", font)
    top = _LINE
    for picture, caption in (
        (mean, "mean: sharp where all are aligned"),
        (std * (255 / max(std.max(), 1e-9)), "deviation: dark where all are alike"),
    ):
        sheet.paste(_tile(np.round(picture).astype(np.uint8), *large), (left, top))
        draw.text((left, top + large[0] + 3), caption, "black", font)
        top += large[0] + _LINE
    return sheet


def _tile(image: np.ndarray, height: int, width: int) -> Image.Image:
    return Image.fromarray(images.with_channels(images.resize(image, height, width), 3))
