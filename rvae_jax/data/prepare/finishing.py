"""Puts a data set together from its shards, with all that TFDS and the user read of it."""

from __future__ import annotations

import json
from pathlib import Path

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import dataset_info, file_adapters, naming

from rvae_jax.data.prepare import listings, staging, summary
from rvae_jax.data.prepare.examples import tfds_features
from rvae_jax.data.prepare.settings import as_recorded
from rvae_jax.data.prepare.shards import Report, Shard
from rvae_jax.data.prepare.sources.source import SPLITS
from rvae_jax.data.prepare.staging import Plan, assembly_folder
from rvae_jax.data.prepared import RECORD_FILE, VERSION, Shape, config_name
from rvae_jax.errors import UserError
from rvae_jax.system.files import write_atomically


def finish(plan: Plan, shape: Shape) -> None:
    """Completes the data set of a shape in its folder below ``plan.root``; all shards must be done.

    Raises:
      UserError: a split has no usable picture.
    """
    config, folder = config_name(shape), assembly_folder(plan.root, shape)
    reports = staging.reports(plan)
    kept = [(plan.shards[index], report) for index, report in reports.items() if report["images"][config]]
    for split in SPLITS:
        if not any(shard.split == split for shard, _ in kept):
            skipped = [row for report in reports.values() for row in listings.most_skipped(report)]
            raise UserError(
                f"{plan.source.title}: no picture of the split {split} is usable; expected some. Of all,"
                f" {listings.frequent_reasons(skipped)}"
            )
    _write_info(plan, shape, [_name_shards(plan, shape, split, kept) for split in SPLITS])
    rows = [(shard.split, *row) for shard, report in kept for row in report["images"][config]]
    skipped = sorted(row for report in reports.values() for row in report["skipped"][config])
    listings.write_skipped(folder / "skipped.csv", skipped)
    duplicates = listings.duplicates_among(rows)
    listings.write_duplicates(folder / "duplicates.csv", duplicates)
    statistics = summary.write(folder, shape, rows, skipped, duplicates, dict(plan.source.ignored))
    record = {
        "fingerprint": plan.fingerprint,
        "modified": plan.source.modified,
        "source": plan.source.title,
        "shape": shape,
        "encoding": plan.settings.encoding,
        "settings": as_recorded(plan.settings),
        "terms": plan.source.terms,
    }
    write_atomically(folder / RECORD_FILE, (json.dumps(record, indent=2) + "\n").encode())
    print(summary.in_words(statistics))
    if skipped:
        print(f"Skipped: {listings.frequent_reasons(skipped)}")


def _name_shards(plan: Plan, shape: Shape, split: str, kept: list[tuple[Shard, Report]]) -> tfds.core.SplitInfo:
    """Gives the shards of a split the names that TFDS wants, unless they have them."""
    config = config_name(shape)
    template = naming.ShardedFileTemplate(
        data_dir=epath.Path(assembly_folder(plan.root, shape)),
        dataset_name=plan.name,
        split=split,
        filetype_suffix="array_record",
    )
    shards = [(shard, report) for shard, report in kept if shard.split == split]
    paths = [Path(path) for path in template.sharded_filepaths(len(shards))]
    for (shard, _), path in zip(shards, paths, strict=True):
        if not path.exists():
            shard.paths[config].rename(path)
    return tfds.core.SplitInfo(
        name=split,
        shard_lengths=[len(report["images"][config]) for _, report in shards],
        num_bytes=sum(path.stat().st_size for path in paths),
        filename_template=template,
    )


def _write_info(plan: Plan, shape: Shape, splits: list[tfds.core.SplitInfo]) -> None:
    folder, source = assembly_folder(plan.root, shape), plan.source
    identity = dataset_info.DatasetIdentity(
        name=plan.name,
        version=tfds.core.Version(VERSION),
        data_dir=str(folder),
        module_name="",
        config_name=config_name(shape),
        config_description=f"{shape[0]}x{shape[1]}, {'grey' if shape[2] == 1 else 'RGB'}",
    )
    description = f"{source.title}, prepared by rvae_jax. {source.terms}"
    info = dataset_info.DatasetInfo(
        builder=identity,
        description=description.encode("utf-8", "replace").decode(),  # a folder's name may be no UTF-8
        features=tfds_features(shape, plan.settings.encoding, source),
        homepage=source.homepage or None,
        citation=source.citation or None,
    )
    info.set_file_format(file_adapters.FileFormat.ARRAY_RECORD)
    info.set_splits(tfds.core.splits.SplitDict(splits))
    info.write_to_directory(folder)
