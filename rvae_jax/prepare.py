"""Prepares images for training: ``python -m rvae_jax.prepare FOLDER --name=cats --size 64``."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import Any

from rvae_jax import command_line
from rvae_jax.data.prepare.arguments import count, crop, number, path, size, value_range
from rvae_jax.errors import command, needs

_EPILOG = """\
examples:
  python -m rvae_jax.prepare ~/photos --name=photos --size 64 128   any folder, zip or tar of pictures
  python -m rvae_jax.prepare part1.zip part2.zip --name=photos --size 64
  python -m rvae_jax.prepare celeb_a --size 128                     CelebA, downloaded, cropped to 148x148
  python -m rvae_jax.prepare celeb_a_hq --from=CelebAMask-HQ --size 256
  python -m rvae_jax.prepare portraits --count=11000 --size 64      people who do not exist, generated
  python -m rvae_jax.prepare --list                                 what is prepared here

then train on it by --config.data.name=photos. To resume an interrupted command, give it again.
"""


def main() -> None:
    """Prepares or lists, and turns the outcome into an exit status: 0 done, 1 bad input, 130 stopped by a signal."""
    arguments = _parse()
    with needs("train", command=True):  # after --help
        from rvae_jax.data.prepare import command

    sys.stdout.reconfigure(errors="backslashreplace")  # a file name may not be valid text
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with command_line.exit_on_user_error():
            if arguments.pop("list"):
                command.print_list(arguments["data_dir"])
            else:
                command.run(**arguments)
    except OSError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def _parse() -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog=command("prepare"),
        description="Crops and scales pictures once, and writes them as a TFDS data set that trains at full speed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "sources",
        nargs="*",
        metavar="source",
        help="celeb_a, celeb_a_hq, lfw, portraits, or paths of folders, zips, tars",
    )
    add("--size", nargs="+", type=size, metavar="S", help="one or more sizes: 64, or 64x48 for a height of 64")
    add("--name", help="name of the data set (celeba, celeba_hq, lfw_faces, portraits, or the name of the folder)")
    add("--data_dir", help="folder of prepared data sets (default: TFDS's, ~/tensorflow_datasets)")
    add("--from", dest="path", type=path, help="where the archives of celeb_a, celeb_a_hq or lfw are")
    add("--count", type=count, help="how many portraits to generate (11000)")
    add("--crop", type=crop, metavar="C", help="centre crop: 148, 148x120, or max for all of it (celeb_a: 148)")
    add("--boxes", type=path, metavar="CSV", help="boxes to cut out instead: name,left,top,width,height in pixels")
    detector = "function F of module M, from RGB [h, w, 3] to boxes; the largest is cut out"
    add("--detector", metavar="M:F", help=detector)
    add("--margin", type=number(0, 10), default=0.0, help="share of a box's size to add on each side (0)")
    add("--labels", type=path, metavar="CSV", help="labels to keep: names in the first column, then anything")
    add("--split_by", choices=("file", "folder"), help="whether a folder's pictures may be in several splits (file)")
    add("--grey", action="store_true", help="convert the pictures to grey, one channel")
    deep = "values that become 0 and 255, of pictures of more than 8 bits; auto: what they use (all of their type)"
    add("--range", dest="value_range", type=value_range, metavar="LOW,HIGH", help=deep)
    add("--encoding", choices=("raw", "png"), default="raw", help="png is half as large, and slower to read (raw)")
    enlarge = "a picture that must be enlarged by more than this factor is skipped (2)"
    add("--enlarge", type=number(0, 1e6), default=2.0, help=enlarge)
    add("--max_skipped", type=number(0, 1), default=0.05, help="largest share of pictures that may be unusable (0.05)")
    add("--replace", action="store_true", help="replace a data set of that name that was made from something else")
    add("--processes", type=count, help="processes that decode (one for each core)")
    add("--list", action="store_true", help="list what is prepared, and stop")
    arguments = parser.parse_args()
    if not arguments.list and not (arguments.sources and arguments.size):
        parser.error("expected a source and --size, or --list")
    cuts = [option for option in ("crop", "boxes", "detector") if getattr(arguments, option)]
    if len(cuts) > 1:
        parser.error(f"expected one of --{' and --'.join(cuts)}, not both")
    if arguments.margin and not (arguments.boxes or arguments.detector):
        parser.error("--margin needs --boxes or --detector")
    return vars(arguments)


if __name__ == "__main__":
    main()
