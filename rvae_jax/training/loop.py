"""The training run, from the command to the last pictures."""

from __future__ import annotations

import contextlib
import itertools
import signal
from collections.abc import Sequence

import jax
from etils import epath

from rvae_jax.config import Config
from rvae_jax.data import pipeline
from rvae_jax.distributed import processes
from rvae_jax.distributed.preemption import StopRequest
from rvae_jax.errors import UserError
from rvae_jax.hardware.xla_options import first_state_options
from rvae_jax.storage import stored_model
from rvae_jax.storage import workdir as workdir_lib
from rvae_jax.storage.checkpoints import Checkpoints, quiet_orbax
from rvae_jax.storage.transfer import take_over
from rvae_jax.training import opening
from rvae_jax.training.compile_step import compile_steps
from rvae_jax.training.held_out import HeldOut
from rvae_jax.training.metric_log import MetricWriter, SilentWriter
from rvae_jax.training.principal_components import set_linear_path
from rvae_jax.training.run import Run, make_run
from rvae_jax.training.state import TrainState
from rvae_jax.training.step_log import StepLog
from rvae_jax.training.system_errors import system_errors_named
from rvae_jax.training.trackers import open_trackers, require_available


@quiet_orbax()
def train(
    config: Config,
    workdir: epath.PathLike,
    init_from: epath.PathLike | None = None,
    devices: Sequence[jax.Device] | None = None,
    track: Sequence[str] = (),
) -> signal.Signals | None:
    """Trains, or resumes training, until ``config.steps`` steps are done.

    Leaves in ``workdir``: ``config.json``, ``metrics.jsonl``, ``tensorboard/``, ``pictures/``, ``checkpoints/``,
    ``parameters.txt``, ``environment.json`` and, when the run is done, ``population.safetensors``. A run that was
    stopped in any way resumes from its newest checkpoint as if nothing had happened. Each of several processes
    (``processes.initialize``) calls this, with the same arguments.

    Args:
      config: the configuration.
      workdir: the run's folder, local or in an object store; made if missing. All processes share it.
      init_from: what holds the weights that a fresh run starts from; see ``stored_model.read``.
      devices: what to train on, by default all devices of all processes.
      track: services that get the metrics, too: ``wandb``, ``mlflow``; see ``trackers``.

    Returns:
      None when the run is done, or the signal (SIGINT, SIGTERM) that stopped it after saving.

    Raises:
      UserError: what the user can put right; every checkpoint saved before stays intact.
      PassingError: the system refused what it may do the next time; likewise.
    """
    require_available(track)
    workdir = workdir_lib.open_workdir(workdir)
    devices = jax.devices() if devices is None else devices
    local = sum(device.process_index == jax.process_index() for device in devices)
    config, sources = opening.open_run(config, workdir, len(devices), local)
    with contextlib.ExitStack() as stack:
        stack.enter_context(workdir_lib.training_lock(workdir))
        before = opening.claim(config, workdir)
        stack.enter_context(system_errors_named(workdir))
        checkpoints = stack.enter_context(Checkpoints(workdir, config.keep_checkpoints))
        if opening.is_finished(workdir, checkpoints, config.steps):
            print(
                f"{workdir} is finished: {config.steps} of {config.steps} steps."
                f" Pictures are in {workdir / 'pictures'}. To train on, raise --config.steps."
            )
            return None
        return _train(make_run(config, workdir, sources, devices), before, checkpoints, init_from, track)


def _train(
    run: Run,
    before: Config | None,
    checkpoints: Checkpoints,
    init_from: epath.PathLike | None,
    track: Sequence[str],
) -> signal.Signals | None:
    """Starts or resumes, trains, and draws the best checkpoint."""
    # From the key that the first state is made with, so that it need not be traced again.
    shapes = run.layout.with_shardings(jax.eval_shape(run.program.create_state, run.init_key))
    opening.require_space(run, shapes)
    opening.describe(run, shapes)
    with contextlib.ExitStack() as stack:
        with processes.together():
            # Before the state is computed, which may take minutes: a service may refuse.
            trackers = open_trackers(track if processes.is_first() else [], run.config, run.workdir)
        stack.callback(trackers.close)
        state = _restore_or_initialize(run, checkpoints, shapes, init_from)
        first_step = int(state.step)
        if before is not None and first_step > 0:
            opening.describe_new_length(before, run.config, first_step)
        writer = MetricWriter(run.workdir, first_step, trackers) if processes.is_first() else SilentWriter()
        stack.enter_context(writer)
        held_out, log = HeldOut(run, writer), StepLog(run, checkpoints, first_step, writer)
        stopped_by = None
        if first_step < run.config.steps:
            state, stopped_by = _train_steps(run, state, checkpoints, log, held_out)
        if stopped_by is not None and int(state.step) < run.config.steps:
            print(f"Stopped by {stopped_by.name} at step {int(state.step)}. The same command goes on from there.")
            return stopped_by
        best = checkpoints.best_step()
        held_out.show_best(best, TrainState.from_items(checkpoints.restore(best, shapes.to_items())))
    return None


