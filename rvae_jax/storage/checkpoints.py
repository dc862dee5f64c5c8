"""Checkpoints of a run, with Orbax: atomic, asynchronous; the newest few and the best are kept.

A checkpoint has two items of arrays: ``weights``, all that using the model needs, and ``training``, the rest of the
state. Beside them are ``checksums``, by which damage to the arrays is seen when they are read; ``config``, what they
were trained with; and ``metrics``, the selection error, if it was measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from rvae_jax import config as config_lib
from rvae_jax.config import Config
from rvae_jax.distributed import processes
from rvae_jax.errors import PassingError, UserError, first_line
from rvae_jax.storage import weights as weights_lib
from rvae_jax.storage import workdir as workdir_lib
from rvae_jax.storage.checksums import checksums, checksums_here, difference
from rvae_jax.system.absl_logs import absl_verbosity
from rvae_jax.system.files import is_remote, read_json
from rvae_jax.system.refusals import refusal

_CHECKSUMS, _CONFIG = "checksums", "config"
_JSON_FILE = "metadata"  # Orbax's name of the file of an item of JSON
SELECTION_METRIC = "selection_l1"

Items = dict[str, Any]


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Without what Orbax prints beside the errors that it raises, which we report ourselves.

    It logs each file that it touches, and each error. After a write that failed, the writes beside it find asyncio's
    loop closed, which each reports to ``sys.unraisablehook``, some of them after the error has been raised: the hook
    that leaves these reports out then stays.
    """
    before = sys.unraisablehook
    sys.unraisablehook = _without_closed_loops(before)
    with absl_verbosity("fatal"):
        yield
    sys.unraisablehook = before  # after an error it stays: no `finally`


@functools.cache  # A thread may be in it when it is replaced, and Python calls a hook without holding it.
def _without_closed_loops(report: Callable[[Any], object]) -> Callable[[Any], object]:
    """A hook for ``sys.unraisablehook`` that passes on all but closed event loops; ``report`` itself if it is one."""
    return report if isinstance(report, _WithoutClosedLoops) else _WithoutClosedLoops(report)


@dataclasses.dataclass(frozen=True)
class _WithoutClosedLoops:
    report: Callable[[Any], object]

    def __call__(self, unraisable: Any) -> None:
        if not (unraisable.exc_type is RuntimeError and str(unraisable.exc_value) == "Event loop is closed"):
            self.report(unraisable)


