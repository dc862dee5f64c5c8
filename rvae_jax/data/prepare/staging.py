"""A preparation's folder ``NAME/incomplete``, from which an interrupted preparation goes on.

In it: ``plan.json``, what is made of which pictures; the shards, each with a report ``shard_*.json`` of its pictures
when it is done; ``CONFIG/whole``, where a data set is put together before it appears under its name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rvae_jax.data.prepare.settings import PreparationSettings
from rvae_jax.data.prepare.shards import Report, Shard
from rvae_jax.data.prepare.sources.source import SPLITS, Source, order_key
from rvae_jax.data.prepared import VERSION, Shape, config_name, read_record
from rvae_jax.system.files import write_atomically

_PLAN_FILE = "plan.json"
_SHARD_BYTES = 128 << 20  # at most
SHARD_PICTURES = 1024  # at most
SHARD_GENERATED = 128  # at most, where pictures are generated


@dataclasses.dataclass(frozen=True)
class Plan:
    """A preparation.

    Attributes:
      source: the pictures.
      settings: what is made of them; of all shapes that were begun, the wanted ones among them.
      name: of the data set.
      root: the folder ``NAME/incomplete``.
      fingerprint: of source and settings.
      shards: all of them, in order.
    """

    source: Source
    settings: PreparationSettings
    name: str
    root: Path
    fingerprint: str
    shards: tuple[Shard, ...]


def order(source: Source) -> dict[str, list[str]]:
    """The pictures of each split, in the order of a hash of their names."""
    names: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name in sorted(source.files, key=lambda name: (order_key(name), name)):
        names[source.split(name)].append(name)
    return names


def begin(
    source: Source, settings: PreparationSettings, name: str, root: Path, fingerprint: str, shard_pictures: int
) -> Plan:
    """Goes on with what was begun in ``root``, in its shapes and shards, or begins there anew."""
    plan, begun = _read_plan(root)
    mark = {"fingerprint": fingerprint, "modified": source.modified}
    wanted = settings.shapes
    same_shards = plan.get("shard_pictures", SHARD_PICTURES) == shard_pictures  # earlier versions did not write it
    if mark.items() <= plan.items() and set(wanted) <= set(begun) and same_shards:
        settings = dataclasses.replace(settings, shapes=begun)
    elif root.exists():
        print(f"What was begun in {root} is of other pictures, sizes or settings: begins anew")
        shutil.rmtree(root)
    root.mkdir(exist_ok=True)
    for part in root.rglob("*.part"):  # of processes that were killed; one in an assembly folder would be published
        part.unlink()
    for shape in wanted:
        assembly_folder(root, shape).mkdir(parents=True, exist_ok=True)
    plan = mark | {"shapes": settings.shapes, "shard_pictures": shard_pictures}
    write_atomically(root / _PLAN_FILE, json.dumps(plan).encode())
    return Plan(source, settings, name, root, fingerprint, _shards(source, settings, root, shard_pictures))


def _shards(source: Source, settings: PreparationSettings, root: Path, shard_pictures: int) -> tuple[Shard, ...]:
    per_shard = max(1, min(shard_pictures, _SHARD_BYTES // max(map(math.prod, settings.shapes))))
    parts = [
        (split, names[start : start + per_shard])
        for split, names in order(source).items()
        for start in range(0, len(names), per_shard)
    ]
    configs = [config_name(shape) for shape in settings.shapes]
    return tuple(
        Shard(
            split=split,
            names=names,
            paths={config: root / f"{config}_{index:05d}.array_record" for config in configs},
            report=root / f"shard_{index:05d}.json",
        )
        for index, (split, names) in enumerate(parts)
    )


def assembly_folder(root: Path, shape: Shape) -> Path:
    """Where the data set of a shape is put together."""
    return root / config_name(shape) / "whole"  # deeper than TFDS looks for data sets


def reports(plan: Plan) -> dict[int, Report]:
    """What became of the pictures of the shards that are done, by the shard's place in ``plan.shards``."""
    return {
        index: json.loads(shard.report.read_text()) for index, shard in enumerate(plan.shards) if shard.report.exists()
    }


def write_report(shard: Shard, report: Report) -> None:
    """Tells that a shard is done."""
    write_atomically(shard.report, json.dumps(report).encode())


def clear_if_done(root: Path) -> None:
    """Removes ``root`` if all that was begun in it has appeared under its name, or its plan is gone."""
    plan, shapes = _read_plan(root)
    records = [read_record(root.parent / config_name(shape) / VERSION) for shape in shapes]
    mark = {key: plan.get(key) for key in ("fingerprint", "modified")}
    if all(record and mark.items() <= record.items() for record in records):
        shutil.rmtree(root, ignore_errors=True)


def publish(root: Path, made: Mapping[Shape, Path], others: Iterable[Path]) -> None:
    """Lets data sets appear under their names, and removes ``root``.

    Args:
      root: the folder ``NAME/incomplete``.
      made: the shapes that are complete, and the folders that they become; what is there is replaced.
      others: folders of other sizes, which are removed.
    """
    for other in others:
        if other not in made.values():
            _set_aside(other, root)
            print(f"Removed {other}, which was of other pictures or settings")
    for shape, target in made.items():
        if target.exists():
            _set_aside(target, root)
        target.parent.mkdir(parents=True, exist_ok=True)
        assembly_folder(root, shape).rename(target)
        print(f"Prepared {target}: look at summary.png there, and at skipped.csv and duplicates.csv if they name any")
    shutil.rmtree(root, ignore_errors=True)


def _set_aside(folder: Path, root: Path) -> None:
    """Moves a data set into ``root``, which will be removed: by one rename, so that it is never there in part."""
    aside = root / folder.parent.name / "old"
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(exist_ok=True)
    folder.rename(aside)
    with contextlib.suppress(OSError):  # there are other versions of it
        folder.parent.rmdir()


def _read_plan(root: Path) -> tuple[dict[str, Any], tuple[Shape, ...]]:
    """What was begun in ``root``, and its shapes; nothing where the plan cannot be read."""
    try:
        plan = json.loads((root / _PLAN_FILE).read_text())
        return plan, tuple(tuple(shape) for shape in plan["shapes"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}, ()
