"""Finds prepared data sets: the one that a configuration means, and all that there are."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import file_utils

from rvae_jax.config import Config, DataConfig
from rvae_jax.data import records
from rvae_jax.data.prepared import SOURCE_NAMES, STAGING, VERSION, Shape, config_name, read_record
from rvae_jax.errors import UserError, command, one_line
from rvae_jax.system.absl_logs import absl_verbosity


def default_data_dir(data_dir: str | None) -> Path:
    """The folder of prepared data sets: the one given, or TFDS's own default."""
    return Path(_expanded(data_dir) or tfds.core.constants.DATA_DIR).expanduser()


def _expanded(data_dir: str | None) -> str | None:
    return data_dir and str(Path(data_dir).expanduser())  # a shell does not expand the ~ of --data_dir=~/sets


def resolve(config: Config) -> Config:
    """The configuration with the full name of its data set; nothing is prepared.

    A name without a size becomes that of the model's size, where it is of a data set prepared by this program.
    ``prepare.on_demand.prepare_for`` finds what ``data.folder`` means, too.

    Raises:
      UserError: there is no name, or the data set has another size or number of channels.
    """
    data = config.data
    if not data.name:
        raise UserError(
            "--config.data.name: not given; expected a prepared data set, or --config.data.folder=PATH of pictures"
        )
    data = dataclasses.replace(data, name=_with_size(data, config.model.image_shape))
    return dataclasses.replace(config, data=data)


def load_dataset(data: DataConfig, split: str) -> records.Images:
    """Opens a split of the data set that the configuration names.

    Args:
      data: the data set's name and folder.
      split: a split or a slice of one in TFDS's syntax, ``train[80%:]``.

    Returns:
      The images in the order of the files, grey ``[h, w, 1]`` or RGB ``[h, w, 3]``.

    Raises:
      UserError: the data set is unknown, not prepared, incomplete, not in array_record format, has no feature
        ``image``, or no images in that split.
    """
    builder = _find_prepared(data)
    info = builder.info
    where = f"data.name={data.name}: the data set in {info.data_dir}"
    if tfds.core.FileFormat.ARRAY_RECORD not in info.available_file_formats():
        raise UserError(
            f"{where} has the format {info.file_format.value}, expected array_record;"
            f" {_prepare_command(data.name, f'{default_data_dir(data.data_dir)}_array_record')}"
        )
    return records.open_split(builder, split, where)


def value_range(data: DataConfig) -> tuple[float, float] | None:
    """The ``--range`` by which a data set was prepared; None where it had none, or is not here."""
    record = read_record(default_data_dir(data.data_dir) / (data.name or "") / VERSION) or {}
    found = record.get("settings", {}).get("value_range")
    is_range = isinstance(found, list) and len(found) == 2 and all(isinstance(each, int | float) for each in found)
    return tuple(found) if is_range else None


def listing(data_dir: Path) -> Iterator[dict[str, Any]]:
    """What is prepared in ``data_dir``, in the order of names: a row for each data set.

    Returns:
      Rows with ``name``, ``shape``, ``encoding``, ``splits`` (a dictionary of counts), ``bytes`` and ``source``. One
      that was begun and not finished has ``name`` and ``parts``, how many parts are done. A damaged one has ``name``
      and ``unreadable``, the reason.
    """
    if not data_dir.is_dir():
        return
    with absl_verbosity("error"):  # TFDS warns about folders that are not data sets
        references = sorted(file_utils.list_datasets_in_data_dir(data_dir), key=lambda each: each.tfds_name())
    for reference in references:
        folder = Path(reference.dataset_dir())
        name = reference.tfds_name(include_version=False)
        try:
            info = tfds.core.read_only_builder.builder_from_directory(folder).info
        except Exception as error:  # whatever TFDS meets in damaged files
            yield {"name": name, "unreadable": f"{folder}: {one_line(error, limit=200)}"}
            continue
        image = dict(info.features.items()).get("image")
        yield {
            "name": name,
            "shape": getattr(image, "shape", None),
            "encoding": "encoded" if isinstance(image, tfds.features.Image) else "raw",
            "splits": {name: split.num_examples for name, split in info.splits.items()},
            "bytes": sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
            "source": (read_record(folder) or {}).get("source", "TFDS"),
        }
    for staging in sorted(data_dir.glob(f"*/{STAGING}")):
        yield {"name": staging.parent.name, "parts": len(list(staging.glob("shard_*.json")))}