def _restore_or_initialize(
    run: Run, checkpoints: Checkpoints, shapes: TrainState, init_from: epath.PathLike | None
) -> TrainState:
    # Shapes, and not an initial state, beside the restored one: the two might not fit into memory together.
    skip_damaged = run.config.resume == "last_complete"
    items = checkpoints.restore_latest(shapes.to_items(), run.config, skip_damaged=skip_damaged)
    if items is None:
        return _initialize(run, shapes, init_from)
    state = TrainState.from_items(items)
    if init_from is not None:
        raise UserError(
            f"--init_from={init_from}: {run.workdir} already holds a run, at step {int(state.step)}; give a new"
            " --workdir, or leave --init_from out to go on with that run"
        )
    return state


def _initialize(run: Run, shapes: TrainState, init_from: epath.PathLike | None) -> TrainState:
    shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    options = first_state_options(run.layout.platform)
    state = jax.jit(run.program.create_state, out_shardings=shardings, compiler_options=options)(run.init_key)
    source = None
    if init_from is not None:
        with processes.together():
            source = stored_model.read(init_from)
    if state.linear_path and not (source and _has_same_linear_path(run.config, source.config)):
        # The analysis returns arrays with shardings of its own; the step expects those of `shapes`.
        state = jax.device_put(set_linear_path(run, state), shardings)
    if source is None:
        return state
    # All processes have read it by now; to put it on the devices of all, they must act together.
    theirs = jax.device_put(jax.device_get(source.weights), run.layout.replicated)
    weights, left_out = take_over(state.weights, theirs)
    print(f"Starts from {source.source}; not taken over: {len(left_out) or 'nothing'}")
    for line in left_out:
        print(f"  {line}")
    return state.with_weights(weights)


def _has_same_linear_path(ours: Config, theirs: Config) -> bool:
    """Whether the arrays of the other's linear path have our names and shapes, so that they are taken over."""
    return all(
        getattr(ours.model, name) == getattr(theirs.model, name)
        for name in ("linear_path", "image_shape", "latent_dim")
    )


def _train_steps(
    run: Run,
    state: TrainState,
    checkpoints: Checkpoints,
    log: StepLog,
    held_out: HeldOut,
) -> tuple[TrainState, signal.Signals | None]:
    """The loop: from the state's step to the last one, or until a signal asks it to stop; the state after it is saved.

    Before the loop there is nothing to save, and a signal has its usual effect.
    """
    config, first = run.config, int(state.step)
    hosts = jax.process_index(), jax.process_count()
    batches = run.layout.to_devices(pipeline.train_batches(run.sources["train"], config, first, *hosts))
    batches = itertools.chain([next(batches)], batches)  # so that input is read while the step is compiled
    # Compiled programs themselves are called: they refuse another shape instead of compiling again.
    program_of = compile_steps(run, state)
    saved = first
    with StopRequest() as stop:
        for step in range(first + 1, config.steps + 1):
            if stop.reached(step - 1):
                break
            state, metrics = program_of(step)(state, log.next_of(batches), *run.constants)
            log.add(step, metrics)
            is_evaluated = step % config.eval_every == 0 or step == config.steps
            if is_evaluated or step % config.log_every == 0:
                log.write()
            if is_evaluated:
                with log.paused():
                    error = held_out.evaluate(state)
                    checkpoints.save(state.to_items(), config, error if config.select == "l1" else None)
                saved = step
        log.write()
        if int(state.step) > saved:
            checkpoints.save(state.to_items(), config)
        checkpoints.wait()
    return state, stop.signal
