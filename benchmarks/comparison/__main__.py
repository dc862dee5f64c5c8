"""Compares our configurations with others on portraits at 64x64, in equal CPU time: the table of docs/results.md.

    pip install -e '.[peers]'     # 3 GB on disk: on Linux, PyTorch brings CUDA
    python -m benchmarks.comparison --folder=runs/comparison --cpu_seconds=1200 --seeds=0,1,2
    python -m benchmarks.comparison --folder=runs/comparison --table

CPU seconds are those of a training process from its start to the end of the training, of all its threads, with imports,
compilation and, for ours, the validation at the end. Ours take as many steps as fit, by a timed run; the others stop
when the time is up; the mean face and the principal components take what they need. All train on the images of
configs/portraits.py and their mirror images, and all are judged by rvae_jax's own evaluation, on the same held-out
images. Arms run one after the other; run nothing else beside them.

The folder has, for each arm and seed, arrays.npz (reconstructions, samples, codes), record.json (seconds, images seen,
versions) and figures.json; and results.json, table.md and pictures/. What is finished is not done again.
"""

from __future__ import annotations

import argparse
import importlib.util
import pathlib
import signal
import sys
from typing import Any

from etils import epath

from benchmarks import machine
from benchmarks.comparison import arms, cpu_time, ours, store
from benchmarks.comparison.judge import judge
from benchmarks.comparison.table import format_tables
from rvae_jax import command_line
from rvae_jax.config import replace_fields
from rvae_jax.data.pixels import evenly_spaced, to_float
from rvae_jax.data.prepare.on_demand import prepare_for
from rvae_jax.drawing import grids
from rvae_jax.errors import UserError, install
from rvae_jax.evaluation.material import ImageSets, Material, read_image_sets
from rvae_jax.evaluation.settings import EvaluationSettings

_ALL_IMAGES = sys.maxsize
_FOR_SETTINGS = ("data", "data_dir", "cpu_seconds", "threads", "images")  # what all runs of a folder share


