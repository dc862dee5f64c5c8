"""launch/tpu_queued.sh, with a gcloud of our own."""

import shutil
import subprocess

import pytest
from launch_scripts import HOSTILE, LAUNCH, PLACE, QUEUED, QUEUED_RESOURCES, answers, calls, fake


def test_the_commands_of_tpu_queued(printed):
    said, create = printed("tpu_queued.sh", "create")
    assert create == [*QUEUED_RESOURCES, "create", "rvae", "--node-id=rvae", *PLACE, "--accelerator-type=v5litepod-16",
                      "--runtime-version=v2-alpha-tpuv5-lite"]  # fmt: skip
    assert "costs money" in " ".join(said)
    spot = {"SPOT": "1", "SERVICE_ACCOUNT": "me@mine"}
    assert printed("tpu_queued.sh", "create", variables=spot)[1] == [*create, "--spot", "--service-account=me@mine"]
    describe = [*QUEUED_RESOURCES, "describe", "rvae", *PLACE, "--format=value(state.state)"]
    assert printed("tpu_queued.sh", "status") == printed("tpu_queued.sh", "wait") == [describe]
    said, delete = printed("tpu_queued.sh", "delete")
    assert delete == [*QUEUED_RESOURCES, "delete", "rvae", *PLACE, "--force", "--quiet"]
    assert said[:4] == ["deleting", "the", "queued", "resource"]
    on_slice = [line for command in ("setup", "stage") for line in printed("tpu_vm.sh", command)]
    on_slice += printed("tpu_vm.sh", "run", "--", *HOSTILE)
    assert printed("tpu_queued.sh", "run", "--", *HOSTILE) == [describe, *on_slice]
    assert printed("tpu_queued.sh", "watch", "--", *HOSTILE)[1:] == [create, describe, *on_slice]


def cloud(tmp_path, states, runs):
    """Makes a gcloud whose queued resource goes through the states, and whose programs end with the statuses.

    NONE is the state without a request; with the status GONE no worker answers.
    """
    body = f"""
        case "$*" in
            *describe*)
                {answers(tmp_path, "states", states)}
                [ "$next" != NONE ] || {{ echo "ERROR: NOT_FOUND: no such resource" >&2; exit 1; }}
                echo "$next" ;;
            *"tpu_worker.sh state"*)
                [ -e {tmp_path}/started ] || {{ echo "STATE none"; exit; }}
                {answers(tmp_path, "runs", runs)}
                rm {tmp_path}/started
                [ "$next" != GONE ] || exit 255
                echo "STATE $next" ;;
            *"tpu_worker.sh start"*) touch {tmp_path}/started ;;
            *"tpu_worker.sh check"*) [ ! -e {tmp_path}/away ] || exit 255 ;;
        esac
    """
    return fake(tmp_path, "gcloud", body)


def asked(log):
    """The calls for the queued resource other than for its state."""
    return [call[3] for call in calls(log) if call[2] == "queued-resources" and call[3] != "describe"]


WATCH = QUEUED | {"POLL_S": "0", "RESTART_WAIT_S": "0", "MAX_RESTARTS": "0", "SPOT": "1"}


def watch_script(tmp_path):
    """Copies the scripts, and lets them give up after one failed poll, so that the tests are quick."""
    copy = tmp_path / "launch"
    shutil.copytree(LAUNCH, copy)
    script = copy / "tpu_vm.sh"
    text = script.read_text()
    assert "\nMAX_FAILED_POLLS=5\n" in text
    script.write_text(text.replace("\nMAX_FAILED_POLLS=5\n", "\nMAX_FAILED_POLLS=1\n"))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x"]
    for command in (["init", "--quiet"], ["commit", "--quiet", "--message=x", "--allow-empty"]):
        subprocess.run([*git, *command], check=True)
    return copy / "tpu_queued.sh"


def test_a_preempted_slice_is_requested_again(launch, tmp_path):
    states = ["NONE", "WAITING_FOR_RESOURCES", "ACTIVE", "ACTIVE", "SUSPENDING", "FAILED", "PROVISIONING", "ACTIVE"]
    log = cloud(tmp_path, states, ["GONE", "0"])
    run = launch(watch_script(tmp_path), "watch", "--", "x", variables=WATCH)
    assert run.returncode == 0, run.stdout + run.stderr
    assert asked(log) == ["create", "delete", "create", "delete", "create"]
    assert "rvae is WAITING_FOR_RESOURCES after 0 minutes" in run.stdout
    assert run.stdout.count("the slice was taken away; requesting another") == 2
    assert "the slice still exists and costs money" in run.stdout


def test_a_slice_is_recreated_a_limited_number_of_times(launch, tmp_path):
    log = cloud(tmp_path, ["SUSPENDED"], ["0"])
    run = launch("tpu_queued.sh", "watch", "--", "x", variables=WATCH | {"MAX_RECREATIONS": "2"})
    assert run.returncode == 1
    assert "the slice was taken away 3 times; expected at most $MAX_RECREATIONS=2" in run.stderr
    assert asked(log) == ["delete", "create"] * 2


def test_an_active_but_unreachable_slice_is_tried_again_and_not_replaced(launch, tmp_path):
    log = cloud(tmp_path, ["ACTIVE"], ["0"])
    (tmp_path / "away").touch()
    run = launch("tpu_queued.sh", "watch", "--", "x", variables=WATCH)
    assert run.returncode == 1
    assert "the slice is active and costs money, but 3 attempts to use it failed" in run.stderr
    assert asked(log) == []


@pytest.mark.parametrize(("command", "status"), [("watch", 1), ("watch", 2), ("run", 1)])
def test_no_other_slice_is_requested_after_a_failed_run(launch, tmp_path, command, status):
    log = cloud(tmp_path, ["ACTIVE"], [status])
    run = launch("tpu_queued.sh", command, "--", "x", variables=WATCH)
    assert run.returncode == status
    assert f"the run ended with status {status}, and the slice still exists and costs money" in run.stderr
    assert asked(log) == []


def test_a_slice_is_deleted_after_the_run_if_wanted(launch, tmp_path):
    log = cloud(tmp_path, ["ACTIVE"], ["0"])
    run = launch("tpu_queued.sh", "run", "--", "x", variables=WATCH | {"DELETE_WHEN_DONE": "1"})
    assert run.returncode == 0, run.stdout + run.stderr
    assert asked(log) == ["delete"]
    assert any("--command=cat rvae_jax_run/log" in call for call in calls(log))


def test_missing_credentials_end_the_wait(launch, tmp_path):
    log = fake(tmp_path, "gcloud", 'echo "ERROR: PERMISSION_DENIED" >&2; exit 1')
    run = launch("tpu_queued.sh", "wait", variables=WATCH)
    assert run.returncode == 1
    assert "PERMISSION_DENIED" in run.stderr and "cannot be looked up" in run.stderr
    assert len(calls(log)) == 10
