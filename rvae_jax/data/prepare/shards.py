"""Writes the shards of a data set, in this process or in several."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.sharedctypes import SynchronizedArray
from pathlib import Path
from typing import Any

from array_record.python import array_record_module

from rvae_jax.data.prepare.examples import Maker
from rvae_jax.data.prepare.settings import PreparationSettings
from rvae_jax.data.prepare.sources.source import Source
from rvae_jax.data.prepared import config_name
from rvae_jax.data.process_tuning import tune_this_process
from rvae_jax.data.records import count_records
from rvae_jax.errors import UserError

# Compression would save a tenth of raw pixels and take most of the time; so would several threads in the writer.
_WRITER_OPTIONS = "group_size:1,uncompressed,max_parallelism:1"
_DONE, _SKIPPED, _STOP = range(3)  # places in the array that the processes share


@dataclasses.dataclass(frozen=True)
class Shard:
    """A shard to write.

    Attributes:
      split: the split that it is a part of.
      names: of the pictures, in order.
      paths: configuration to the file.
      report: file of what became of its pictures, which is there when the shard is done.
    """

    split: str
    names: Sequence[str]
    paths: dict[str, Path]
    report: Path


# "images" and "skipped", each by configuration. An image's row has the name, (height, width) of the picture and a hash
# of the pixels; a skipped picture's has the name and the reason.
Report = dict[str, dict[str, list[Sequence[Any]]]]
Tell = Callable[[bool], None]  # called after each picture, with whether it was skipped; may raise


def write_shards(
    source: Source,
    settings: PreparationSettings,
    shards: Sequence[Shard],
    processes: int,
    on_progress: Callable[[int, int], None],
) -> Iterator[tuple[Shard, Report]]:
    """Writes shards, each by one process; a file appears under its name when it is complete.

    Processes and not threads: a picture takes less than a millisecond, and threads would wait for Python's lock for
    much of it.

    Args:
      source: the pictures.
      settings: what is made of them.
      shards: what to write.
      processes: how many; none is started for one.
      on_progress: called now and then with the numbers of pictures done and skipped so far.

    Returns:
      Each shard when it is written, in any order, and what became of its pictures.

    Raises:
      UserError: a file could not be written, or a process died.
    """
    if min(processes, len(shards)) < 2:
        yield from _write_here(Maker(source, settings), shards, on_progress)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process that runs JAX may hang
    shared = context.Array("q", 3)
    arguments = source, settings, shared, context.Lock()
    pool = ProcessPoolExecutor(min(processes, len(shards)), context, _begin_worker, arguments)
    # The processes that start now inherit this: Ctrl-C is for this process, which ends the others.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        futures = {pool.submit(_work, shard): shard for shard in shards}
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        waiting = set(futures)
        while waiting:
            finished, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in finished:
                yield futures[future], future.result()
            on_progress(shared[_DONE], shared[_SKIPPED])
    except BrokenProcessPool:
        raise UserError(
            f"{source.title}: a process that decodes died, for lack of memory or of a picture that crashes the decoder;"
            " use fewer --processes, or see what happens with --processes=1. The same command goes on from here"
        ) from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        shared[_STOP] = 1
        pool.shutdown(cancel_futures=True)


def _write_here(
    maker: Maker, shards: Sequence[Shard], on_progress: Callable[[int, int], None]
) -> Iterator[tuple[Shard, Report]]:
    done = skipped = 0

    def tell(is_skipped: bool) -> None:
        nonlocal done, skipped
        done, skipped = done + 1, skipped + is_skipped
        on_progress(done, skipped)

    for shard in shards:
        yield shard, _write_shard(maker, shard, tell)


@dataclasses.dataclass
class _Worker:
    """What a process keeps from shard to shard."""

    maker: Maker
    shared: SynchronizedArray

    def tell(self, is_skipped: bool) -> None:
        """Counts a picture; ends the process when it is no longer wanted."""
        if self.shared[_STOP]:
            sys.exit()
        with self.shared.get_lock():
            self.shared[_DONE] += 1
            self.shared[_SKIPPED] += is_skipped


_worker: _Worker


def _begin_worker(
    source: Source, settings: PreparationSettings, shared: SynchronizedArray, large_picture_lock: Any
) -> None:
    global _worker
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tune_this_process()
    _worker = _Worker(Maker(source, settings, large_picture_lock), shared)


def _end_with_parent() -> None:
    """Ends this process when its parent was killed; it would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(shard: Shard) -> Report:
    return _write_shard(_worker.maker, shard, _worker.tell)


def _write_shard(maker: Maker, shard: Shard, tell: Tell) -> Report:
    configs = [config_name(shape) for shape in maker.settings.shapes]
    report: Report = {what: {config: [] for config in configs} for what in ("images", "skipped")}
    # Named by the process: one that does not know yet that its parent died must not write into another's file.
    parts = {config: path.with_name(f"{path.name}.{os.getpid()}.part") for config, path in shard.paths.items()}
    writers = {
        config: array_record_module.ArrayRecordWriter(str(part), _WRITER_OPTIONS) for config, part in parts.items()
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of odd files; what matters becomes a reason
            for name in shard.names:
                outcome = maker(name)
                for config in configs:
                    result = outcome.results[config]
                    if isinstance(result, str):
                        report["skipped"][config].append((name, result))
                    else:
                        writers[config].write(result)
                        report["images"][config].append((name, outcome.size, outcome.digests[config]))
                tell(not outcome.digests)
    finally:
        for writer in writers.values():
            with contextlib.suppress(RuntimeError):  # the disk may be full; what was written is counted below
                writer.close()
    for config, part in parts.items():
        _require_written(part, len(report["images"][config]))
        part.replace(shard.paths[config])
    return report


def _require_written(path: Path, count: int) -> None:
    """Flushes a shard to the disk, and raises a UserError unless all of it is there."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    there = count_records(path) if count else 0
    if there != count:
        path.unlink()
        raise UserError(
            f"{path}: {there} of {count} images could be written; is the disk full? Make room, then give the command"
            " again; it goes on from here"
        )
