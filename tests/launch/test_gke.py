"""launch/gke.sh and its manifest, with kubectl of our own."""

import json
import os
import re
import shlex
import shutil
import subprocess

import pytest
from launch_scripts import (
    GKE,
    HOSTILE,
    PLACE,
    calls,
    fake,
)


def test_the_commands_of_gke(printed, launch):
    selector = "--selector=jobset.sigs.k8s.io/jobset-name=celeba"
    (xpk,) = printed("gke.sh", "xpk", "--", *HOSTILE)
    assert xpk[:-1] == [
        *("xpk", "workload", "create", "--workload=celeba", "--docker-image=registry/rvae_jax:1", "--cluster=cluster"),
        *("--tpu-type=v5litepod-16", *PLACE, "--max-restarts=100", "--restart-on-exit-codes=70"),
        "--termination-grace-period-seconds=120",
    ]
    command = shlex.split(xpk[-1].removeprefix("--command="))
    assert command == ["exec", "python", "-m", "rvae_jax.main", "--distributed=on", *HOSTILE]
    assert printed("gke.sh", "status") == [
        ["kubectl", "get", "jobset", "celeba"],
        ["kubectl", "get", "pods", selector, "--output=wide"],
    ]
    assert printed("gke.sh", "logs")[1:] == [["kubectl", "get", "pods", selector, "--output=name"]]
    assert printed("gke.sh", "logs", "--follow") == [
        ["kubectl", "logs", selector, "--container=rvae-jax", "--prefix", "--follow", "--max-log-requests=256"]
    ]
    assert printed("gke.sh", "delete")[1:] == [["kubectl", "delete", "jobset", "celeba", "--wait=true"]]
    applied = launch("gke.sh", "apply", "--dry-run", "--", *HOSTILE, variables=GKE).stdout
    rendered = launch("gke.sh", "render", "--", *HOSTILE, variables=GKE).stdout
    assert applied == f"kubectl apply -f - << 'END'\n{rendered}END\n"


# JobSet v1alpha2, from api/jobset/v1alpha2/jobset_types.go of kubernetes-sigs/jobset, which is what
# https://pkg.go.dev/sigs.k8s.io/jobset/api/jobset/v1alpha2 shows.
JOBSET = {
    "JobSet": {"apiVersion", "kind", "metadata", "spec"},
    "JobSetSpec": {
        *("replicatedJobs", "network", "successPolicy", "failurePolicy", "startupPolicy", "suspend", "coordinator"),
        *("managedBy", "ttlSecondsAfterFinished", "volumeClaimPolicies"),
    },
    "FailurePolicy": {"maxRestarts", "restartStrategy", "rules"},
    "FailurePolicyRule": {
        *("name", "action", "onJobFailureReasons", "onJobFailureMessagePatterns", "targetReplicatedJobs")
    },
    "ReplicatedJob": {"name", "groupName", "template", "replicas", "dependsOn"},
}
JOBSET_RULE_NAME = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?"


def expanded(argument):
    """An argument as Kubernetes expands it in a container without variables."""
    return argument.replace("$$", "$")


def test_the_manifest_is_valid(launch):
    yaml = pytest.importorskip("yaml")
    validate = pytest.importorskip("kubernetes_validate")
    run = launch("gke.sh", "render", "--", *HOSTILE, "@NAME@", variables=GKE | {"NAME": 'a: "b"'})
    assert run.returncode == 0, run.stderr
    assert yaml.safe_load(run.stdout)["metadata"]["name"] == 'a: "b"'
    arguments = [*HOSTILE, "@NAME@", "$(HOME)", "$$", "\U0001f600", "two\nlines"]
    manifest = yaml.safe_load(launch("gke.sh", "render", "--", *arguments, variables=GKE).stdout)
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(manifest) == JOBSET["JobSet"]
    assert set(manifest["spec"]) <= JOBSET["JobSetSpec"]
    policy = manifest["spec"]["failurePolicy"]
    assert set(policy) <= JOBSET["FailurePolicy"]
    (rule,) = policy["rules"]
    assert set(rule) <= JOBSET["FailurePolicyRule"] and re.fullmatch(JOBSET_RULE_NAME, rule["name"])
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert policy["maxRestarts"] == 100
    (job,) = manifest["spec"]["replicatedJobs"]
    assert set(job) <= JOBSET["ReplicatedJob"]
    template = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "workers"}, **job["template"]}
    validate.validate(template, "1.32", strict=True)
    spec = job["template"]["spec"]
    assert (spec["parallelism"], spec["completions"], spec["backoffLimit"]) == (4, 4, 0)
    (failure,) = spec["podFailurePolicy"]["rules"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert failure == {
        "action": "FailJob",
        "onExitCodes": {"containerName": container["name"], "operator": "In", "values": [1, 2]},
    }
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 120
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert [expanded(each) for each in container["args"]] == ["--distributed=on", *arguments]
    assert not any(re.search(r"(?<!\$)(\$\$)*\$\(", each) for each in container["args"])
    (volume,) = pod["volumes"]
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "bucket"
    with pytest.raises(validate.ValidationError):
        validate.validate({**template, "spec": {**spec, "paralelism": 4}}, "1.32", strict=True)


def test_kubectl_parses_the_job(launch, tmp_path):
    """By its own parser, without a cluster, for the Job in the JobSet; for a JobSet it would need the cluster."""
    yaml = pytest.importorskip("yaml")
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    manifest = yaml.safe_load(launch("gke.sh", "render", "--", *HOSTILE, variables=GKE).stdout)
    (job,) = manifest["spec"]["replicatedJobs"]

    def read(spec):
        document = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "workers"}, "spec": spec}
        (tmp_path / "job.json").write_text(json.dumps(document))
        command = ["kubectl", "set", "image", "--local", "--filename", str(tmp_path / "job.json"), "--output=json"]
        command += ["rvae-jax=other:2"]
        environment = os.environ | {"KUBECONFIG": str(tmp_path / "none")}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    answer = json.loads(read(job["template"]["spec"]).stdout)["spec"]
    assert answer["template"]["spec"]["containers"][0]["image"] == "other:2"
    assert answer["podFailurePolicy"] == job["template"]["spec"]["podFailurePolicy"]
    assert read(job["template"]["spec"] | {"parallelism": "four"}).returncode != 0


def test_a_count_that_is_not_a_number_is_refused(launch):
    run = launch("gke.sh", "apply", "--dry-run", "--", "x", variables=GKE | {"HOSTS": "four"})
    assert run.returncode == 1
    assert "Error: $HOSTS is 'four'; expected a number" in run.stderr


def test_logs_are_copied_pod_by_pod(launch, tmp_path):
    log = fake(tmp_path, "kubectl", '[ $1 = logs ] && echo "log of $2" || printf "pod/celeba-0\\npod/celeba-1\\n"')
    run = launch("gke.sh", "logs", variables=GKE | {"LOG_DIR": "my logs"})
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "my logs/celeba-1.log").read_text() == "log of pod/celeba-1\n"
    assert ["logs", "pod/celeba-0", "--container=rvae-jax"] in calls(log)
