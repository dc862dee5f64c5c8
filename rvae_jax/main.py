"""Trains a model, or goes on with the run that is in the work directory.

    python -m rvae_jax.main --config=configs/orl.py --workdir=runs/orl
    python -m rvae_jax.main --config=orl:paper --config.steps=2000 --config.model.latent_dim=64 --workdir=runs/mine

Every field of a configuration has a flag, --config.FIELD=VALUE; a wrong name is answered with those that there are.
"""

from rvae_jax.hardware import huge_pages
from rvae_jax.system import signals

if __name__ == "__main__":
    huge_pages.use()
    signals.exit_at_once()

import os
import pathlib
import signal
import sys
import traceback

from rvae_jax import command_line
from rvae_jax.errors import PassingError, UserError, needs
from rvae_jax.system.absl_logs import absl_verbosity
from rvae_jax.system.files import cache_folder

with needs("train", command=True):
    from absl import flags

CONFIG = command_line.define_config()
WORKDIR = command_line.define_workdir()
INIT_FROM = flags.DEFINE_string(
    "init_from", None, "Work directory, exported directory or .safetensors file whose weights a new run starts from."
)
TRACK = flags.DEFINE_multi_enum("track", [], ["wandb", "mlflow"], "A service that gets the metrics, too.")
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


@absl_verbosity("fatal")  # of Orbax and JAX; what matters of theirs is reported by us
def main(_: list[str]) -> None:
    """Runs the training and turns its outcome into an exit status.

    0: done. 1: bad input, or a run that cannot go on. 128 + n: saved, and stopped by signal n. Else (``UNEXPECTED``, or
    what the system makes of a crash): the same command, in all processes, resumes from the last checkpoint.
    """
    # A compiled step is kept, so that the next start of the same configuration takes seconds.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder("xla")))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    # these import JAX, which reads the environment
    from rvae_jax.data.process_tuning import tune_this_process
    from rvae_jax.distributed import processes
    from rvae_jax.training.loop import train

    tune_this_process()
    sys.stdout.reconfigure(errors="backslashreplace")  # a file name may not be valid text
    try:
        processes.initialize(DISTRIBUTED.value, COORDINATOR_ADDRESS.value, NUM_PROCESSES.value, PROCESS_ID.value)
        if processes.is_several():
            print(processes.describe(), flush=True)
            # The other processes must learn of it; SIGTERM is the preemption service's by now.
            signal.signal(signal.SIGINT, lambda number, _: processes.leave(128 + number))
        if not processes.is_first():
            sys.stdout = pathlib.Path(os.devnull).open("w")  # noqa: SIM115 - until the end
        stopped_by = train(CONFIG.value, WORKDIR.value, INIT_FROM.value, track=TRACK.value)
    except UserError as error:
        processes.leave(1, f"Error: {error}")
    except PassingError as error:
        processes.leave(UNEXPECTED, f"Error: {error}")
    except Exception:
        processes.leave(UNEXPECTED, traceback.format_exc())
    if stopped_by is not None:
        sys.exit(128 + stopped_by)


if __name__ == "__main__":
    command_line.run(main, CONFIG, required=["config", "workdir"])
