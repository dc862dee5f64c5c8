"""What runs leave behind, and runs in processes of their own."""

import pathlib
import re
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
from small_runs import SMALL

from rvae_jax.training.metric_log import read_metrics

ROOT = pathlib.Path(__file__).parents[2]


def read_items(workdir, step):
    folder = workdir / "checkpoints" / str(step)
    items = {}
    for item in ("weights", "training"):
        with ocp.StandardCheckpointer() as checkpointer:
            items[item] = checkpointer.restore(folder / item)
    return items


def weights_and_moments(workdir, step):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(read_items(workdir, step))]


def assert_same_run(workdir, other, step):
    for a, b in zip(weights_and_moments(workdir, step), weights_and_moments(other, step), strict=True):
        np.testing.assert_array_equal(a, b)


def assert_documented(rows):
    """Whether docs/metrics.md has every name, and every value is finite."""
    documented = set(re.findall(r"^\| `([a-z0-9_/]+)`", (ROOT / "docs" / "metrics.md").read_text(), re.M))
    for row in rows:
        assert all(np.isfinite(value) for value in row.values())
        for name in row:
            group, _, metric = name.partition("/")
            generic = f"validation/{metric}" if group in ("selection", "best") and metric != "step" else name
            assert generic in documented, name


def losses_by_step(workdir):
    return {row["step"]: row["loss/total"] for row in read_metrics(workdir) if "loss/total" in row}


def command(data_dir, workdir, steps):
    return [
        *(sys.executable, "-m", "rvae_jax.main", f"--workdir={workdir}", "--config=configs/orl.py:tiny", *SMALL),
        *(f"--config.data.data_dir={data_dir}", f"--config.steps={steps}"),
        *("--config.log_every=1", "--config.eval_every=10"),
    ]
