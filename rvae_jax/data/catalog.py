"""Which data set a configuration means, and what is prepared here."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import absl.logging
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import file_utils

from rvae_jax.config import Config, DataConfig
from rvae_jax.data import records
from rvae_jax.data.prepare import faces, orl, preparation, sources
from rvae_jax.data.prepare.preparation import STAGING, Settings, config_name, read_record
from rvae_jax.errors import UserError


def default_data_dir(data_dir: str | None) -> Path:
    """The folder of prepared data sets: the one given, or TFDS's own default."""
    return Path(_expanded(data_dir) or tfds.core.constants.DATA_DIR).expanduser()


def _expanded(data_dir: str | None) -> str | None:
    return data_dir and str(Path(data_dir).expanduser())  # a shell leaves the ~ of --data_dir=~/sets alone


def resolve(config: Config, before_work: Callable[[Config], None] = lambda config: None) -> Config:
    """The configuration with the data set that it means, prepared where that can be done here and now.

    ``data.folder`` is prepared at the model's size and becomes ``data.name``, with the splits ``train``, ``validation``
    (which selects the checkpoint) and ``test``. The name has a hash of the folder's files: a run that goes on finds the
    same images or is refused. A name without a size becomes the one of the model's size. ``orl`` prepares itself.

    Args:
      config: the configuration.
      before_work: is called with the configuration that will be returned, and may raise, before pictures are prepared.

    Raises:
      UserError: there is neither folder nor name, the folder cannot be prepared, or the data set has another size or
        number of channels.
    """
    data, shape = config.data, config.model.image_shape
    if data.folder is not None:
        return _prepare_folder(config, before_work)
    if not data.name:
        raise UserError(
            "--config.data.name: not given; expected a prepared data set, or --config.data.folder=PATH of pictures"
        )
    if data.name == "orl":
        orl.prepare(_expanded(data.data_dir))
    else:
        data = dataclasses.replace(data, name=_with_size(data, shape))
    return dataclasses.replace(config, data=data)


def load_dataset(data: DataConfig, split: str) -> records.Images:
    """Opens a split of the data set that the configuration names.

    Args:
      data: the data set's name and folder.
      split: a split or a slice of one in TFDS's syntax, ``train[80%:]``.

    Returns:
      The images in the order of the files, grey ``[h, w, 1]`` or RGB ``[h, w, 3]``.

    Raises:
      UserError: the data set is unknown, not prepared or only in part, not in array_record format, without a feature
        ``image``, or has no images in that split.
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


@contextlib.contextmanager
def opened_source(source: str, path: Path | None, data_dir: Path, height: int) -> Iterator[sources.Source]:
    """The pictures that ``source`` names: ``celeb_a``, ``celeb_a_hq``, ``lfw``, a folder, a zip or a tar.

    Args:
      source: the name or path.
      path: where the archives of a named one are, if not where TFDS has them.
      data_dir: folder of prepared data sets; a compressed tar is unpacked there, and removed on leaving.
      height: the largest wanted height.

    Raises:
      UserError: it is not there, or not to be had.
    """
    here = f".unpacked.{socket.gethostname()}."
    for left in data_dir.glob(f"{here}*"):
        try:
            os.kill(int(left.name.removeprefix(here)), 0)
        except ProcessLookupError:  # it was killed
            shutil.rmtree(left, ignore_errors=True)
        except (PermissionError, ValueError):  # it is somebody else's, or of a host whose name is longer
            continue
    scratch = data_dir / f"{here}{os.getpid()}"
    try:
        yield _open_source(source, path, data_dir, scratch, height)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _open_source(source: str, path: Path | None, data_dir: Path, scratch: Path, height: int) -> sources.Source:
    try:
        if source in faces.FACE_SETS:
            return faces.FACE_SETS[source].open(path, data_dir, scratch, height)
        folder = Path(source).expanduser()
        if faces.is_celebamask_hq(folder):
            return faces.open_celebamask_hq(folder)
        return sources.open_source(folder, scratch)
    except OSError as error:
        raise UserError(f"{error.filename or source}: {error.strerror or error}; expected pictures to read") from error


def listing(data_dir: Path) -> Iterator[dict[str, Any]]:
    """What is prepared in ``data_dir``, by name: a row for each data set.

    Returns:
      Rows with ``name``, ``shape``, ``encoding``, ``splits`` (a dictionary of counts), ``bytes`` and ``source``. One
      that was begun and not finished has ``name`` and ``parts``, how many parts are done; a broken one has ``name`` and
      ``unreadable``, the reason.
    """
    if not data_dir.is_dir():
        return
    with _quiet():
        references = sorted(file_utils.list_datasets_in_data_dir(data_dir), key=lambda each: each.tfds_name())
    for reference in references:
        folder = Path(reference.dataset_dir())
        name = reference.tfds_name(include_version=False)
        try:
            info = tfds.core.read_only_builder.builder_from_directory(folder).info
        except Exception as error:  # whatever TFDS meets in the files of others
            yield {"name": name, "unreadable": f"{folder}: {_one_line(error)}"}
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without TFDS's warnings of folders that are no data sets."""
    before = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        yield
    finally:
        absl.logging.set_verbosity(before)