class Checkpoints:
    """The folder ``checkpoints`` of a work directory.

    A checkpoint appears there only when it is complete. The newest few are kept, and the one with the least
    selection error (mean absolute error on the images of ``data.selection_split``).
    """

    def __init__(self, workdir: epath.PathLike, keep: int = 1, *, read_only: bool = False) -> None:
        """Opens the folder.

        Args:
          workdir: the work directory.
          keep: how many of the newest are kept.
          read_only: whether nothing is saved or cleaned up.

        Raises:
          UserError: the selection error of a checkpoint cannot be read.
        """
        workdir = epath.Path(workdir)
        self.folder = (workdir if is_remote(workdir) else workdir.resolve()) / "checkpoints"
        _require_selection_errors(self.folder)
        keep_newest_and_best = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                checkpoint_managers.BestN(
                    get_metric_fn=_selection_error, reverse=True, n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                best_fn=_selection_error,
                best_mode="min",
                preservation_policy=keep_newest_and_best,
            ),
        )

    def __enter__(self) -> Checkpoints:
        """The checkpoints."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Closes them; after an error, that of a save under way does not take its place."""
        try:
            self.close()
        except Exception:
            if kind is None:
                raise

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Step with the least selection error, or the newest if none was evaluated, or None."""
        best = self._manager.best_step()
        return self._manager.latest_step() if best is None else best

    def save(self, items: Items, config: Config, selection_error: float | None = None) -> None:
        """Starts to save a state; its arrays may be donated right after. One save is under way at a time.

        Args:
          items: the state, see ``training.state.TrainState.to_items``; it is saved under its own step.
          config: what it was trained with.
          selection_error: mean absolute error on the selection images, or None if this state was not evaluated.

        Raises:
          OSError: the save before this one, or the beginning of this one, could not be written.
        """
        args = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        args[_CHECKSUMS] = ocp.args.JsonSave(checksums(items))
        args[_CONFIG] = ocp.args.JsonSave(config_lib.to_dict(config))
        self._manager.save(
            int(items["training"]["step"]),
            args=ocp.args.Composite(**args),
            metrics=None if selection_error is None else {SELECTION_METRIC: float(selection_error)},
        )

    def wait(self) -> None:
        """Waits until everything is on disk; raises the error of a save that was under way."""
        self._manager.wait_until_finished()

    def restore_latest(self, like: Items, config: Config, *, skip_damaged: bool = False) -> Items | None:
        """Restores the newest checkpoint; None if there is no checkpoint.

        Args:
          like: the arrays, or shapes with shardings, of what is restored.
          config: what it goes on with.
          skip_damaged: whether a checkpoint that any process cannot read, or whose arrays are not as they were saved,
            is renamed to ``<step>.unreadable``, with a message, and the one before it is tried.

        Raises:
          UserError: the newest checkpoint is damaged or, with ``skip_damaged``, all are; or it is of another
            configuration, see ``require_config``.
          PassingError: the system refused what it may do the next time.
        """
        steps = self.steps()
        for step in reversed(steps):
            items, failure = self._try(step, like, config)
            failure = self._damage(step, items) if failure is None else failure
            if failure is None:
                return items
            if not skip_damaged:
                advice = "put back a copy, or go on from the newest complete one with --config.resume=last_complete"
                raise self._damage_error(step, failure, advice)
            self._set_aside(step, failure)
        if steps:
            raise UserError(
                f"None of the checkpoints in {self.folder} can be read (steps {steps}); they were renamed to"
                " *.unreadable. Put back a copy, or start again with another --workdir"
            )
        return None

    def restore(self, step: int, like: Items) -> Items:
        """Restores the items of ``like`` from the checkpoint of ``step``.

        Raises:
          UserError: the checkpoint cannot be read, or the arrays are not those that were saved.
        """
        try:
            items = self._read(step, like)
        except Exception as error:  # Orbax, TensorStore and JSON each raise their own.
            if _passes(error):
                raise
            raise self._damage_error(step, first_line(error), "rename that folder to go on without it") from error
        self._require_undamaged(step, self._damage(step, items))
        return items

    def restore_here(self, step: int, like: Items) -> Items:
        """As ``restore``, where this process gets all of the arrays; the others need not take part."""
        items = self._read(step, like)
        self._require_undamaged(step, self._compare(step, checksums_here(items)))
        return items

    def require_config(self, step: int, config: Config) -> None:
        """Checks that ``config.json`` has what the arrays of ``step`` were trained with, where the checkpoint says so.

        The fields that may change during a run, and the schedules, which follow its length, are not compared.

        Raises:
          UserError: a field differs, or the checkpoint's own configuration cannot be read.
        """
        try:
            differing = self._differing_field(step, config, f"{workdir_lib.CONFIG_FILE} has")
        except (OSError, UserError, ValueError) as error:
            raise self._damage_error(step, first_line(error), "rename that folder to go on without it") from None
        if differing:
            raise UserError(f"{differing}; put back the run's own {workdir_lib.CONFIG_FILE}")

    def weight_shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the item ``weights`` of ``step``, by a name such as ``vae/params/sampler/z_mean/kernel``."""
        with ocp.StandardCheckpointer() as checkpointer:
            metadata = checkpointer.metadata(self.folder / str(step) / "weights").item_metadata
        return weights_lib.shapes(getattr(metadata, "tree", metadata))

    def close(self) -> None:
        """Waits for a save that is under way, then closes the folder."""
        self._manager.close()

    def _try(self, step: int, like: Items, config: Config) -> tuple[Items | None, str | None]:
        """The items, or why a process cannot read them; the same in all processes."""
        items = differing = failure = None
        try:
            # Before the arrays: another configuration may have other shapes.
            differing = self._differing_field(step, config, "this command has")
            items = None if differing else self._read(step, like)
        except Exception as error:  # Orbax, TensorStore and JSON each raise their own.
            failure = {"reason": first_line(error), "passes": _passes(error)}
        if differing:
            raise UserError(f"{differing}; give the run's own configuration, or another --workdir")
        failures = [each for each in processes.exchange(failure) if each is not None]
        if any(each["passes"] for each in failures):
            raise PassingError(
                f"checkpoint {self.folder / str(step)} could not be read: {failures[0]['reason']}. Run the same command"
                " again"
            )
        return items, failures[0]["reason"] if failures else None

    def _set_aside(self, step: int, reason: str) -> None:
        aside = self.folder / f"{step}.unreadable"
        print(f"Checkpoint {self.folder / str(step)} is unreadable ({reason}); moved to {aside}.")
        if processes.is_first():
            (self.folder / str(step)).rename(aside)
        processes.barrier(f"rvae_jax checkpoint {step} moved")
        self._manager.reload()

    def _require_undamaged(self, step: int, reason: str | None) -> None:
        if reason is not None:
            raise self._damage_error(step, reason, "rename that folder to go on without it")

    def _damage_error(self, step: int, reason: str, advice: str) -> UserError:
        others = [each for each in self.steps() if each != step] or "none"
        return UserError(
            f"checkpoint {self.folder / str(step)} is damaged: {reason}; {advice} (there are other checkpoints of steps"
            f" {others})"
        )

    def _read(self, step: int, like: Items) -> Items:
        args = ocp.args.Composite(**{name: ocp.args.StandardRestore(_abstract(item)) for name, item in like.items()})
        items = self._manager.restore(step, args=args)
        return {name: items[name] for name in like}

    def _damage(self, step: int, items: Items) -> str | None:
        """What is wrong with restored arrays by their checksums, the same in all processes; None if nothing is."""
        reasons = processes.exchange(self._compare(step, checksums(items)))
        return next((each for each in reasons if each is not None), None)

    def _compare(self, step: int, found: dict[str, str]) -> str | None:
        """How checksums differ from those that were saved, in words; None if they do not, or none were saved."""
        folder = self.folder / str(step) / _CHECKSUMS
        if not folder.exists():
            print(f"Checkpoint {folder.parent} is of an earlier version, without checksums; not checked.")
            return None
        try:
            return difference(found, read_json(folder / _JSON_FILE))
        except (OSError, UserError, ValueError) as error:
            if _passes(error):
                raise
            return f"its checksums cannot be read ({first_line(error)})"

    def _differing_field(self, step: int, config: Config, whose: str) -> str | None:
        """In words, the first field in which a configuration differs from the checkpoint's own; None if none does.

        Raises:
          OSError, UserError, ValueError: the checkpoint's own cannot be read.
        """
        folder = self.folder / str(step) / _CONFIG
        if not folder.exists():  # of an earlier version
            return None
        there = config_lib.from_dict(read_json(folder / _JSON_FILE))
        for name in config_lib.differences(config, there):
            if name not in config_lib.MAY_CHANGE and name not in config_lib.SCHEDULES:
                theirs, ours = (config_lib.get_field(each, name) for each in (there, config))
                return f"checkpoint {folder.parent} was trained with {name} = {theirs!r}, and {whose} {ours!r}"
        return None


