"""Prepares a TFDS data set of images at the size that is trained on: in parallel, resumable, complete or not there."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import multiprocessing
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import filelock
import tqdm

from rvae_jax.data.prepare import listings, staging
from rvae_jax.data.prepare.examples import Maker
from rvae_jax.data.prepare.finishing import finish
from rvae_jax.data.prepare.settings import PreparationSettings, as_recorded
from rvae_jax.data.prepare.shards import write_shards
from rvae_jax.data.prepare.sources import kinds
from rvae_jax.data.prepare.sources.source import SPLITS, Source
from rvae_jax.data.prepared import STAGING, VERSION, Shape, config_name, read_record
from rvae_jax.errors import UserError
from rvae_jax.system.units import format_bytes

_WORTH_PROCESSES = 1000  # pictures; with fewer, starting other processes takes longer than the work
_FORMAT = 1  # of what is written; with another one, it is another data set
_TAKEN = (STAGING, "downloads", "orl")  # names that mean something else in the folder of data sets
_MAY_PASS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE}


def check_name(name: str) -> None:
    """Raises a UserError unless ``name`` can be a data set's."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in _TAKEN:
        raise UserError(
            f"--name={name}: expected small letters, digits and _, beginning with a letter, and none of"
            f" {', '.join(_TAKEN)}"
        )


def name_of(path: Path) -> str:
    """The data set's name that is nearest to that of a folder or archive; it may be empty."""
    stem = path.name if path.is_dir() else path.name.split(".")[0]
    return re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")


