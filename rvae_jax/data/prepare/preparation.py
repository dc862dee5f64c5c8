"""Pictures to a TFDS data set of images at the size that is trained on: in parallel, resumable, whole or not there."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import fcntl
import hashlib
import json
import math
import multiprocessing
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
import tqdm
from etils import epath
from tensorflow_datasets.core import dataset_info, file_adapters, naming

from rvae_jax.data.prepare import summary
from rvae_jax.data.prepare.examples import Maker, Settings, Shape, config_name, described, features
from rvae_jax.data.prepare.shards import Report, Shard, write_shards
from rvae_jax.data.prepare.sources import SPLITS, Source, order_key
from rvae_jax.errors import UserError
from rvae_jax.system.units import format_bytes

VERSION = "1.0.0"
RECORD_FILE = "preparation.json"
_PLAN_FILE = "plan.json"
STAGING = "incomplete"
_SHARD_BYTES, _SHARD_PICTURES = 128 << 20, 1024  # at most
_WORTH_A_PROCESS = 1000  # pictures; for fewer, the start of other processes takes longer than the work
_FORMAT = 1  # of what is written; another one is another data set
_TAKEN = (STAGING, "downloads", "orl")  # names that mean something else in the folder of data sets
_MAY_PASS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE}


def check_name(name: str) -> None:
    """Raises a UserError where ``name`` cannot be a data set's."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in _TAKEN:
        raise UserError(
            f"--name={name}: expected small letters, digits and _, beginning with a letter, and none of"
            f" {', '.join(_TAKEN)}"
        )


def name_of(path: Path) -> str:
    """A name for the data set of a folder or archive, as good as its own allows; it may be none."""
    stem = path.name if path.is_dir() else path.name.split(".")[0]
    return re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")


