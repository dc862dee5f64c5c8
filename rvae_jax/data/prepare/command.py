"""What ``python -m rvae_jax.prepare`` does, once its arguments are read."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from rvae_jax.data import catalog
from rvae_jax.data.prepare import preparation
from rvae_jax.data.prepare import value_range as ranges
from rvae_jax.data.prepare.deep import Range
from rvae_jax.data.prepare.settings import PreparationSettings
from rvae_jax.data.prepare.sources import faces, tables
from rvae_jax.data.prepare.sources.named import open_named
from rvae_jax.data.prepare.sources.source import Source, folder_of
from rvae_jax.data.prepared import FACE_SET_NAMES, PORTRAITS, SOURCE_NAMES
from rvae_jax.data.process_tuning import tune_this_process
from rvae_jax.errors import UserError
from rvae_jax.system.units import format_bytes, format_duration


def run(
    sources: Sequence[str],
    size: Sequence[tuple[int, int]],
    *,
    name: str | None,
    data_dir: str | None,
    path: Path | None,
    count: int | None,
    crop: tuple[int, int] | str | None,
    boxes: Path | None,
    detector: str | None,
    margin: float,
    labels: Path | None,
    split_by: str | None,
    grey: bool,
    value_range: Range | str | None,
    encoding: str,
    enlarge: float,
    max_skipped: float,
    replace: bool,
    processes: int | None,
) -> None:
    """Prepares a data set; the arguments are those of the command.

    Raises:
      UserError: an argument is wrong, or see ``preparation.prepare``.
    """
    tune_this_process()
    source = sources[0]
    name = _checked_name(sources, path, name)
    if count and source != PORTRAITS:
        raise UserError(f"--count={count}: expected only with {PORTRAITS}")
    if crop is None and source in faces.FACE_SETS and not (boxes or detector):
        crop = faces.FACE_SETS[source].crop
    settings = PreparationSettings(
        shapes=tuple((*each, 1 if grey else 3) for each in size),
        crop=None if crop == "max" else crop,
        boxes=boxes,
        detector=detector,
        margin=margin,
        enlarge=enlarge,
        encoding=encoding,
    )
    folder = catalog.default_data_dir(data_dir)
    with open_named(source, path, folder, max(height for height, _ in size), count, sources[1:]) as pictures:
        pictures = _with_options(pictures, labels, split_by)
        if pictures.terms:
            print(f"Terms: {pictures.terms}")
        print(f"{len(pictures.files):,} pictures, split {pictures.split_rule}")
        if pictures.seconds:
            _tell_duration(pictures, processes or os.cpu_count() or 1)
        settings = dataclasses.replace(settings, value_range=ranges.choose(pictures, value_range))
        preparation.prepare(pictures, settings, name, folder, max_skipped, replace, processes)
    elsewhere = f" {shlex.quote(f'--config.data.data_dir={data_dir}')}" if data_dir else ""
    print(f"Train on it with --config.data.name={name}{elsewhere}")


def _checked_name(sources: Sequence[str], path: Path | None, name: str | None) -> str:
    """The data set's name: the one given, or one that the source gives."""
    source = sources[0]
    if len(sources) > 1 and not name:
        raise UserError(f"{len(sources)} sources make no name for a data set; give --name")
    if path and source not in FACE_SET_NAMES:
        raise UserError(f"--from={path}: expected only with {', '.join(FACE_SET_NAMES)}")
    if not name:
        folder = Path(source).expanduser().resolve()
        name = SOURCE_NAMES.get(source) or preparation.name_of(folder)
        if not name[:1].isalpha():
            raise UserError(f"{folder.name} makes no name for a data set; give --name")
    preparation.check_name(name)
    return name


def _tell_duration(source: Source, processes: int) -> None:
    duration = format_duration(len(source.files) * source.seconds / processes)
    print(
        f"Each is generated in about {source.seconds:g} s on one core: {duration} for all, however many sizes, with"
        f" --processes={processes} on as many free cores"
    )


def _with_options(source: Source, labels: Path | None, split_by: str | None) -> Source:
    if labels:
        source = dataclasses.replace(source, labels={"attributes": tables.read_table(labels, source.files)})
    if split_by:
        source = dataclasses.replace(source, group=folder_of if split_by == "folder" else str)
    return source


def print_list(data_dir: str | None) -> None:
    """Prints what is prepared."""
    folder = catalog.default_data_dir(data_dir)
    rows = list(catalog.listing(folder))
    print(f"{folder}: {len(rows) or 'no'} data sets")
    for row in rows:
        if "unreadable" in row:
            print(f"  {row['name']}: damaged: {row['unreadable']}")
            continue
        if "splits" not in row:
            print(f"  {row['name']}: begun, {row['parts']} parts are done; the same command goes on")
            continue
        shape = "x".join("?" if side is None else str(side) for side in row["shape"] or ())
        splits = ", ".join(f"{count:,} {split}" for split, count in row["splits"].items())
        print(f"  {row['name']}: {shape} {row['encoding']}; {splits}; {format_bytes(row['bytes'])}; {row['source']}")