def main() -> None:
    """Runs the comparison."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the training ends, too
    with command_line.exit_on_user_error():
        if not arguments.table:
            run_all(arguments)
        found = store.read_json(arguments.folder / "results.json")
        if found is None:
            raise UserError(f"--folder={arguments.folder}: no results.json in it; run without --table first")
        print(format_tables(found), end="")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.comparison", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--folder", type=pathlib.Path, required=True, help="where everything is kept")
    add("--arms", type=_names, default=arms.ARMS, help=f"some of {', '.join(arms.ARMS)} (all)")
    add("--seeds", type=_numbers, default=[0], help="seeds of the training, as in 0,1,2 (0)")
    add("--cpu_seconds", type=float, default=1200.0, help="for each training (1200)")
    add("--threads", type=int, choices=(1, 2), default=1, help="of a training process (1)")
    add("--data", default="portraits", help="a prepared colour set (portraits)")
    add("--data_dir", help="folder of prepared data sets")
    add("--images", type=int, default=1000, help="held-out images, and samples of each kind (1000)")
    add("--timed_steps", type=int, default=80, help="steps of the run that times ours (80)")
    add("--table", action="store_true", help="print the table of what is there, and compute nothing")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    wrong = [name for name in text.split(",") if name not in arms.ARMS]
    if wrong:
        raise argparse.ArgumentTypeError(f"{', '.join(wrong)}: expected some of {', '.join(arms.ARMS)}")
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def run_all(arguments: argparse.Namespace) -> None:
    """Trains and judges every arm that is not finished, and writes the results after each.

    Raises:
      UserError: a package or the data set is missing, the folder is of other settings, or a training failed.
    """
    _require_packages(arguments.arms)
    folder = arguments.folder
    settings = _same_settings(arguments)
    images = _images(arguments)
    of_judge = EvaluationSettings(images=arguments.images, cache=folder / "features")
    for seed in arguments.seeds:
        for arm in arguments.arms:
            if arm in arms.LINEAR and seed != arguments.seeds[0]:
                continue  # nothing in it is random but the draws, which are those of one seed for all
            here = folder / arm / str(seed)
            if store.read_record(here) is None:
                machine.say(f"{arm}, seed {seed}: training")
                train(arm, seed, arguments, here, images)
            if store.read_figures(here) is None:
                machine.say(f"{arm}, seed {seed}: judging")
                material = store.read_material(here, images)
                store.write_figures(here, judge(material, of_judge, _label))
                draw(folder / "pictures" / f"{arm}_{seed}.png", material)
            store.write_json(folder / "results.json", collect(folder, settings))
            (folder / "table.md").write_text(format_tables(store.read_json(folder / "results.json")))


def train(arm: str, seed: int, arguments: argparse.Namespace, folder: pathlib.Path, images: ImageSets) -> None:
    """Trains an arm in a process of its own; see ``ours.train`` and ``train.main``."""
    environment = _environment(arguments.threads)
    if arm in arms.OURS:
        flags = [f"--config.data.{name}={value}" for name, value in _data_fields(arguments).items()]
        budget = ours.Budget(arguments.cpu_seconds, arguments.timed_steps, environment)
        ours.train(arm, seed, flags, budget, folder, images)
        return
    command = [sys.executable, "-m", "benchmarks.comparison.train", f"--arm={arm}", f"--seed={seed}"]
    command += [f"--cpu_seconds={arguments.cpu_seconds}", f"--folder={folder}"]
    command += [f"--images={arguments.folder / 'images.npz'}"]
    cpu_time.run(command, environment, folder / "log.txt")


def _environment(threads: int) -> dict[str, str]:
    flags = {1: "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}.get(threads, "")
    # NPROC is the size of XLA's pool.
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC"), str(threads))
    # A program from the cache would cost the second seed less than the first.
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "JAX_ENABLE_COMPILATION_CACHE": "false", **counts}


def _require_packages(names: list[str]) -> None:
    for arm in names:
        package = arms.PACKAGES.get(arm)
        if package is not None and importlib.util.find_spec(package) is None:
            raise UserError(
                f"{package} is missing, which the arm {arm} needs; {install('peers')}, or leave the arm out with --arms"
            )


def _same_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings, which must be those that the folder was begun with."""
    settings = {name: getattr(arguments, name) for name in _FOR_SETTINGS}
    path = arguments.folder / "settings.json"
    before = store.read_json(path)
    for name, value in (before or {}).items():
        if value != settings[name]:
            raise UserError(
                f"--{name}={settings[name]}: the runs in {arguments.folder} have {value}; take another --folder"
            )
    store.write_json(path, settings)
    return {name: value for name, value in settings.items() if name != "data_dir"}


def _data_fields(arguments: argparse.Namespace) -> dict[str, str]:
    fields = {"name": arguments.data, "data_dir": arguments.data_dir}
    return {name: value for name, value in fields.items() if value is not None}


def _images(arguments: argparse.Namespace) -> ImageSets:
    """The images of the splits of configs/portraits.py, which are kept in the folder for the other processes."""
    path = arguments.folder / "images.npz"
    if not path.exists():
        changes = {f"data.{name}": value for name, value in _data_fields(arguments).items()}
        config = prepare_for(replace_fields(arms.OURS["ours"].config(), changes))
        limits = EvaluationSettings(images=arguments.images, training_images=_ALL_IMAGES)
        store.save_images(path, read_image_sets(config, limits))
    return store.read_images(path)


def collect(folder: pathlib.Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The content of ``results.json``: everything that is trained and judged in the folder."""
    runs = []
    for path in sorted(folder.glob("*/*/record.json")):
        record, figures = store.read_record(path.parent), store.read_figures(path.parent)
        if figures is not None:
            runs.append(vars(record) | {"figures": figures})
    return {"machine": machine.describe(), "settings": settings, "runs": runs}


def draw(path: pathlib.Path, material: Material) -> None:
    """Ten held-out images above their reconstructions, and below a row of samples of each sampler."""
    shown = evenly_spaced(grids.SHOWN, len(material.reconstructions))
    rows = [material.images.held_out[shown], material.reconstructions[shown]]
    rows += [samples[: grids.SHOWN] for samples in material.samples.values()]
    grids.save_png(epath.Path(path), grids.grid([to_float(row) for row in rows]))


def _label(text: str) -> str | None:
    return f"{text:28}" if sys.stderr.isatty() else None


if __name__ == "__main__":
    main()