def _prepare_folder(config: Config, before_work: Callable[[Config], None]) -> Config:
    data, shape = config.data, config.model.image_shape
    if not data.folder:
        raise UserError("--config.data.folder is empty; expected the path of a folder, zip or tar of pictures")
    if shape[2] not in (1, 3):
        raise UserError(f"--config.model.image_shape={shape}: expected 1 or 3 channels, as pictures have")
    folder = Path(data.folder).expanduser().resolve()
    data_dir = default_data_dir(data.data_dir)
    settings = Settings(shapes=(shape,), crop=data.crop)
    with opened_source(str(folder), None, data_dir, shape[0]) as source:
        mark = preparation.fingerprint(source, settings)[:8]
        made = "_".join(filter(None, ("folder", preparation.name_of(folder), mark)))
        name = f"{made}/{config_name(shape)}"
        if data.name not in (None, name):
            raise UserError(
                f"--config.data.name={data.name} and --config.data.folder={data.folder}: expected one of them"
                f" (the folder's pictures, as they are now, are {name})"
            )
        config = dataclasses.replace(config, data=dataclasses.replace(data, name=name, crop=None))
        before_work(config)
        print(f"The pictures in {folder} are data.name={name} in {data_dir}")
        preparation.prepare(source, settings, made, data_dir)
    return config


def _with_size(data: DataConfig, shape: tuple[int, int, int]) -> str:
    """The name with the size of the model's images, where it is of a data set prepared by this program."""
    name, _, config = data.name.partition(":")[0].partition("/")
    folder = default_data_dir(data.data_dir) / name
    made = {
        version.parent.name: record
        for version in folder.glob(f"*/{preparation.VERSION}")
        if (record := read_record(version)) is not None
    }
    if not made and name in _face_set_names():
        return f"{name}/{config or config_name(shape)}"  # so that what is missing is told with its size
    if not made or (config and config not in made):
        return data.name
    wanted = config or config_name(shape)
    if wanted in made and tuple(made[wanted]["shape"]) == shape:
        return f"{name}/{wanted}"
    there = ", ".join(f"{name}/{config} ({_by(record['shape'])})" for config, record in sorted(made.items()))
    size = f"{shape[0]}x{shape[1]}" + (" --grey" if shape[2] == 1 else "")
    raise UserError(
        f"data.name={data.name}: prepared as {there}, expected {_by(shape)} as model.image_shape is; prepare that too,"
        f" by python -m rvae_jax.prepare ... --name={name} --size={size}, or change --config.model.image_shape"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _by(shape: Any) -> str:
    return "x".join(map(str, shape))


def _find_prepared(data: DataConfig) -> tfds.core.DatasetBuilder:
    try:
        return tfds.core.read_only_builder.builder_from_files(data.name, data_dir=_expanded(data.data_dir))
    except tfds.core.DatasetNotFoundError:
        pass
    except Exception as error:  # of the name, or whatever TFDS meets in damaged files
        raise UserError(
            f"data.name={data.name}: {_one_line(error)}; expected name, name/config or name:version, of a whole set"
        ) from None

    name = data.name.partition("/")[0].partition(":")[0]
    data_dir = default_data_dir(data.data_dir)
    names = [row["name"] for row in listing(data_dir) if "splits" in row]
    there = ", ".join([*names[:8], *(["..."] if len(names) > 8 else [])]) or "none"
    if name not in _face_set_names():
        known = [*_face_set_names(), "orl", *tfds.list_builders(with_community_datasets=False)]
        if name not in known:
            known += [prepared.partition("/")[0] for prepared in names]
            similar = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
            raise UserError(
                f"data.name={data.name}: not a data set of TFDS, nor prepared in {data_dir} (there: {there}); expected"
                " one of those, orl, or one that you prepare by python -m rvae_jax.prepare"
                + (f"; did you mean {similar[0]}?" if similar else "")
            )
    raise UserError(
        f"data.name={data.name}: not prepared in {data_dir / name} (there: {there});"
        f" {_prepare_command(data.name, str(data_dir))}"
    )


def _face_set_names() -> dict[str, str]:
    """Names of what is prepared from the known face sets, and these."""
    return {face_set.name: source for source, face_set in faces.FACE_SETS.items()}


def _prepare_command(name: str, data_dir: str) -> str:
    """How to prepare a data set of ours, or of TFDS."""
    stem, _, config = name.partition("/")
    for face_set, source in _face_set_names().items():
        if stem in (face_set, source):
            size = config.removesuffix("_grey") or "SIZE"
            grey = " --grey" if config.endswith("_grey") else ""
            return f"run python -m rvae_jax.prepare {source} --size={size}{grey} --data_dir={data_dir}"
    return f"prepare it with TFDS, by tfds build {name} --file_format=array_record --data_dir={data_dir}"
