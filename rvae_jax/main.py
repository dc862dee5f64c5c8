"""Trains: ``python -m rvae_jax.main --config=configs/orl.py --workdir=runs/orl``."""

import os
import pathlib
import signal
import sys
import traceback
from typing import Literal

try:
    from absl import app, flags
    from ml_collections import config_flags
except ModuleNotFoundError as error:
    sys.exit(f"Error: training needs {error.name}; pip install 'rvae_jax[train]'")

from rvae_jax import huge_pages
from rvae_jax.config import Config, literal_fields
from rvae_jax.errors import UserError

for _, _choices in literal_fields(Config()):
    config_flags.register_flag_parser_for_type(Literal[_choices], flags.EnumParser(_choices))

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File that defines get_config(variant), as in --config=FILE:VARIANT.", lock_config=True
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run, or gs://BUCKET/PATH; all hosts share it. A run that is there already goes on."
)
INIT_FROM = flags.DEFINE_string(
    "init_from", None, "Work directory, exported directory or .safetensors file whose weights a new run starts from."
)
DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    ["auto", "on", "off"],
    "Whether this is one of several processes: auto asks the environment (TPU pod, SLURM, Kubernetes, Open MPI).",
)
COORDINATOR_ADDRESS = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, if given by hand.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes, if given by hand.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0, if given by hand.")

UNEXPECTED = 70


def main(_: list[str]) -> None:
    """Runs the training and turns its outcome into an exit status.

    0: done. 1: bad input, or a run that cannot go on. 128 + n: saved, and stopped by signal n. Else (``UNEXPECTED``, or
    what the system makes of a crash): the same command, in all processes, goes on from the last checkpoint.
    """
    # A compiled step is kept, so that the next start of the same configuration takes seconds.
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "rvae_jax" / "xla"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    # imports JAX, which reads the environment
    from rvae_jax import cluster
    from rvae_jax.train import train

    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # until there is something to save
    try:
        cluster.initialize(DISTRIBUTED.value, COORDINATOR_ADDRESS.value, NUM_PROCESSES.value, PROCESS_ID.value)
        if cluster.is_several():
            print(cluster.describe(), flush=True)
        if not cluster.is_first():
            sys.stdout = pathlib.Path(os.devnull).open("w")  # noqa: SIM115 - until the end
        stopped_by = train(CONFIG.value, WORKDIR.value, INIT_FROM.value)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        cluster.leave(1)
    except KeyboardInterrupt:  # before there is anything to save, or for the second time
        cluster.leave(130)
    except Exception:
        traceback.print_exc()
        cluster.leave(UNEXPECTED)
    if stopped_by is not None:
        sys.exit(128 + stopped_by)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; what is wrong with it is said in one line."""
    try:
        rest = flags.FLAGS(argv)
        if CONFIG.value is not None and not isinstance(CONFIG.value, Config):
            getattr(CONFIG.value, "seed", None)  # raises what kept the file from being read
            raise UserError(f"--config: get_config returned a {type(CONFIG.value).__name__}, expected a Config")
        return rest
    except (flags.Error, UserError, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        sys.exit(f"Error: {' '.join(lines)}")


if __name__ == "__main__":
    huge_pages.use()
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)
