"""What is checked and printed before the first step of a run."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from etils import epath

import rvae_jax
from rvae_jax import config as config_lib
from rvae_jax.config import Config
from rvae_jax.data import catalog
from rvae_jax.data.prepare.on_demand import prepare_for
from rvae_jax.data.prepare.sources.source import is_picture
from rvae_jax.data.records import DamagedError, Images
from rvae_jax.distributed import processes, sharding
from rvae_jax.errors import UserError, printable
from rvae_jax.storage import environment, population_file
from rvae_jax.storage import workdir as workdir_lib
from rvae_jax.storage.checkpoints import Checkpoints
from rvae_jax.system.files import is_remote
from rvae_jax.system.units import format_bytes
from rvae_jax.training.metric_log import METRICS_FILE, read_metrics
from rvae_jax.training.objective import ramps
from rvae_jax.training.optimizer import learning_rate_schedule
from rvae_jax.training.run import Run
from rvae_jax.training.state import TrainState

_FEW = 10  # images
_PARAMETERS_FILE = "parameters.txt"


def open_run(
    config: Config, workdir: epath.Path, device_count: int, local_device_count: int
) -> tuple[Config, dict[str, Images]]:
    """Checks the configuration and the work directory, and finds or prepares the images.

    Args:
      config: the configuration.
      workdir: the run's folder.
      device_count: devices of all processes.
      local_device_count: devices of this process.

    Returns:
      The configuration with the data set that it means; the images by ``train``, ``selection`` and ``validation``.

    Raises:
      UserError: what the user can put right, in all processes.
    """
    _require_same_program(config, workdir, local_device_count)
    with processes.together():
        config_lib.validate(config, device_count)
        _require_no_pictures(workdir)
        _require_places(workdir)
        config = prepare_for(config, before_work=lambda resolved: workdir_lib.require_same(workdir, resolved))
        splits = {
            "train": config.data.train_split,
            "selection": config.data.selection_split,
            "validation": config.data.validation_split,
        }
        sources = {name: catalog.load_dataset(config.data, split) for name, split in splits.items()}
    processes.require_equal({f"the {name} images": _fingerprint(source) for name, source in sources.items()})
    return config, sources


def claim(config: Config, workdir: epath.Path) -> Config | None:
    """Makes ``workdir``, which is locked, the folder of the run.

    Returns:
      In process 0, the configuration with which the run that ``workdir`` holds was last started, or None.

    Raises:
      UserError: what the user can put right, in all processes.
    """
    with processes.together():
        before = workdir_lib.claim(workdir, config) if processes.is_first() else None
    processes.require_shared(workdir)
    return before


def _require_same_program(config: Config, workdir: epath.Path, local_device_count: int) -> None:
    """Raises unless all processes were started with the same code, arguments and number of devices."""
    fields = config_lib.flatten(config)
    for field in ("data.data_dir", "data.folder"):  # each host may have its data elsewhere
        del fields[field]
    arguments = {f"--config.{name}": value for name, value in fields.items()} | {"--workdir": str(workdir)}
    processes.require_equal(processes.versions() | arguments | {"the number of devices": local_device_count})


def _require_no_pictures(workdir: epath.Path) -> None:
    """Raises if ``workdir`` holds no run, but pictures: the path of somebody's photographs in the wrong flag."""
    if (workdir / workdir_lib.CONFIG_FILE).exists() or not workdir.is_dir():
        return
    if pictures := [entry.name for entry in workdir.iterdir() if is_picture(entry.name)]:
        raise UserError(
            f"--workdir={workdir} holds no run, but pictures, such as {printable(min(pictures))}; expected a folder for"
            " the run; the pictures to train on are given by --config.data.folder"
        )


def _require_places(workdir: epath.Path) -> None:
    """Raises if there is a file where a run needs a folder, or a folder where it needs a file."""
    for folder in ("checkpoints", "pictures", "tensorboard"):
        if (workdir / folder).is_file():
            raise UserError(f"{workdir / folder} is a file, where a run has a folder; move it away")
    for file in (METRICS_FILE, workdir_lib.LOCK_FILE, environment.FILE, _PARAMETERS_FILE, population_file.FILE):
        if (workdir / file).is_dir():
            raise UserError(f"{workdir / file} is a folder, where a run has a file; move it away")


