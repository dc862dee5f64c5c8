"""launch/slurm.sbatch, with srun and scontrol of our own."""

import shlex

import pytest
from launch_scripts import HOSTILE, LAUNCH, calls, fake


def test_the_command_of_slurm(launch):
    program = ["python", "-m", "rvae_jax.main", "--distributed=on", *HOSTILE]
    log = ["--open-mode=append", "--output=logs/%x-%j.task%t.log"]
    variables = {"DRY_RUN": "1"}
    expected = ["srun", "--kill-on-bad-exit=0", *log, *program]
    for arguments in (HOSTILE, ["--", *HOSTILE]):
        assert shlex.split(launch("slurm.sbatch", *arguments, variables=variables).stdout) == expected
    slurm = launch("slurm.sbatch", *HOSTILE, variables=variables | {"SLURM_CPUS_PER_TASK": "12"})
    assert shlex.split(slurm.stdout) == [*expected[:2], "--cpus-per-task=12", *expected[2:]]


@pytest.mark.parametrize(
    ("status", "state", "count", "requeued"),
    [
        (0, "RUNNING", 0, False),
        (1, "RUNNING", 0, False),
        (2, "RUNNING", 0, False),
        (130, "RUNNING", 0, False),
        (143, "RUNNING", 0, True),
        (134, "RUNNING", 99, True),
        (143, "RUNNING", 100, False),
        (143, "CANCELLED", 0, False),
    ],
)
def test_slurm_requeues_the_job_if_that_helps(launch, tmp_path, status, state, count, requeued):
    fake(tmp_path, "srun", f"exit {status}")
    log = fake(tmp_path, "scontrol", f'[ "$1" != show ] || echo "JobId=7 JobState={state} Reason=None"')
    fake(tmp_path, "sleep", "exit 0")
    variables = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(count)}
    run = launch("slurm.sbatch", *HOSTILE, variables=variables)
    assert (["requeue", "7"] in calls(log)) == requeued, run.stdout + run.stderr
    assert run.returncode == (0 if requeued else status)


def test_slurm_is_asked_for_time_to_save():
    """Without ``B:`` the signal goes to the tasks, which save, and not to the script, which requeues."""
    options = [line.split() for line in (LAUNCH / "slurm.sbatch").read_text().splitlines() if line[:8] == "#SBATCH "]
    assert {"--requeue", "--open-mode=append", "--signal=TERM@120"} <= {option for _, option in options}