def fingerprint(source: Source, settings: PreparationSettings) -> str:
    """A hash of what decides the result, except the shapes: names and sizes of the files, labels, settings."""
    digest = hashlib.sha256(json.dumps([_FORMAT, VERSION, as_recorded(settings)]).encode())
    for name, size in sorted(source.files.items()):
        digest.update(f"{name}\0{size}\0{source.split(name)}\n".encode("utf-8", "surrogateescape"))
    for label, table in sorted(source.labels.items()):
        for name in sorted(source.files):
            row = table.row(name) if name in table else None
            digest.update(f"{label}/{name}:{row!r}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def prepare(
    source: Source,
    settings: PreparationSettings,
    name: str,
    data_dir: Path,
    max_skipped: float = 0.05,
    replace: bool = False,
    processes: int | None = None,
    *,
    shard_pictures: int | None = None,
    worth_processes: int = _WORTH_PROCESSES,
) -> list[Path]:
    """Prepares a data set: ``data_dir/name/CONFIG/1.0.0`` for each shape, unless it is there.

    A folder appears there by one rename, when it is complete. Its bytes are a function of source and settings alone,
    except for the times of the source's files in ``preparation.json``. All sizes of a name are made from the same
    pictures with the same settings. Work that was interrupted in any way goes on where it was. Beside the shards lie
    ``skipped.csv``, ``duplicates.csv``, ``summary.png``, ``summary.json`` and ``preparation.json``.

    Args:
      source: the pictures.
      settings: what is made of them.
      name: of the data set.
      data_dir: folder of prepared TFDS data sets.
      max_skipped: the largest share of the pictures that may be unusable.
      replace: whether to replace a data set of that name that was made of something else.
      processes: the number of processes that decode; as many as there are cores if None.
      shard_pictures: the largest number of pictures in a file; if None 1024, or 128 where they are generated, since an
        interruption loses the files that are being written.
      worth_processes: for fewer pictures, no other process is started, unless there is a detector or they are
        generated.

    Returns:
      The folders, in the order of the shapes.

    Raises:
      UserError: too many pictures are unusable, a split has none, the data set is there with other settings, a file
        of the settings is wrong, or the disk has too little room.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # This is one of our own processes: it imports the user's script again, and would wait for its parent for ever.
        raise UserError('a script that prepares pictures must do so under if __name__ == "__main__":')
    check_name(name)
    processes = processes or os.cpu_count() or 1
    if len(source.files) < worth_processes and settings.detector is None and not source.seconds:
        processes = 1
    shard_pictures = shard_pictures or (staging.SHARD_GENERATED if source.seconds else staging.SHARD_PICTURES)
    with _system_errors():
        mark = fingerprint(source, settings)
        folder = data_dir / name
        targets = {shape: folder / config_name(shape) / VERSION for shape in settings.shapes}
        if not replace:
            _warn_of_changed_files(source, folder, mark)
        if (folder / STAGING).exists() or _missing(targets, source, mark, replace):
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder / ".lock"):
                if missing := _missing(targets, source, mark, replace):
                    others = _of_other_pictures(folder, mark, replace)
                    settings = dataclasses.replace(settings, shapes=tuple(missing))
                    _make(source, settings, folder, mark, max_skipped, processes, shard_pictures)
                    staging.publish(folder / STAGING, missing, others)
                    if left_out := kinds.left_out(source.ignored):
                        print(left_out)
                    return list(targets.values())
                # Another process has done it, or one that was killed at its very end.
                staging.clear_if_done(folder / STAGING)
    print(f"Already prepared: {', '.join(map(str, targets.values()))}")
    return list(targets.values())


def _warn_of_changed_files(source: Source, folder: Path, mark: str) -> None:
    for version in sorted(folder.glob(f"*/{VERSION}")):
        record = read_record(version)
        if record and record["fingerprint"] == mark and record["modified"] != source.modified:
            print(f"Warning: since {version} was made, its pictures' files were written; if they changed, --replace it")


def _missing(targets: dict[Shape, Path], source: Source, mark: str, replace: bool) -> dict[Shape, Path]:
    """The shapes that are to be made, and where.

    Raises:
      UserError: something else is there.
    """
    missing = {}
    for shape, target in targets.items():
        record = read_record(target)
        if record is None and target.exists() and not replace:
            raise UserError(f"{target} is there, not made by this command; give another --name, or --replace it")
        same = record is not None and record["fingerprint"] == mark
        if not same or (replace and record["modified"] != source.modified):
            missing[shape] = target
    return missing


def _of_other_pictures(folder: Path, mark: str, replace: bool) -> list[Path]:
    """The sizes of a data set that were made by this program of something else, and are to be replaced.

    Raises:
      UserError: there are some, and they are not to be replaced.
    """
    records = {version: read_record(version) for version in sorted(folder.glob(f"*/{VERSION}"))}
    others = {version: record for version, record in records.items() if record and record["fingerprint"] != mark}
    if others and not replace:
        version, record = next(iter(others.items()))
        raise UserError(
            f"{version} is there, made from {record['source']}, of other pictures or with other settings; give another"
            " --name, or --replace all sizes of it"
        )
    return list(others)


def _make(
    source: Source,
    settings: PreparationSettings,
    folder: Path,
    mark: str,
    max_skipped: float,
    processes: int,
    shard_pictures: int,
) -> None:
    """Makes all data sets in ``folder/incomplete``, as far as they are not made yet."""
    root = folder / STAGING
    _require_pictures(source)
    if settings.encoding == "raw" and not root.exists():
        _require_space(source, settings, folder)
    Maker(source, settings)  # raises what is wrong with boxes or detector, before anything is written
    plan = staging.begin(source, settings, folder.name, root, mark, shard_pictures)
    _write_shards(plan, max_skipped, processes)
    for shape in settings.shapes:
        finish(plan, shape)


def _require_pictures(source: Source) -> None:
    counts = {split: len(names) for split, names in staging.order(source).items()}
    if not all(counts.values()):
        raise UserError(
            f"{source.title}: {len(source.files):,} pictures, of which"
            f" {', '.join(f'{counts[split]:,} {split}' for split in SPLITS)}; expected at least one in each, and a few"
            " hundred in all"
        )


def _require_space(source: Source, settings: PreparationSettings, folder: Path) -> None:
    needed = sum(len(source.files) * math.prod(shape) for shape in settings.shapes)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {format_bytes(free)} free on its device, expected {format_bytes(needed)}; make room, take"
            " another --data_dir, a smaller --size, or --encoding=png"
        )


def _write_shards(plan: staging.Plan, max_skipped: float, processes: int) -> None:
    """Writes the shards that are not done yet, and a report of each.

    Raises:
      UserError: too many pictures are unusable.
    """
    source, total, listing = plan.source, len(plan.source.files), plan.root / "skipped.csv"
    left = [shard for shard in plan.shards if not shard.report.exists()]
    before = total - sum(len(shard.names) for shard in left)
    if before:
        print(f"Goes on after {before:,} of {total:,} pictures")
    skipped = [row for report in staging.reports(plan).values() for row in listings.most_skipped(report)]
    listings.require_few_skipped(source, skipped, max_skipped, listing)
    with tqdm.tqdm(total=total, initial=before, unit=" pictures", desc=plan.name, mininterval=0.5) as bar:

        def show(done: int, skipped: int) -> None:
            bar.set_postfix({"skipped": skipped}, refresh=False)
            bar.update(before + done - bar.n)

        written = write_shards(source, plan.settings, left, processes, show)
        with contextlib.closing(written):
            for shard, report in written:
                staging.write_report(shard, report)
                skipped += listings.most_skipped(report)
                listings.require_few_skipped(source, skipped, max_skipped, listing)


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """Turns an error of the system, such as a full disk, into a UserError."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        goes_on = "; what is done so far is kept, and the same command goes on" if error.errno in _MAY_PASS else ""
        raise UserError(f"{where}{error.strerror or error}{goes_on}") from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock that ends with the process."""
    lock = filelock.FileLock(path)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        print(f"Waits for another process that prepares {path.parent.name}", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
