"""Prepares images for training: ``python -m rvae_jax.prepare FOLDER --name=cats --size 64``."""

from __future__ import annotations

import argparse
import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path

_EPILOG = """\
examples:
  python -m rvae_jax.prepare ~/photos --name=photos --size 64 128   any folder, zip or tar of JPEG, PNG, WebP, BMP, TIFF
  python -m rvae_jax.prepare celeb_a --size 128                     CelebA, downloaded, cropped to 148x148
  python -m rvae_jax.prepare celeb_a_hq --from=CelebAMask-HQ --size 256
  python -m rvae_jax.prepare --list                                 what is prepared here

then train on it by --config.data.name=photos. A command that was interrupted goes on when it is given again.
"""


def main() -> None:
    """Prepares or lists, and turns the outcome into an exit status: 0 done, 1 bad input, 130 stopped by a signal."""
    arguments = _parse()
    try:
        from rvae_jax.data import catalog  # after --help
    except ModuleNotFoundError as error:
        sys.exit(f"Error: preparing images needs {error.name}; pip install 'rvae_jax[train]'")
    from rvae_jax.errors import UserError

    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    data_dir = catalog.default_data_dir(arguments.data_dir)
    try:
        if arguments.list:
            _list(data_dir)
        else:
            _prepare(arguments, data_dir)
    except (UserError, OSError) as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rvae_jax.prepare",
        description="Crops and scales pictures once, and writes them as a TFDS data set that trains at full speed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", nargs="?", help="celeb_a, celeb_a_hq, lfw, or the path of a folder, zip or tar")
    add("--size", nargs="+", type=_size, metavar="S", help="one or more sizes: 64, or 64x48 for a height of 64")
    add("--name", help="what the data set is called; by default celeba, celeba_hq, lfw_faces, or as the folder")
    add("--data_dir", help="folder of prepared data sets (default: TFDS's, ~/tensorflow_datasets)")
    add("--from", dest="path", type=_path, help="where the archives of celeb_a, celeb_a_hq or lfw are")
    add("--crop", type=_crop, metavar="C", help="centre crop: 148, 148x120, or max for all of it (celeb_a: 148)")
    add("--boxes", type=_path, metavar="CSV", help="boxes to cut out instead: name,left,top,width,height in pixels")
    add(
        "--detector",
        metavar="M:F",
        help="function F of module M, from RGB [h, w, 3] to boxes; the largest is cut out",
    )
    add("--margin", type=_number(0, 10), default=0.0, help="share of a box's size to add on each side (0)")
    add("--labels", type=_path, metavar="CSV", help="labels to keep: names in the first column, then anything")
    add("--split_by", choices=("file", "folder"), help="whether a folder's pictures may be in several splits (file)")
    add("--grey", action="store_true", help="one channel")
    add("--encoding", choices=("raw", "png"), default="raw", help="png is half as large, and slower to read (raw)")
    add(
        "--enlarge",
        type=_number(0, 1e6),
        default=2.0,
        help="how many times a picture may be enlarged; else it is skipped (2)",
    )
    add("--max_skipped", type=_number(0, 1), default=0.05, help="largest share of pictures that may be unusable (0.05)")
    add("--replace", action="store_true", help="replace a data set of that name that was made of something else")
    add("--processes", type=_count, help="that decode (as many as there are cores)")
    add("--list", action="store_true", help="list what is prepared, and stop")
    arguments = parser.parse_args()
    if not arguments.list and not (arguments.source and arguments.size):
        parser.error("expected a source and --size, or --list")
    cuts = [option for option in ("crop", "boxes", "detector") if getattr(arguments, option)]
    if len(cuts) > 1:
        parser.error(f"expected one of --{' and --'.join(cuts)}, not both")
    if arguments.margin and not (arguments.boxes or arguments.detector):
        parser.error("--margin is of a box; expected --boxes or --detector, too")
    return arguments


def _prepare(arguments: argparse.Namespace, data_dir: Path) -> None:
    import dataclasses
    import shlex

    from rvae_jax.data import catalog
    from rvae_jax.data.prepare import faces, preparation, sources, tables
    from rvae_jax.errors import UserError

    face_set = faces.FACE_SETS.get(arguments.source)
    if arguments.path and not face_set:
        raise UserError(f"--from={arguments.path}: expected only with {', '.join(faces.FACE_SETS)}")
    path = Path(arguments.source).expanduser().resolve()
    name = arguments.name or (face_set.name if face_set else preparation.name_of(path))
    if not arguments.name and not name[:1].isalpha():
        raise UserError(f"{path.name} makes no name for a data set; give --name")
    preparation.check_name(name)
    crop = arguments.crop or (face_set.crop if face_set and not (arguments.boxes or arguments.detector) else None)
    settings = preparation.Settings(
        shapes=tuple((*size, 1 if arguments.grey else 3) for size in arguments.size),
        crop=None if crop == "max" else crop,
        boxes=arguments.boxes,
        detector=arguments.detector,
        margin=arguments.margin,
        enlarge=arguments.enlarge,
        encoding=arguments.encoding,
    )
    height = max(height for height, _ in arguments.size)
    with catalog.opened_source(arguments.source, arguments.path, data_dir, height) as source:
        if arguments.labels:
            labels = {"attributes": tables.read_table(arguments.labels, source.files)}
            source = dataclasses.replace(source, labels=labels)
        if arguments.split_by:
            group = sources.folder_of if arguments.split_by == "folder" else str
            source = dataclasses.replace(source, group=group)
        if source.terms:
            print(f"Terms: {source.terms}")
        print(f"{len(source.files):,} pictures, split {source.split_rule}")
        preparation.prepare(
            source, settings, name, data_dir, arguments.max_skipped, arguments.replace, arguments.processes
        )
    elsewhere = f" {shlex.quote(f'--config.data.data_dir={arguments.data_dir}')}" if arguments.data_dir else ""
    print(f"Train on it with --config.data.name={name}{elsewhere}")


def _list(data_dir: Path) -> None:
    from rvae_jax.data import catalog
    from rvae_jax.system.units import format_bytes

    rows = list(catalog.listing(data_dir))
    print(f"{data_dir}: {len(rows) or 'no'} data sets")
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


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    try:
        size = int(height), int(width or height)
    except ValueError:
        size = (0, 0)
    if min(size) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a size such as 64, or 64x48 for a height of 64")
    return size


def _number(least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r}; expected a number from {least:g} to {most:g}")
        return value

    return parse


def _path(text: str) -> Path:
    return Path(text).expanduser()  # a shell leaves the ~ of --from=~/archives alone


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number from 1")
    return int(text)


def _crop(text: str) -> tuple[int, int] | str:
    return text if text == "max" else _size(text)


if __name__ == "__main__":
    main()