def fingerprint(source: Source, settings: Settings) -> str:
    """A hash of what decides the result, but for the shapes: names and sizes of the files, labels, settings."""
    digest = hashlib.sha256(json.dumps([_FORMAT, VERSION, described(settings)]).encode())
    for name, size in sorted(source.files.items()):
        digest.update(f"{name}\0{size}\0{source.split(name)}\n".encode("utf-8", "surrogateescape"))
    for label, table in sorted(source.labels.items()):
        for name in sorted(source.files):
            row = table.row(name) if name in table else None
            digest.update(f"{label}/{name}:{row!r}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def prepare(
    source: Source,
    settings: Settings,
    name: str,
    data_dir: Path,
    max_skipped: float = 0.05,
    replace: bool = False,
    processes: int | None = None,
) -> list[Path]:
    """Prepares a data set: ``data_dir/name/CONFIG/1.0.0`` for each shape, unless it is there.

    A folder appears there by one rename, when it is whole; its bytes are a function of source and settings alone, but
    for the times of the source's files in ``preparation.json``. All sizes of a name are made from the same pictures
    with the same settings.
    Work that was interrupted in any way goes on where it was. Beside the shards lie ``skipped.csv``,
    ``duplicates.csv``, ``summary.png``, ``summary.json`` and ``preparation.json``.

    Args:
      source: the pictures.
      settings: what is made of them.
      name: of the data set.
      data_dir: folder of prepared TFDS data sets.
      max_skipped: the largest share of the pictures that may be unusable.
      replace: whether to replace a data set of that name that was made of something else.
      processes: that decode; as many as there are cores if None.

    Returns:
      The folders, in the order of the shapes.

    Raises:
      UserError: too many pictures are unusable, a split stays empty, the data set is there with other settings, a file
        of the settings is wrong, or the disk has too little room.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # One of our own processes, which imports the user's script again, and would wait for its parent for ever.
        raise UserError('a script that prepares pictures must do so under if __name__ == "__main__":')
    check_name(name)
    with _system_errors():
        return _prepare(source, settings, name, data_dir, max_skipped, replace, processes or os.cpu_count() or 1)


def _prepare(
    source: Source,
    settings: Settings,
    name: str,
    data_dir: Path,
    max_skipped: float,
    replace: bool,
    processes: int,
) -> list[Path]:
    folders = {shape: data_dir / name / config_name(shape) / VERSION for shape in settings.shapes}
    mark = fingerprint(source, settings)
    for version in sorted((data_dir / name).glob(f"*/{VERSION}")):
        record = read_record(version)
        if record and record["fingerprint"] == mark and record["modified"] != source.modified and not replace:
            print(f"Warning: since {version} was made, its pictures' files were written; if they changed, --replace it")
    root = data_dir / name / STAGING
    if not root.exists() and not _missing(folders, mark, source.modified, replace):
        return _already(folders)
    (data_dir / name).mkdir(parents=True, exist_ok=True)
    with _locked(data_dir / name / ".lock"):
        missing = _missing(folders, mark, source.modified, replace)
        if not missing:  # another process has done it, or one that was killed at its very end
            _clear_if_done(root, data_dir / name)
            return _already(folders)
        others = _of_other_pictures(data_dir / name, mark)
        if others and not replace:
            record = read_record(others[0])
            raise UserError(
                f"{others[0]} is there, made from {record['source']}, of other pictures or with other settings; give"
                " another --name, or --replace all sizes of it"
            )
        work = _Work(source, dataclasses.replace(settings, shapes=missing), name, root, mark)
        work.do(max_skipped, processes)
        for other in others:
            if other not in folders.values():
                _set_aside(other, root)
                print(f"Removed {other}, which was of other pictures or settings")
        for shape in missing:
            if folders[shape].exists():
                _set_aside(folders[shape], root)
            _publish(work.folder(shape), folders[shape])
        shutil.rmtree(root, ignore_errors=True)
    return list(folders.values())


def read_record(folder: Path) -> dict[str, Any] | None:
    """What a data set in ``folder`` was prepared from, or None where it was not prepared by this program."""
    try:
        record = json.loads((folder / RECORD_FILE).read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"fingerprint", "modified"} <= record.keys() else None


class _Work:
    """What is left to do of a preparation, kept on disk."""

    def __init__(self, source: Source, settings: Settings, name: str, root: Path, mark: str) -> None:
        self.source, self.settings, self.name, self.root, self.mark = source, settings, name, root, mark
        self.wanted = settings.shapes
        self.order: dict[str, list[str]] = {split: [] for split in SPLITS}
        for picture in sorted(source.files, key=lambda picture: (order_key(picture), picture)):
            self.order[source.split(picture)].append(picture)
        self.shards: list[Shard] = []
        self.split: list[str] = []  # of each shard

    def folder(self, shape: Shape) -> Path:
        """Where the data set of a shape is put together."""
        return self.root / config_name(shape) / "whole"  # deeper than TFDS looks for data sets

    def do(self, max_skipped: float, processes: int) -> None:
        """Does what is not done yet."""
        self._require_pictures()
        Maker(
            self.source, self.settings
        )  # so that what is wrong with boxes or detector is told before anything is done
        self._begin()
        total = len(self.source.files)
        shards = [shard for shard in self.shards if not self._report(shard).exists()]
        before = total - sum(len(shard.names) for shard in shards)
        if before:
            print(f"Goes on after {before:,} of {total:,} pictures")
        skipped = [row for report in self._reports().values() for row in _skipped(report)]
        self._require_few(skipped, max_skipped)
        if total < _WORTH_A_PROCESS and self.settings.detector is None:
            processes = 1
        with tqdm.tqdm(total=total, initial=before, unit=" pictures", desc=self.name, mininterval=0.5) as bar:

            def show(done: int, skipped: int) -> None:
                bar.set_postfix({"skipped": skipped}, refresh=False)
                bar.update(before + done - bar.n)

            written = write_shards(self.source, self.settings, shards, processes, show)
            with contextlib.closing(written):
                for shard, report in written:
                    _write(self._report(shard), json.dumps(report))
                    skipped += _skipped(report)
                    self._require_few(skipped, max_skipped)
        for shape in self.wanted:
            self._finish(shape)

    def _require_pictures(self) -> None:
        for split in SPLITS:
            if not self.order[split]:
                counts = ", ".join(f"{len(names):,} {split}" for split, names in self.order.items())
                raise UserError(
                    f"{self.source.title}: {len(self.source.files):,} pictures, of which {counts}; expected at least"
                    " one in each, and a few hundred in all"
                )
        needed = sum(len(self.source.files) * math.prod(shape) for shape in self.wanted)
        free = shutil.disk_usage(self.root.parent).free
        if self.settings.encoding == "raw" and needed > free and not self.root.exists():
            raise UserError(
                f"{self.root.parent}: {format_bytes(free)} free on its device, expected {format_bytes(needed)}; make"
                " room, take another --data_dir, a smaller --size, or --encoding=png"
            )

    def _begin(self) -> None:
        """Goes on with what was begun, in its shapes and shards, or begins."""
        plan, begun = _read_plan(self.root)
        mark = {"fingerprint": self.mark, "modified": self.source.modified}
        if mark.items() <= plan.items() and set(self.wanted) <= set(begun):
            self.settings = dataclasses.replace(self.settings, shapes=begun)
        elif self.root.exists():
            print(f"What was begun in {self.root} is of other pictures, sizes or settings: begins anew")
            shutil.rmtree(self.root)
        self.root.mkdir(exist_ok=True)
        for part in self.root.glob("*.part"):  # of processes that were killed
            part.unlink()
        for shape in self.wanted:
            self.folder(shape).mkdir(parents=True, exist_ok=True)
        _write(self.root / _PLAN_FILE, json.dumps({**mark, "shapes": self.settings.shapes}))
        per_shard = max(1, min(_SHARD_PICTURES, _SHARD_BYTES // max(map(math.prod, self.settings.shapes))))
        for split, names in self.order.items():
            for start in range(0, len(names), per_shard):
                index = len(self.shards)
                configs = [config_name(shape) for shape in self.settings.shapes]
                paths = {config: self.root / f"{config}_{index:05d}.array_record" for config in configs}
                self.shards.append(Shard(index, names[start : start + per_shard], paths))
                self.split.append(split)

    def _report(self, shard: Shard) -> Path:
        return self.root / f"shard_{shard.index:05d}.json"

    def _reports(self) -> dict[int, Report]:
        return {
            shard.index: json.loads(self._report(shard).read_text())
            for shard in self.shards
            if self._report(shard).exists()
        }

    def _require_few(self, skipped: list[Sequence[str]], max_skipped: float) -> None:
        if len(skipped) <= max_skipped * len(self.source.files):
            return
        listing = self.root / "skipped.csv"
        _write_csv(listing, ["name", "reason"], sorted(skipped))
        raise UserError(
            f"{self.source.title}: {len(skipped):,} of {len(self.source.files):,} pictures are unusable so far, more"
            f" than --max_skipped={max_skipped:g} of all: {_reasons(skipped)}. They are listed in {listing}; mend or"
            " remove them, or raise --max_skipped, and give the same command again"
        )

    def _finish(self, shape: Shape) -> None:
        """Names the shards as TFDS does, and writes everything else beside them."""
        config, folder = config_name(shape), self.folder(shape)
        reports = self._reports()
        kept = [shard for shard in self.shards if reports[shard.index]["images"][config]]
        template = naming.ShardedFileTemplate(
            data_dir=epath.Path(folder), dataset_name=self.name, filetype_suffix="array_record"
        )
        splits = []
        for split in SPLITS:
            shards = [shard for shard in kept if self.split[shard.index] == split]
            if not shards:
                raise UserError(
                    f"{self.source.title}: no picture of the split {split} is usable; expected some. Of all,"
                    f" {_reasons([row for report in reports.values() for row in _skipped(report)])}"
                )
            paths = [Path(path) for path in template.replace(split=split).sharded_filepaths(len(shards))]
            for shard, path in zip(shards, paths, strict=True):
                if not path.exists():
                    shard.paths[config].rename(path)
            splits.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[len(reports[shard.index]["images"][config]) for shard in shards],
                    num_bytes=sum(path.stat().st_size for path in paths),
                    filename_template=template.replace(split=split),
                )
            )
        self._write_info(shape, splits)
        rows = [(self.split[shard.index], *row) for shard in kept for row in reports[shard.index]["images"][config]]
        skipped = sorted(row for report in reports.values() for row in report["skipped"][config])
        _write_csv(folder / "skipped.csv", ["name", "reason"], skipped)
        duplicates = _duplicates(rows)
        _write_csv(folder / "duplicates.csv", ["name", "split", "same_as", "its_split"], duplicates)
        statistics = summary.write(folder, shape, rows, skipped, duplicates, dict(self.source.ignored))
        record = {
            "fingerprint": self.mark,
            "modified": self.source.modified,
            "source": self.source.title,
            "shape": shape,
            "encoding": self.settings.encoding,
            "settings": described(self.settings),
            "terms": self.source.terms,
        }
        _write(folder / RECORD_FILE, json.dumps(record, indent=2) + "\n")
        print(summary.in_words(statistics))

    def _write_info(self, shape: Shape, splits: list[tfds.core.SplitInfo]) -> None:
        identity = dataset_info.DatasetIdentity(
            name=self.name,
            version=tfds.core.Version(VERSION),
            data_dir=str(self.folder(shape)),
            module_name="",
            config_name=config_name(shape),
            config_description=f"{shape[0]}x{shape[1]}, {'grey' if shape[2] == 1 else 'RGB'}",
        )
        info = dataset_info.DatasetInfo(
            builder=identity,
            description=f"{self.source.title}, prepared by rvae_jax. {self.source.terms}".encode(
                "utf-8", "replace"
            ).decode(),
            features=features(shape, self.settings.encoding, self.source),
            homepage=self.source.homepage or None,
            citation=self.source.citation or None,
        )
        info.set_file_format(file_adapters.FileFormat.ARRAY_RECORD)
        info.set_splits(tfds.core.splits.SplitDict(splits))
        info.write_to_directory(self.folder(shape))


def _duplicates(rows: list[tuple[str, str, Any, str]]) -> list[list[str]]:
    """Images with the same pixels as an earlier one, by name, each with the first that has them."""
    first: dict[str, tuple[str, str]] = {}
    found = []
    for split, name, _, digest in sorted(rows, key=lambda row: row[1]):
        if digest in first:
            found.append([name, split, *first[digest]])
        else:
            first[digest] = (name, split)
    return found


def _skipped(report: Report) -> list[Sequence[str]]:
    """The rows of the size for which most are skipped."""
    return max(report["skipped"].values(), key=len)


def _reasons(skipped: list[Sequence[str]]) -> str:
    """The most frequent reasons, each with an example."""
    by_kind: dict[str, list[Sequence[str]]] = {}
    for row in skipped:
        by_kind.setdefault(_kind_of_reason(row[1]), []).append(row)
    most = sorted(by_kind.values(), key=len, reverse=True)[:3]
    return ", ".join(f"{len(rows):,} such as {rows[0][0]} ({rows[0][1]})" for rows in most)


def _kind_of_reason(reason: str) -> str:
    return re.sub(r"\d[\dx.]*", "N", re.split(r"[:;(]", reason, maxsplit=1)[0]).strip()


def _already(folders: dict[Shape, Path]) -> list[Path]:
    print(f"Already prepared: {', '.join(map(str, folders.values()))}")
    return list(folders.values())


def _missing(folders: dict[Shape, Path], mark: str, modified: str, replace: bool) -> tuple[Shape, ...]:
    """The shapes that are to be made."""
    return tuple(shape for shape, folder in folders.items() if not _is_there(folder, mark, modified, replace))


def _is_there(folder: Path, mark: str, modified: str, replace: bool) -> bool:
    record = read_record(folder)
    if record is None:
        if folder.exists() and not replace:
            raise UserError(f"{folder} is there, not made by this command; give another --name, or --replace it")
        return False
    return record["fingerprint"] == mark and (record["modified"] == modified or not replace)


def _of_other_pictures(folder: Path, mark: str) -> list[Path]:
    """The sizes of a data set that were made by this program of something else."""
    records = {version: read_record(version) for version in sorted(folder.glob(f"*/{VERSION}"))}
    return [version for version, record in records.items() if record and record["fingerprint"] != mark]


def _read_plan(root: Path) -> tuple[dict[str, Any], tuple[Shape, ...]]:
    """What was begun in ``root``, and its shapes; nothing where that cannot be told."""
    try:
        plan = json.loads((root / _PLAN_FILE).read_text())
        return plan, tuple(tuple(shape) for shape in plan["shapes"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}, ()


def _clear_if_done(root: Path, folder: Path) -> None:
    """Removes work of which all has appeared in ``folder``, or of which the plan is gone."""
    plan, shapes = _read_plan(root)
    records = [read_record(folder / config_name(shape) / VERSION) for shape in shapes]
    mark = {key: plan.get(key) for key in ("fingerprint", "modified")}
    if all(record and mark.items() <= record.items() for record in records):
        shutil.rmtree(root, ignore_errors=True)


def _set_aside(folder: Path, root: Path) -> None:
    """Moves a data set to what will be removed: by one rename, so that it is never there in part."""
    aside = root / folder.parent.name / "old"
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(exist_ok=True)
    folder.rename(aside)
    with contextlib.suppress(OSError):  # it has other versions
        folder.parent.rmdir()


def _publish(made: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    made.rename(folder)
    print(f"Prepared {folder}: look at summary.png there, and at skipped.csv and duplicates.csv if they name any")


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """Tells in one line of a disk that is full, or a folder that may not be written."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        goes_on = "; what is done so far is kept, and the same command goes on" if error.errno in _MAY_PASS else ""
        raise UserError(f"{where}{error.strerror or error}{goes_on}") from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock that ends with the process."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Waits for another process that prepares {path.parent.name}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", errors="surrogateescape")
    part.replace(path)


def _write_csv(path: Path, header: list[str], rows: Iterable[Iterable[str]]) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([header, *rows])
    part.replace(path)
