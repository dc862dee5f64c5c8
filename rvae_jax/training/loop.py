"""The training run: what happens between the command and the pictures."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import itertools
import math
import shutil
import signal
import time
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from etils import epath

from rvae_jax import config as config_lib
from rvae_jax.config import Config
from rvae_jax.data import catalog, pipeline
from rvae_jax.data.prepare.on_demand import prepare_for
from rvae_jax.data.records import DamagedError, Images
from rvae_jax.distributed import processes, sharding
from rvae_jax.distributed.preemption import StopRequest
from rvae_jax.drawing import grids
from rvae_jax.errors import UserError
from rvae_jax.hardware import cost, memory
from rvae_jax.hardware.xla_options import first_state_options
from rvae_jax.storage import stored_model
from rvae_jax.storage import workdir as workdir_lib
from rvae_jax.storage.checkpoints import Checkpoints
from rvae_jax.storage.transfer import start_from
from rvae_jax.system.files import is_remote
from rvae_jax.system.units import format_bytes, format_duration
from rvae_jax.training.metric_log import MetricWriter, read_metrics
from rvae_jax.training.optimizer import learning_rate_schedule
from rvae_jax.training.program import make_program
from rvae_jax.training.progress import Progress
from rvae_jax.training.state import TrainState
from rvae_jax.training.step import Metrics
from rvae_jax.training.validation import Evaluation, evaluate, make_reconstruct

_SAMPLES = 3 * grids.SHOWN


def train(config: Config, workdir: epath.PathLike, init_from: epath.PathLike | None = None) -> signal.Signals | None:
    """Trains, or goes on training, until ``config.steps`` steps are done.

    Leaves in ``workdir``: ``config.json``, ``metrics.jsonl``, ``tensorboard/``, ``pictures/``, ``checkpoints/`` and
    ``parameters.txt``. A run that was stopped in any way goes on from its newest checkpoint as if nothing had happened.
    Of several processes (``processes.initialize``) each calls this, with the same arguments.

    Args:
      config: the configuration.
      workdir: the run's folder, local or in an object store; made if missing. Several processes share it.
      init_from: what holds the weights that a fresh run starts from; see ``stored_model.read``.

    Returns:
      None when the run is done, or the signal (SIGINT, SIGTERM) that stopped it after saving.

    Raises:
      UserError: what the user can put right; every checkpoint saved before stays intact.
    """
    workdir = workdir_lib.open_workdir(workdir)
    _require_same_program(config, workdir)
    with processes.together():
        config_lib.validate(config, jax.device_count())
        config = prepare_for(config, before_work=lambda resolved: workdir_lib.require_same(workdir, resolved))
        sources = {
            name: catalog.load_dataset(config.data, split)
            for name, split in (
                ("train", config.data.train_split),
                ("selection", config.data.selection_split),
                ("validation", config.data.validation_split),
            )
        }
    processes.require_equal({f"the {name} images": _fingerprint(source) for name, source in sources.items()})
    with processes.together():
        if processes.is_first():
            workdir_lib.claim(workdir, config)
    processes.require_shared(workdir)
    checkpoints = Checkpoints(workdir, config.keep_checkpoints)
    try:
        if _is_finished(workdir, checkpoints, config.steps):
            print(
                f"{workdir} is finished: {config.steps} of {config.steps} steps."
                f" Pictures are in {workdir / 'pictures'}. To train on, raise --config.steps."
            )
            return None
        with StopRequest() as stop:
            return _Run(config, workdir, checkpoints, sources).go(stop, init_from)
    except Exception as error:
        if not _is_disk_full(error):
            raise
        raise UserError(
            f"--workdir={workdir}: no space left on the device; whole checkpoints are there of steps"
            f" {checkpoints.steps()}. Make room, and run the same command again"
        ) from error
    finally:
        checkpoints.close()


def _require_same_program(config: Config, workdir: epath.Path) -> None:
    """Finds that all processes were started with the same code, arguments and number of devices."""
    fields = config_lib.flatten(config)
    for field in ("data.data_dir", "data.folder"):  # where a host has its data is its own business
        del fields[field]
    arguments = {f"--config.{name}": value for name, value in fields.items()} | {"--workdir": str(workdir)}
    processes.require_equal(processes.versions() | arguments | {"the number of devices": jax.local_device_count()})


def _fingerprint(images: Images) -> str:
    """A hash of how many images there are and of a few of them."""
    content = hashlib.sha256(str(len(images)).encode())
    for index in range(0, len(images), max(1, len(images) // 16)):
        with contextlib.suppress(DamagedError):
            content.update(np.ascontiguousarray(images[index]))
    return content.hexdigest()[:12]


class _Run:
    """One process's part of a run."""

    def __init__(
        self,
        config: Config,
        workdir: epath.Path,
        checkpoints: Checkpoints,
        sources: dict[str, Images],
    ) -> None:
        self.config = config
        self.workdir = workdir
        self.checkpoints = checkpoints
        self.sources = sources
        self.mean_image = pipeline.mean_image(sources["train"], config)
        self.layout = sharding.data_parallel(config.parallel, shard_optimizer=config.shard_optimizer)
        self.program = make_program(config, self.layout.axis_name)
        self.learning_rate = learning_rate_schedule(config.optimizer, config.steps)
        replicated = self.layout.replicated
        keys = jax.jit(lambda key: tuple(jax.random.fold_in(key, i) for i in range(3)), out_shardings=(replicated,) * 3)
        self.init_key, self.step_key, self.picture_key = keys(jax.random.key(config.seed))
        self.reconstruct = jax.jit(
            make_reconstruct(self.program.vae),
            in_shardings=(replicated, self.layout.batch),
            out_shardings=self.layout.batch,
            compiler_options=self.layout.compiler_options,
        )
        self.decode = jax.jit(
            functools.partial(self.program.vae.apply, method="decode"),
            out_shardings=replicated,
            compiler_options=self.layout.compiler_options,
        )
        self.draw_prior = jax.jit(
            functools.partial(jax.random.normal, shape=(_SAMPLES, config.model.latent_dim)), out_shardings=replicated
        )
        # Metrics of the steps since the last row, still on the device, so that steps need not wait for each other.
        self.pending: list[tuple[int, Metrics]] = []
        self.pause_s = 0.0
        self.input_wait_s = 0.0
        self.damaged = 0

    def go(self, stop: StopRequest, init_from: epath.PathLike | None) -> signal.Signals | None:
        """Starts or resumes, trains, and finishes."""
        # Of the key that the first state is made with, so that this is not traced again for it.
        shapes = self.layout.with_shardings(jax.eval_shape(self.program.create_state, self.init_key))
        state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
        with processes.together():
            if processes.is_first() and not is_remote(self.workdir):
                _require_space(self.workdir, state_bytes * (self.config.keep_checkpoints + 2))
        self._describe(shapes)
        # Shapes, and not an initial state, beside the restored one: the two might not fit into memory together.
        state = self.checkpoints.restore_latest(shapes)
        if state is None:
            state = self._initial_state(shapes, init_from)
        elif init_from is not None:
            raise UserError(
                f"--init_from={init_from}: {self.workdir} already holds a run, at step {int(state.step)}; give a new"
                " --workdir, or leave --init_from out to go on with that run"
            )
        self.writer = MetricWriter(self.workdir, int(state.step)) if processes.is_first() else None
        try:
            state = self._train(state, stop)
            if stop.signal is not None and int(state.step) < self.config.steps:
                print(f"Stopped by {stop.signal.name} at step {int(state.step)}. The same command goes on from there.")
                return stop.signal
            self._finish(shapes)
            return None
        finally:
            if self.writer is not None:
                self.writer.close()

    def _initial_state(self, shapes: TrainState, init_from: epath.PathLike | None) -> TrainState:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
        options = first_state_options(jax.devices()[0].platform)
        state = jax.jit(self.program.create_state, out_shardings=shardings, compiler_options=options)(self.init_key)
        if init_from is not None:
            with processes.together():
                source = stored_model.read(init_from, sharding=self.layout.replicated)
            state, left_out = start_from(state, source.weights)
            print(f"Starts from {source.source}; not taken over: {len(left_out) or 'nothing'}")
            for line in left_out:
                print(f"  {line}")
        return state

    def _describe(self, shapes: TrainState) -> None:
        config = self.config
        print(f"Devices: {sharding.describe_devices()}, jax {jax.__version__}")
        networks = {"vae": shapes.vae.variables}
        if shapes.discriminator is not None:
            networks["discriminator"] = shapes.discriminator.variables
        counts = ", ".join(f"{name} {parameter_overview.count_parameters(part):,}" for name, part in networks.items())
        print(f"Parameters, with statistics: {counts}; listed in {self.workdir / 'parameters.txt'}")
        table = parameter_overview.get_parameter_overview(networks, include_stats=False)
        if processes.is_first():
            (self.workdir / "parameters.txt").write_text(table + "\n")
        sizes = ", ".join(f"{name} {len(source):,}" for name, source in self.sources.items())
        epochs = config.steps * config.batch_size / len(self.sources["train"])
        steps = f"{config.steps:,} steps of {config.batch_size}"
        print(f"Images: {config.data.name}, {sizes}; {steps} are {epochs:.1f} epochs")
        if config.batch_size < 8:
            print(
                f"Warning: --config.batch_size={config.batch_size} is below 8: the population's moments are estimated"
                " on the batch, and so few codes overestimate its KL a lot and make its gradient noisy."
            )
        if (config.loss.kl, config.loss.moments) == ("population", "mixture") and config.loss.variance_target >= 1:
            print(
                "Warning: --config.loss.moments=mixture with"
                f" --config.loss.variance_target={config.loss.variance_target} favours"
                " codes that say nothing; a target below 1, such as 0.1, leaves room for them."
            )

    def _compile(self, state: TrainState) -> Any:
        config = self.config

        def compile_step(batch_size: int) -> tuple[jax.stages.Compiled | None, str]:
            part = np.zeros((batch_size // jax.process_count(), *config.model.image_shape), np.uint8)
            (batch,) = self.layout.to_devices([part])
            lowered = self.layout.lower(self.program.train_step, state, batch, self.step_key)
            return memory.compile_step(lowered, self.layout.compiler_options)

        def bytes_of(compiled: jax.stages.Compiled | None) -> float:
            # Of all processes, since they compile together and so must come to the same decisions.
            return max(processes.exchange(math.inf if compiled is None else cost.cost_of(compiled).memory))

        began = time.monotonic()
        # The compiled program itself is called in the loop: it refuses another shape instead of compiling again.
        compiled, refusal = compile_step(config.batch_size)
        seconds = time.monotonic() - began
        if compiled is None:
            print(f"The compiler found no room: {refusal}")
        needed, limit = bytes_of(compiled), min(processes.exchange(memory.limit()))
        with processes.together():
            memory.require_room(config, jax.device_count(), needed, limit, lambda size: bytes_of(compile_step(size)[0]))
        needed = cost.cost_of(compiled, loop_steps=config.accumulate_steps)
        images_a_device = config.batch_size / jax.device_count()
        work = "" if needed.flops is None else f"{needed.flops / images_a_device / 1e9:.2f} GFLOP an image; "
        print(
            f"Compiled the step in {format_duration(seconds)}: {work}{format_bytes(needed.memory)} a device, of which"
            f" {format_bytes(needed.temporary)} temporary",
            flush=True,
        )
        return compiled

    def _train(self, state: TrainState, stop: StopRequest) -> TrainState:
        config = self.config
        first = saved = int(state.step)
        if first >= config.steps:
            return state
        hosts = jax.process_index(), jax.process_count()
        batches = self.layout.to_devices(pipeline.train_batches(self.sources["train"], config, first, *hosts))
        batch = next(batches)  # so that the input is at work while the step is compiled
        compiled = self._compile(state)
        batches = itertools.chain([batch], batches)
        progress = Progress(first, config.steps, config.batch_size)
        for step in range(first + 1, config.steps + 1):
            if stop.reached(step - 1):
                break
            began = time.monotonic()
            images = next(batches)
            self.input_wait_s += time.monotonic() - began
            state, metrics = compiled(state, images, self.step_key)
            self.pending.append((step, metrics))
            evaluates = step % config.eval_every == 0 or step == config.steps
            if evaluates or step % config.log_every == 0:
                self._log(step, progress)
            if evaluates:
                began = time.monotonic()
                self.checkpoints.save(state, self._evaluate(state))
                self._publish()
                saved, self.pause_s = step, time.monotonic() - began
                progress.skip()
        step = int(state.step)
        if self.pending:
            self._log(step, progress)
        if step > saved:
            self.checkpoints.save(state)
        self.checkpoints.wait()
        return state

    def _write(self, step: int, row: dict[str, float]) -> None:
        if self.writer is not None:
            self.writer.scalars(step, row)

    def _publish(self) -> None:
        if self.writer is not None:
            self.writer.publish()

    def _log(self, step: int, progress: Progress) -> None:
        """Writes the mean of the metrics since the last row; refuses to go on from a step that is not finite."""
        steps, rows = zip(*jax.device_get(self.pending), strict=True)
        self.pending.clear()
        for row_step, row in zip(steps, rows, strict=True):
            for name in sorted(row, key=lambda name: (not name.startswith("loss/"), name)):
                if not np.isfinite(row[name]):
                    raise UserError(
                        f"step {row_step}: {name} is {row[name]}; stopped. Checkpoints of steps"
                        f" {self.checkpoints.steps()} are intact. Try a lower --config.optimizer.learning_rate or"
                        " --config.optimizer.clip_norm=1000, in a new --workdir"
                    )
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        evaluations_left = -(-self.config.steps // self.config.eval_every) - step // self.config.eval_every
        images_per_second, seconds_left = progress.report(step, self.pause_s * evaluations_left)
        means["learning_rate"] = float(self.learning_rate(step - 1))
        means["images_per_second"] = images_per_second
        means["input_wait"] = self.input_wait_s / len(steps)
        self.input_wait_s = 0.0
        means["damaged_images"] = self._count_damaged()
        self._write(step, means)
        print(
            f"step {step}/{self.config.steps}  loss {means['loss/total']:.1f}  L1 {means['loss/reconstruction']:.4f}"
            f"  {images_per_second:.1f} images/s  {format_duration(seconds_left)} left",
            flush=True,
        )

    def _count_damaged(self) -> int:
        """How many images could not be read so far; tells of new ones."""
        damaged = [reason for source in self.sources.values() for reason in source.damaged.values()]
        if len(damaged) > self.damaged:
            print(f"Warning: {len(damaged)} images cannot be read, others stand for them; the last: {damaged[-1]}")
            self.damaged = len(damaged)
        return self.damaged

    def _evaluate(self, state: TrainState) -> float:
        """Evaluates, writes metrics and pictures, and returns the selection error."""
        step, variables = int(state.step), state.evaluation_variables
        selection = self._evaluate_on("selection", variables)
        validation = self._evaluate_on("validation", variables)
        row = {f"selection/{name}": value for name, value in selection.metrics.items()}
        row |= {f"validation/{name}": value for name, value in validation.metrics.items()}
        self._write(step, row)
        for name, picture in self._pictures(validation, variables).items():
            if self.writer is not None:
                grids.save_png(self.workdir / "pictures" / f"{name}_{step:08d}.png", picture)
                self.writer.image(step, name, picture)
        print(f"step {step}/{self.config.steps}  held-out {_summary(validation)}", flush=True)
        return selection.metrics["l1"]

    def _evaluate_on(self, name: str, variables: Any) -> Evaluation:
        hosts = jax.process_index(), jax.process_count()
        batches = pipeline.eval_batches(self.sources[name], self.config, self.config.batch_size, *hosts)

        def reconstruct(images: np.ndarray) -> tuple[np.ndarray, ...]:
            return tuple(map(sharding.local_rows, self.reconstruct(variables, self.layout.split(images))))

        return evaluate(reconstruct, batches, self.mean_image, processes.gather)

    def _pictures(self, validation: Evaluation, variables: Any) -> dict[str, np.ndarray]:
        latent_dim = self.config.model.latent_dim
        prior = np.asarray(self.draw_prior(self.picture_key))
        pairs, between = grids.transition_codes(validation.means)
        decoded = np.asarray(self.decode(variables, np.concatenate([prior, between.reshape(-1, latent_dim)])))
        samples = decoded[:_SAMPLES].reshape(-1, grids.SHOWN, *decoded.shape[1:])
        transitions = decoded[_SAMPLES:].reshape(*between.shape[:2], *decoded.shape[1:])
        return {
            "reconstructions": grids.reconstruction_grid(validation.images, validation.reconstructions),
            "samples": grids.grid(list(samples)),
            "transition": grids.transition_grid(validation.images, pairs, transitions),
        }

    def _finish(self, shapes: TrainState) -> None:
        """Evaluates the best checkpoint on the held-out images, and leaves its pictures without a step in the name."""
        step = self.checkpoints.best_step()
        best = self.checkpoints.restore(step, shapes)
        validation = self._evaluate_on("validation", best.evaluation_variables)
        for name, picture in self._pictures(validation, best.evaluation_variables).items():
            if self.writer is not None:
                grids.save_png(self.workdir / "pictures" / f"{name}.png", picture)
        row = {f"best/{name}": value for name, value in validation.metrics.items()}
        self._write(self.config.steps, {"best/step": step, **row})
        print(f"Done. Best on the selection images: step {step}; held-out {_summary(validation)}")
        print(f"Look at {self.workdir / 'pictures'}: reconstructions.png, samples.png, transition.png")


def _summary(evaluation: Evaluation) -> str:
    metrics, count = evaluation.metrics, len(evaluation.images)
    return (
        f"L1 {metrics['l1']:.4f} ({metrics['l1_relative_to_mean_image']:.3f} of the mean image's),"
        f" {round(metrics['nearest_is_own'] * count)} of {count} nearest to their own image,"
        f" {metrics['active_units']:.0f} active units"
    )


def _is_finished(workdir: epath.Path, checkpoints: Checkpoints, steps: int) -> bool:
    """Whether the last step is saved and the pictures after it were written; process 0 decides."""
    finished = max(checkpoints.steps(), default=0) >= steps and any(
        row["step"] >= steps and "best/step" in row for row in read_metrics(workdir)
    )
    return processes.exchange(finished)[0]


def _require_space(workdir: epath.Path, needed: int) -> None:
    free = shutil.disk_usage(workdir).free
    if free < needed:
        raise UserError(
            f"--workdir={workdir}: {format_bytes(free)} free on its device, expected {format_bytes(needed)} for the"
            " checkpoints; make room, use another --workdir, or lower --config.keep_checkpoints"
        )


def _is_disk_full(error: BaseException | None) -> bool:
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
