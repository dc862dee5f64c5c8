"""What runs leave behind, and runs in processes of their own."""

import pathlib
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
from small_runs import SMALL

from rvae_jax.training.metric_log import read_metrics

ROOT = pathlib.Path(__file__).parents[2]


def weights_and_moments(workdir, step):
    folder = workdir / "checkpoints" / str(step)
    items = {}
    for item in ("weights", "training"):
        with ocp.StandardCheckpointer() as checkpointer:
            items[item] = checkpointer.restore(folder / item)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(items)]


def assert_same_run(workdir, other, step):
    for a, b in zip(weights_and_moments(workdir, step), weights_and_moments(other, step), strict=True):
        np.testing.assert_array_equal(a, b)


def losses_by_step(workdir):
    return {row["step"]: row["loss/total"] for row in read_metrics(workdir) if "loss/total" in row}


def command(data_dir, workdir, steps):
    return [
        *(sys.executable, "-m", "rvae_jax.main", f"--workdir={workdir}", "--config=configs/orl.py:tiny", *SMALL),
        *(f"--config.data.data_dir={data_dir}", f"--config.steps={steps}"),
        *("--config.log_every=1", "--config.eval_every=10"),
    ]
