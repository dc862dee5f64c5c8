"""Training in processes of their own: killed at random moments, on a disk that fills, and refused by the system."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
from etils import epath

from benchmarks.faults import trial
from rvae_jax import main
from rvae_jax.storage import stored_model
from rvae_jax.storage.checksums import checksums_here
from rvae_jax.training.metric_log import read_metrics

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Of a run that a signal has ended: by itself, or before the program had begun; 0 if it was faster.
_STATUSES = (0, *(128 + number for number in SIGNALS), *(-number for number in SIGNALS))
LIMIT_S = 300.0  # for a complete run
# Calls of the system that are refused, and about how often a run makes each of them in its busiest thread.
CALLS = {"write": 300, "fsync": 40, "rename": 30, "mkdir": 20, "unlink": 10}
ERRORS = ("EIO", "ENOSPC", "EDQUOT", "ESTALE")
NOISE = ("Traceback", "Exception ignored", "Event loop is closed")

# The demonstration, made so small that it trains in seconds.
SMALL = (
    "--config=configs/orl.py:tiny",
    "--config.model.network=paper",
    "--config.model.linear_path=none",
    "--config.loss.adversarial=hinge",
    "--config.model.image_shape=(16,16,1)",
    "--config.model.encoder_filters=(8,8)",
    "--config.model.decoder_filters=(8,1)",
    "--config.model.discriminator_filters=(8,1)",
    "--config.model.discriminator_strides=(2,1)",
    "--config.model.encoder_identity_blocks=0",
    "--config.model.decoder_identity_blocks=0",
    "--config.keep_checkpoints=2",
    # A run that goes back to an earlier checkpoint and on to another length gets the same numbers by this one alone.
    "--config.optimizer.schedule=constant",
)


def command(folder: pathlib.Path, workdir: pathlib.Path, steps: int) -> list[str]:
    """The command that trains in ``workdir``, which saves and evaluates four times."""
    return [
        *(sys.executable, "-m", "rvae_jax.main", *SMALL, f"--workdir={workdir}", f"--config.steps={steps}"),
        *(f"--config.eval_every={steps // 4}", "--config.log_every=1", f"--config.data.data_dir={folder / 'data'}"),
    ]


def result_of(workdir: pathlib.Path, steps: int) -> list[object]:
    """What a run has left: its weights, and the losses of every step."""
    losses = {row["step"]: row["loss/total"] for row in read_metrics(epath.Path(workdir)) if "loss/total" in row}
    return [checksums_here(stored_model.read(workdir, steps).weights), losses]


def train(folder: pathlib.Path, workdir: pathlib.Path, steps: int) -> subprocess.CompletedProcess[str]:
    """Trains to the end, or as far as it goes."""
    return subprocess.run(command(folder, workdir, steps), capture_output=True, text=True, check=False, timeout=LIMIT_S)


def killed(folder: pathlib.Path, workdir: pathlib.Path, steps: int, rng: np.random.Generator, usual_s: float) -> str:
    """Ends a run by signals at three random moments, lets it end, and returns the outcome.

    Args:
      folder: of the campaign.
      workdir: of the run, which is new.
      steps: its length.
      rng: chooses signals and moments.
      usual_s: how long an undisturbed run takes.
    """
    shutil.rmtree(workdir, ignore_errors=True)
    for number in rng.choice(len(SIGNALS), 3):
        with subprocess.Popen(
            command(folder, workdir, steps), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            time.sleep(usual_s * rng.random())
            process.send_signal(SIGNALS[number])
            try:
                said, _ = process.communicate(timeout=trial.HANG_S)
            except subprocess.TimeoutExpired:
                process.kill()
                return trial.HANG
        if any(noise in said for noise in NOISE) or process.returncode not in _STATUSES:
            return trial.TRACEBACK
        _, is_asked, after = said.partition("saving, then stopping")
        has_ended = "Stopped by" in after or "Done." in after  # the last step may have been under way
        if is_asked and not has_ended:
            return trial.LOST
    last = train(folder, workdir, steps)
    if last.returncode or any(noise in last.stdout + last.stderr for noise in NOISE):
        return trial.TRACEBACK
    return trial.WHOLE


def can_mount() -> bool:
    """Whether this user may mount a small disk, in a namespace of its own."""
    return _succeeds(["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"])


def _succeeds(line: list[str]) -> bool:
    try:
        return subprocess.run(line, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


_ON_SMALL_DISK = """
mount -t tmpfs -o size=$SIZE tmpfs "$DISK" || exit 99
"$@" > "$SAID" 2>&1
echo $? > "$STATUS"
mount -o remount,size=1g "$DISK"
"$@" >> "$SAID" 2>&1 || exit 98
cp -r "$DISK/." "$KEPT"
"""


def on_small_disk(folder: pathlib.Path, workdir: pathlib.Path, steps: int, size: int) -> str:
    """Trains on a disk of ``size`` bytes, makes room, trains again, and returns the outcome; see ``killed``."""
    shutil.rmtree(workdir, ignore_errors=True)
    disk, kept = workdir / "disk", workdir / "kept"
    for each in (disk, kept):
        each.mkdir(parents=True)
    names = {"SIZE": str(size), "DISK": disk, "KEPT": kept, "SAID": workdir / "said", "STATUS": workdir / "status"}
    variables = [f"{name}={value}" for name, value in names.items()]
    line = ["unshare", "-Urm", "env", *variables, "sh", "-c", _ON_SMALL_DISK, "sh"]
    with subprocess.Popen([*line, *command(folder, disk / "run", steps)], start_new_session=True) as process:
        try:
            status = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return trial.HANG
    said = (workdir / "said").read_text()
    first = (workdir / "status").read_text().strip()
    if status or first not in ("0", "1") or any(noise in said for noise in NOISE):
        return trial.TRACEBACK
    return trial.WHOLE


def can_inject() -> bool:
    """Whether strace is there, knows the calls, and may refuse them."""
    return all(
        _succeeds([*_strace(call, f"{call}:error=EIO:when=60000", pathlib.Path(os.devnull)), "true"]) for call in CALLS
    )


def _strace(call: str, fault: str, log: pathlib.Path) -> list[str]:
    return ["strace", "-f", "--seccomp-bpf", "-qqq", "-o", str(log), "-e", f"trace={call}", "-e", f"inject={fault}"]


def refused(
    folder: pathlib.Path, workdir: pathlib.Path, steps: int, rng: np.random.Generator
) -> tuple[str | None, str]:
    """Trains while a call of the system is refused, once or from then on; trains again.

    Returns:
      The outcome, see ``killed``, or None if no call was refused; and what was to be refused, in strace's words.
    """
    shutil.rmtree(workdir, ignore_errors=True)
    workdir.mkdir()
    call = list(CALLS)[rng.integers(len(CALLS))]
    always = "+" if rng.integers(2) else ""
    fault = f"{call}:error={ERRORS[rng.integers(len(ERRORS))]}:when={rng.integers(1, CALLS[call])}{always}"
    said, log, line = workdir / "said", workdir / "strace", command(folder, workdir / "run", steps)
    statuses = []
    for words in ([*_strace(call, fault, log), *line], line):
        with (
            said.open("a") as file,
            subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True) as process,
        ):
            try:
                statuses.append(process.wait(LIMIT_S))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return trial.HANG, fault
    if "(INJECTED)" not in log.read_text():
        return None, fault
    is_noisy = any(noise in said.read_text() for noise in NOISE)
    fails = statuses[0] not in (0, 1, main.UNEXPECTED) or statuses[1]
    return trial.TRACEBACK if is_noisy or fails else trial.WHOLE, fault
