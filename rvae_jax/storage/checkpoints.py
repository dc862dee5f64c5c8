"""Checkpoints of a run, with Orbax: atomic, asynchronous; the newest few and the best are kept.

A checkpoint has two items of arrays: ``weights``, all that using the model needs, and ``training``, the rest of the
state; and ``checksums``, by which damage to the arrays is seen when they are read.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from rvae_jax.config import Config
from rvae_jax.distributed import processes
from rvae_jax.errors import UserError
from rvae_jax.storage import weights as weights_lib
from rvae_jax.storage import workdir as workdir_lib
from rvae_jax.storage.checksums import checksums, checksums_here, difference
from rvae_jax.system.absl_logs import absl_verbosity
from rvae_jax.system.files import is_remote

_CHECKSUMS, _JSON_FILE = "checksums", "metadata"  # the item, and Orbax's name of the file in it
SELECTION_METRIC = "selection_l1"
_MOST_ATTEMPTS = 10  # to read a checkpoint of a run that goes on

Items = dict[str, Any]


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Without what Orbax prints beside the errors that it raises, which we report ourselves.

    It logs each file that it touches, and each error. After a write that failed, the writes beside it find asyncio's
    loop closed, which each reports to ``sys.unraisablehook``.
    """
    before = sys.unraisablehook

    def report(unraisable: sys.UnraisableHookArgs) -> None:
        if not (unraisable.exc_type is RuntimeError and str(unraisable.exc_value) == "Event loop is closed"):
            before(unraisable)

    sys.unraisablehook = report
    try:
        with absl_verbosity("fatal"):
            yield
    finally:
        sys.unraisablehook = before


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

    def save(self, items: Items, selection_error: float | None = None) -> None:
        """Starts to save a state; its arrays may be donated right after. One save is under way at a time.

        Args:
          items: the state, see ``training.state.TrainState.to_items``; it is saved under its own step.
          selection_error: mean absolute error on the selection images, or None if this state was not evaluated.

        Raises:
          OSError: the save before this one, or the beginning of this one, could not be written.
        """
        args = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        args[_CHECKSUMS] = ocp.args.JsonSave(checksums(items))
        self._manager.save(
            int(items["training"]["step"]),
            args=ocp.args.Composite(**args),
            metrics=None if selection_error is None else {SELECTION_METRIC: float(selection_error)},
        )

    def wait(self) -> None:
        """Waits until everything is on disk; raises the error of a save that was under way."""
        self._manager.wait_until_finished()

    def restore_latest(self, like: Items, *, skip_damaged: bool = False) -> Items | None:
        """Restores the newest checkpoint; None if there is no checkpoint.

        Args:
          like: the arrays, or shapes with shardings, of what is restored.
          skip_damaged: whether a checkpoint that any process cannot read is renamed to ``<step>.unreadable``, with a
            message, and the one before it is tried.

        Raises:
          UserError: the newest checkpoint cannot be read or, with ``skip_damaged``, none can.
        """
        steps = self.steps()
        for step in reversed(steps):
            items, reason = None, None
            try:
                items = self._read(step, like)
            except Exception as error:  # Orbax, TensorStore and JSON each raise their own.
                reason = _first_line(error)
            reasons = [each for each in processes.exchange(reason) if each is not None]
            reason = reasons[0] if reasons else self._damage(step, items)
            if reason is None:
                return items
            if not skip_damaged:
                advice = "put back a copy, or go on from the newest complete one with --config.resume=last_complete"
                raise self._damaged(step, reason, advice)
            self._set_aside(step, reason)
        if steps:
            raise UserError(
                f"None of the checkpoints in {self.folder} can be read (steps {steps}); they were renamed to"
                " *.unreadable. Put back a copy, or start again with another --workdir"
            )
        return None

    def _set_aside(self, step: int, reason: str) -> None:
        aside = self.folder / f"{step}.unreadable"
        print(f"Checkpoint {self.folder / str(step)} is unreadable ({reason}); moved to {aside}.")
        if processes.is_first():
            (self.folder / str(step)).rename(aside)
        processes.barrier(f"rvae_jax checkpoint {step} moved")
        self._manager.reload()

    def restore(self, step: int, like: Items) -> Items:
        """Restores the items of ``like`` from the checkpoint of ``step``.

        Raises:
          UserError: the arrays are not those that were saved.
        """
        items = self._read(step, like)
        return self._undamaged(step, items, self._damage(step, items))

    def restore_here(self, step: int, like: Items) -> Items:
        """As ``restore``, where this process gets all of the arrays; the others need not take part."""
        items = self._read(step, like)
        return self._undamaged(step, items, self._compare(step, checksums_here(items)))

    def _undamaged(self, step: int, items: Items, reason: str | None) -> Items:
        if reason is None:
            return items
        raise self._damaged(step, reason, "rename that folder to go on without it")

    def _damaged(self, step: int, reason: str, advice: str) -> UserError:
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
            return difference(found, dict(json.loads((folder / _JSON_FILE).read_bytes())))
        except (OSError, ValueError, TypeError, RecursionError) as error:  # of JSON, of another form
            return f"its checksums cannot be read ({_first_line(error)})"

    def weight_shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the item ``weights`` of ``step``, by a name such as ``vae/params/sampler/z_mean/kernel``."""
        with ocp.StandardCheckpointer() as checkpointer:
            metadata = checkpointer.metadata(self.folder / str(step) / "weights").item_metadata
        return weights_lib.shapes(getattr(metadata, "tree", metadata))

    def close(self) -> None:
        """Waits for a save that is under way, then closes the folder."""
        self._manager.close()


def complete_steps(workdir: epath.Path) -> list[int]:
    """Steps whose checkpoint is complete, oldest first, in a local folder; a save that is under way does not count."""
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


@quiet_orbax()
def load_weights(workdir: epath.Path, step: int | None = None) -> tuple[Config, dict[str, Any], int]:
    """Reads a run's configuration and the item ``weights`` of one of its checkpoints, to this process's first device.

    Args:
      workdir: the run's work directory.
      step: step of the checkpoint, or None for the best.

    Returns:
      Configuration, weights as ``training.state.TrainState.weights`` has them, and their step.

    Raises:
      UserError: there is no run, no checkpoint, none of that step, or it cannot be read.
    """
    config = workdir_lib.read_config(workdir)
    for _ in range(_MOST_ATTEMPTS):
        found = None
        with Checkpoints(workdir, read_only=True) as checkpoints:
            try:
                found = _chosen_step(checkpoints, step)
                return config, _read_weights(checkpoints, config, found), found
            except UserError:
                # A run in training deletes old checkpoints, and the best one when it finds a better.
                is_deleted = step is None and found is not None and not (checkpoints.folder / str(found)).exists()
                if not is_deleted:
                    raise
    raise UserError(f"{checkpoints.folder}: checkpoints were deleted while they were read; give a step that stays")


def _chosen_step(checkpoints: Checkpoints, step: int | None) -> int:
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"{checkpoints.folder} holds no checkpoint; train there first, or give another work directory")
    if step is None:
        return checkpoints.best_step()
    if step not in steps:
        raise UserError(f"{checkpoints.folder} holds no checkpoint of step {step}; there are {steps}")
    return step


def _read_weights(checkpoints: Checkpoints, config: Config, step: int) -> dict[str, Any]:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        weights_lib.expected_weights(config),
    )
    path = checkpoints.folder / str(step)
    try:
        # Orbax would report another shape from a thread, with a traceback.
        weights_lib.require_same_shapes(
            checkpoints.weight_shapes(step),
            weights_lib.shapes(like),
            f"checkpoint {path} is of another configuration than {path.parents[1] / workdir_lib.CONFIG_FILE}",
            f"put back the run's own {workdir_lib.CONFIG_FILE}",
        )
        found = checkpoints.restore_here(step, {"weights": like})["weights"]
        weights_lib.require_finite(weights_lib.flatten(found), f"checkpoint {path}")
        return found
    except UserError:
        raise
    except Exception as error:  # Orbax, TensorStore and JSON each raise their own.
        raise UserError(
            f"checkpoint {path} is unreadable ({_first_line(error)}); give another step of {checkpoints.steps()}"
        ) from error


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def _require_selection_errors(folder: epath.Path) -> None:
    """Raises unless the selection error of each checkpoint that has one can be read; Orbax needs all of them."""
    for path in folder.glob("*/metrics/metrics"):
        if not path.parts[-3].isdigit():  # set aside, or not complete
            continue
        try:
            value = json.loads(path.read_bytes())[SELECTION_METRIC]
            reason = None if isinstance(value, int | float) else f"{SELECTION_METRIC} is {value!r}, expected a number"
        except FileNotFoundError:  # deleted meanwhile
            continue
        except (OSError, ValueError, TypeError, KeyError) as error:  # of JSON, of the encoding, of another form
            reason = _first_line(error)
        if reason:
            raise UserError(
                f"{path} is damaged ({reason}): it had the selection error of that checkpoint; delete the folder"
                f" {path.parent}, and the checkpoint is taken as one that was not evaluated"
            )


def _selection_error(metrics: dict[str, float]) -> float:
    return metrics[SELECTION_METRIC]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