def _with_size(data: DataConfig, shape: Shape) -> str:
    """The name with the size of the model's images, where it is of a data set prepared by this program.

    Raises:
      UserError: it is prepared, but not at that size.
    """
    name, _, config = data.name.partition(":")[0].partition("/")
    folder = default_data_dir(data.data_dir) / name
    made = {
        version.parent.name: record
        for version in folder.glob(f"*/{VERSION}")
        if (record := read_record(version)) is not None
    }
    if not made and name in SOURCE_NAMES.values():
        return f"{name}/{config or config_name(shape)}"  # so that the error that follows names the size, too
    if not made or (config and config not in made):
        return data.name
    wanted = config or config_name(shape)
    if wanted in made and tuple(made[wanted]["shape"]) == shape:
        return f"{name}/{wanted}"
    there = ", ".join(f"{name}/{config} ({_by(record['shape'])})" for config, record in sorted(made.items()))
    size = f"{shape[0]}x{shape[1]}" + (" --grey" if shape[2] == 1 else "")
    raise UserError(
        f"data.name={data.name}: prepared as {there}, expected {_by(shape)} as model.image_shape is; prepare that too,"
        f" by {command('prepare')} ... --name={name} --size={size}, or change --config.model.image_shape"
    )


def _by(shape: Any) -> str:
    return "x".join(map(str, shape))


def _find_prepared(data: DataConfig) -> tfds.core.DatasetBuilder:
    try:
        return tfds.core.read_only_builder.builder_from_files(data.name, data_dir=_expanded(data.data_dir))
    except tfds.core.DatasetNotFoundError:
        pass
    except Exception as error:  # of the name, or whatever TFDS meets in damaged files
        raise UserError(
            f"data.name={data.name}: {one_line(error, limit=200)}; expected name, name/config or name:version, of a"
            " complete data set"
        ) from None

    name = data.name.partition("/")[0].partition(":")[0]
    data_dir = default_data_dir(data.data_dir)
    names = [row["name"] for row in listing(data_dir) if "splits" in row]
    there = ", ".join([*names[:8], *(["..."] if len(names) > 8 else [])]) or "none"
    if name not in SOURCE_NAMES.values():
        known = [*SOURCE_NAMES.values(), "orl", *tfds.list_builders(with_community_datasets=False)]
        if name not in known:
            known += [prepared.partition("/")[0] for prepared in names]
            similar = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
            raise UserError(
                f"data.name={data.name}: not a data set of TFDS, nor prepared in {data_dir} (there: {there}); expected"
                f" one of those, orl, or one that you prepare by {command('prepare')}"
                + (f"; did you mean {similar[0]}?" if similar else "")
            )
    raise UserError(
        f"data.name={data.name}: not prepared in {data_dir / name} (there: {there});"
        f" {_prepare_command(data.name, str(data_dir))}"
    )


def _prepare_command(name: str, data_dir: str) -> str:
    """How to prepare a data set of this program's, or of TFDS."""
    stem, _, config = name.partition("/")
    for source, prepared_name in SOURCE_NAMES.items():
        if stem in (source, prepared_name):
            size = config.removesuffix("_grey") or "SIZE"
            grey = " --grey" if config.endswith("_grey") else ""
            return f"run {command('prepare')} {source} --size={size}{grey} --data_dir={data_dir}"
    return f"prepare it with TFDS, by tfds build {name} --file_format=array_record --data_dir={data_dir}"