def complete_steps(workdir: epath.Path) -> list[int]:
    """Steps whose checkpoint is complete, oldest first, in a local folder; a save that is under way does not count."""
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def _require_selection_errors(folder: epath.Path) -> None:
    """Raises unless the selection error of each checkpoint that has one can be read; Orbax needs all of them."""
    for path in folder.glob("*/metrics/metrics"):
        if not path.parts[-3].isdigit():  # set aside, or not complete
            continue
        try:
            value = read_json(path)[SELECTION_METRIC]
            reason = None if isinstance(value, int | float) else f"{SELECTION_METRIC} is {value!r}, expected a number"
        except FileNotFoundError:  # deleted meanwhile
            continue
        except (OSError, UserError, ValueError, KeyError) as error:
            reason = first_line(error)
        if reason:
            raise UserError(
                f"{path} is damaged ({reason}): it had the selection error of that checkpoint; delete the folder"
                f" {path.parent}, and the checkpoint is taken as one that was not evaluated"
            )


def _passes(error: Exception) -> bool:
    """Whether reading may succeed the next time, so that nothing of the checkpoint is damaged."""
    found = refusal(error)
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or (found is not None and found.passes)


def _selection_error(metrics: dict[str, float]) -> float:
    return metrics[SELECTION_METRIC]