def _fingerprint(images: Images) -> str:
    """A hash of the number of images and of a few of them."""
    content = hashlib.sha256(str(len(images)).encode())
    for index in range(0, len(images), max(1, len(images) // 16)):
        with contextlib.suppress(DamagedError):
            content.update(np.ascontiguousarray(images[index]))
    return content.hexdigest()[:12]


def is_finished(workdir: epath.Path, checkpoints: Checkpoints, steps: int) -> bool:
    """Whether the last step is saved and the pictures after it were written; process 0 decides."""
    finished = max(checkpoints.steps(), default=0) >= steps and any(
        row["step"] >= steps and "best/step" in row for row in read_metrics(workdir)
    )
    return processes.exchange(finished)[0]


def require_space(run: Run, shapes: TrainState) -> None:
    """Raises unless the disk has room for the checkpoints; the space of an object store is not known."""
    with processes.together():
        if not processes.is_first() or is_remote(run.workdir):
            return
        state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
        needed = state_bytes * (run.config.keep_checkpoints + 2)
        free = shutil.disk_usage(run.workdir).free
        if free < needed:
            raise UserError(
                f"--workdir={run.workdir}: {format_bytes(free)} free on its device, expected {format_bytes(needed)} for"
                " the checkpoints; make room, use another --workdir, or lower --config.keep_checkpoints"
            )


def describe(run: Run, shapes: TrainState) -> None:
    """Prints what will be trained, on what, and what may go wrong; writes what of it the work directory keeps."""
    config = run.config
    devices = sharding.describe_devices(run.layout.mesh.devices)
    print(f"Devices: {devices}, jax {jax.__version__}")
    networks: dict[str, Any] = {name: player.variables for name, player in shapes.players.items()}
    counts = ", ".join(f"{name} {parameter_overview.count_parameters(part):,}" for name, part in networks.items())
    print(f"Parameters, with statistics: {counts}; listed in {run.workdir / _PARAMETERS_FILE}")
    if processes.is_first():
        table = parameter_overview.get_parameter_overview(networks, include_stats=False)
        (run.workdir / _PARAMETERS_FILE).write_text(table + "\n")
        environment.write(run.workdir, environment.Environment(devices, rvae_jax.__version__))
    sizes = ", ".join(f"{name} {len(source):,}" for name, source in run.sources.items())
    epochs = config.steps * config.batch_size / len(run.sources["train"])
    print(f"Images: {config.data.name}, {sizes}; {config.steps:,} steps of {config.batch_size} are {epochs:.1f} epochs")
    few = [f"{len(run.sources[name])} {name}" for name in ("selection", "validation") if len(run.sources[name]) < _FEW]
    if few:
        print(
            f"Warning: {' and '.join(few)} images: with fewer than {_FEW}, the best step and the figures are mostly"
            " chance. Add pictures, or look at the pictures of several steps before you choose one."
        )
    if config.batch_size < 8:
        print(
            f"Warning: --config.batch_size={config.batch_size} is below 8: the moments of the population are estimated"
            " on the batch. With so few codes the population KL is far too high and its gradient is noisy."
        )
    if (config.loss.kl, config.loss.moments) == ("population", "mixture") and config.loss.variance_target >= 1:
        print(
            "Warning: --config.loss.moments=mixture with"
            f" --config.loss.variance_target={config.loss.variance_target} rewards posterior collapse: both KL terms"
            " are lowest where the codes carry no information. Use a target below 1, such as 0.1."
        )


def describe_new_length(before: Config, config: Config, step: int) -> None:
    """Prints what another number of steps changes in the schedules of a run that goes on at a step, if it does.

    Args:
      before: the configuration with which the run was last started.
      config: that with which it goes on.
      step: number of steps done.
    """
    before, config = config_lib.in_steps(before), config_lib.in_steps(config)
    changed = [
        f"{name} is {config_lib.get_field(config, name)} instead of {config_lib.get_field(before, name)}"
        for name in config_lib.differences(config, before)
        if name in config_lib.SCHEDULES and not (config.loss.adversarial == "none" and "adversarial" in name)
    ]
    if config.optimizer.schedule == "cosine":
        changed.append("the cosine ends at the new last step")
    if config.steps == before.steps or not changed:
        return
    line = f"--config.steps was {before.steps} and is {config.steps}: schedules follow the new length:"
    line += f" {', '.join(changed)}."
    now, then = _schedules_at(config, step), _schedules_at(before, step)
    jumps = [f"{name} is {now[name]:.3g} instead of {then[name]:.3g}" for name in now if now[name] != then[name]]
    if jumps:
        line += f" At step {step}, where the run goes on, {', '.join(jumps)}."
    print(line)


def _schedules_at(config: Config, step: int) -> dict[str, float]:
    """What the schedules, in steps, give at a step."""
    kl, adversarial = ramps(config.loss, step)
    values = {
        "the learning rate": learning_rate_schedule(config.optimizer, config.steps)(step),
        "the share of the KL's weight": kl,
    }
    if config.loss.adversarial != "none":
        values["the share of the adversarial weight"] = adversarial
    return {name: float(value) for name, value in values.items()}
