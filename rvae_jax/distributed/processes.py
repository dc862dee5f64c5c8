"""Several processes as one program: how they find each other, agree, and end together.

With one process every function here does nothing, or returns its argument.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any, Literal, NoReturn

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from rvae_jax.errors import UserError, one_line

# A process that is silent for this long counts as dead, and the others end. docs/scaling.md states the time.
HEARTBEAT_TIMEOUT_S = 60

# How long a process that ends with an error waits for the others to end with it.
_LEAVE_TIMEOUT_S = 10

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "opencv-python-headless")


def initialize(
    mode: Literal["auto", "on", "off"] = "auto",
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Makes this process part of a cluster. Call it before any use of a device.

    Args:
      mode: ``auto`` joins the cluster that the environment describes (TPU pod, SLURM, Kubernetes, Open MPI), if any;
        ``on`` requires one; ``off`` stays alone.
      coordinator_address: HOST:PORT of process 0, if the environment does not have it; needs the other two.
      num_processes: number of processes.
      process_id: number of this process, from 0.

    Raises:
      UserError: ``mode`` is ``on`` and there is no cluster, the arguments contradict each other, or the other
        processes could not be reached.
    """
    explicit = {
        "--coordinator_address": coordinator_address,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    given = [flag for flag, value in explicit.items() if value is not None]
    if mode == "off":
        if given:
            raise UserError(f"--distributed=off with {', '.join(given)}: expected --distributed=on, or none of these")
        return
    if given and len(given) < len(explicit):
        missing = ", ".join(flag for flag in explicit if flag not in given)
        raise UserError(f"{', '.join(given)} without {missing}: expected all three, or none")
    if given and not 0 <= process_id < num_processes:
        raise UserError(f"--process_id={process_id}: expected from 0 to {num_processes - 1}, below --num_processes")
    try:
        jax.distributed.initialize(
            coordinator_address, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S
        )
    except ValueError as error:
        if "coordinator_address should be defined" not in str(error):
            raise UserError(f"--distributed={mode}: {error}") from error
        if mode == "on":
            raise UserError(
                "--distributed=on: found no cluster (TPU pod, SLURM step, Kubernetes Job or Open MPI); give"
                " --coordinator_address, --num_processes and --process_id"
            ) from None
    except RuntimeError as error:
        raise UserError(f"--distributed={mode}: could not join the cluster: {one_line(error)}") from error


def describe() -> str:
    """One line: the number of this process, and its devices."""
    return (
        f"Process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()}:"
        f" {jax.local_device_count()} of {jax.device_count()} devices, {jax.local_devices()[0].device_kind}"
    )


def is_several() -> bool:
    """Whether there is more than one process."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this is process 0, the only one that writes, draws and reports."""
    return jax.process_index() == 0


def exchange(value: Any) -> list[Any]:
    """The ``value`` of every process, of JSON types, in the order of the processes."""
    if not is_several():
        return [value]
    mine = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(mine)))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(mine)] = mine
    everyone = multihost_utils.process_allgather(padded)
    return [json.loads(bytes(row[:length])) for row, length in zip(everyone, lengths, strict=True)]


def gather(rows: Any) -> Any:
    """The rows of all processes, concatenated, in every process.

    Args:
      rows: a tree of NumPy arrays; their shapes are the same in every process.
    """
    if not is_several():
        return rows

    def gathered(array: np.ndarray) -> np.ndarray:
        # As bytes, since JAX would round float64.
        mine = np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)
        everyone = np.ascontiguousarray(multihost_utils.process_allgather(mine, tiled=True))
        return everyone.view(array.dtype).reshape(-1, *array.shape[1:])

    return jax.tree.map(gathered, rows)


def barrier(name: str) -> None:
    """Waits until every process has reached the barrier of this name."""
    multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """If one process raises a UserError within it, all processes raise it when they leave it.

    Raises:
      UserError: that of the first process that has one. The message names the process, unless all have the same.
    """
    failure = None
    try:
        yield
    except UserError as error:
        if not is_several():
            raise
        failure = error
    failures = exchange(None if failure is None else {"host": socket.gethostname(), "message": str(failure)})
    failed = [index for index, each in enumerate(failures) if each is not None]
    if not failed:
        return
    first = failures[failed[0]]
    if len(failed) == len(failures) and len({each["message"] for each in failures}) == 1:
        raise UserError(first["message"]) from failure
    others = f" (and {len(failed) - 1} more of {len(failures)})" if len(failed) > 1 else f" of {len(failures)}"
    raise UserError(f"process {failed[0]}{others} on {first['host']}: {first['message']}") from failure


def require_equal(values: dict[str, Any]) -> None:
    """Raises unless all processes have the same values, by name.

    Raises:
      UserError: naming the first value that differs, and the processes.
    """
    everyone = exchange({"host": socket.gethostname(), "values": values})
    first = everyone[0]
    for index, other in enumerate(everyone):
        names = first["values"].keys() | other["values"].keys()
        for name in sorted(names):
            ours, theirs = (each["values"].get(name) for each in (first, other))
            if ours != theirs:
                raise UserError(
                    f"{name} is {theirs!r} in process {index} on {other['host']}, but {ours!r} in process 0 on"
                    f" {first['host']}; expected the same in all {len(everyone)}"
                )


def versions() -> dict[str, str]:
    """What the numbers of a step depend on besides the configuration: a hash of our code, and versions of packages."""
    package = pathlib.Path(__file__).parents[1]
    code = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        code.update(str(path.relative_to(package)).encode() + path.read_bytes())
    found = {"the code of rvae_jax": code.hexdigest()[:12], "python": sys.version.split()[0]}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def require_shared(folder: epath.Path, patience_s: float = 10.0) -> None:
    """Raises unless ``folder`` is the same folder for all processes.

    Args:
      folder: a folder in which the first process can write.
      patience_s: how long the others look for the file that the first has written; network file systems take a while.

    Raises:
      UserError: it is not the same, such as a local folder on each of several hosts.
    """
    if not is_several():
        return
    (name, *_) = exchange(f".shared.{uuid.uuid4().hex}")
    mark = folder / name
    if is_first():
        mark.write_text("seen by all processes")
    barrier("rvae_jax shared folder")
    try:
        with together():
            deadline = time.monotonic() + patience_s
            while not mark.exists():
                if time.monotonic() > deadline:
                    raise UserError(
                        f"--workdir={folder}: process 0 wrote a file there that this process does not see; expected a"
                        " folder that all hosts share, on NFS or as gs://BUCKET/PATH"
                    )
                time.sleep(0.2)
    finally:
        if is_first():
            mark.unlink()


def leave(status: int, text: str | None = None) -> NoReturn:
    """Prints an error, and ends this process at once, of several processes after a short wait for the others.

    A regular exit would wait for the others for minutes, and then end with another status. It would also wait for
    threads of libraries that still write, and that print their own reports of a disk that is full.

    Args:
      status: of the process.
      text: the error, if there is one.
    """
    with contextlib.suppress(OSError):  # it may be a file on the disk that is full
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        if text is not None:
            print(text, file=sys.stderr)
        sys.stderr.flush()
    if is_several():
        shutdown = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        shutdown.start()
        shutdown.join(_LEAVE_TIMEOUT_S)
    os._exit(status)
