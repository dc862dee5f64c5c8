#!/usr/bin/env bash
# Trains on a TPU slice of a GKE cluster, as a JobSet.
#
#     launch/gke.sh render|apply|status|logs|delete|xpk [--dry-run] [--follow] [-- ARGUMENTS]
#
#   render  prints the manifest
#   apply   submits it to kubectl's current cluster
#   status  the JobSet and its pods
#   logs    copies each pod's log to $LOG_DIR (default: logs); with --follow prints all of them as they grow
#   delete  ends the run: the pods get SIGTERM, and save
#   xpk     submits the same image and command with xpk
#
# Variables: NAME, IMAGE, ACCELERATOR (tpu-v5-lite-podslice), TOPOLOGY (4x4), HOSTS, CHIPS_A_HOST (default: 4),
# SERVICE_ACCOUNT (default: default), DATA_BUCKET (without gs://; mounted read-only at /data), MAX_RESTARTS
# (default: 100); for xpk: CLUSTER, TPU_TYPE, ZONE, PROJECT. Give --config.data.data_dir=/data and --workdir=gs://...
# among the arguments.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/lib.sh
source "$here/lib.sh"

export CHIPS_A_HOST=${CHIPS_A_HOST:-4} SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-default} MAX_RESTARTS=${MAX_RESTARTS:-100}

render() {
    require_env NAME celeba
    require_env IMAGE europe-docker.pkg.dev/my-project/images/rvae_jax:1
    require_env ACCELERATOR tpu-v5-lite-podslice
    require_env TOPOLOGY 4x4
    require_env HOSTS 4
    require_env DATA_BUCKET my-bucket
    require_arguments
    export NAME IMAGE ACCELERATOR TOPOLOGY HOSTS DATA_BUCKET
    python3 - "$here/gke/jobset.yaml.template" --distributed=on "${ARGUMENTS[@]}" << 'PYTHON'
import json, os, re, sys

NUMBERS = ("HOSTS", "CHIPS_A_HOST", "MAX_RESTARTS")

def as_json(value):
    return json.dumps(value, ensure_ascii=False)  # YAML has no escapes for surrogates

def value(match):
    name = match[1]
    if name == "ARGUMENTS":
        return as_json([each.replace("$", "$$") for each in sys.argv[2:]])  # Kubernetes expands $(NAME), and $$ to $
    if name in NUMBERS and not os.environ[name].isdecimal():
        sys.exit(f"Error: ${name} is {os.environ[name]!r}; expected a number")
    return os.environ[name] if name in NUMBERS else as_json(os.environ[name])

with open(sys.argv[1], encoding="utf-8") as template:
    sys.stdout.reconfigure(encoding="utf-8")
    sys.stdout.write(re.sub(r"@([A-Z_]+)@", value, template.read()))
PYTHON
}

apply() {
    local manifest
    manifest=$(render)
    echo "starting $HOSTS pods with $CHIPS_A_HOST chips each; their nodes cost money" >&2
    if [[ -n $DRY_RUN ]]; then
        printf "kubectl apply -f - << 'END'\n%s\nEND\n" "$manifest"
    else
        kubectl apply -f - <<< "$manifest"
    fi
}

status() {
    require_env NAME celeba
    run kubectl get jobset "$NAME"
    run kubectl get pods "--selector=jobset.sigs.k8s.io/jobset-name=$NAME" --output=wide
}

logs() {
    require_env NAME celeba
    local folder=${LOG_DIR:-logs} selector=--selector=jobset.sigs.k8s.io/jobset-name=$NAME pods pod
    if [[ -n $FOLLOW ]]; then
        run kubectl logs "$selector" --container=rvae-jax --prefix --follow --max-log-requests=256
        return
    fi
    run mkdir -p "$folder"
    if [[ -n $DRY_RUN ]]; then
        run kubectl get pods "$selector" --output=name
        return
    fi
    pods=$(kubectl get pods "$selector" --output=name)
    for pod in $pods; do
        kubectl logs "$pod" --container=rvae-jax > "$folder/${pod#pod/}.log"
        echo "$folder/${pod#pod/}.log"
    done
}

delete() {
    require_env NAME celeba
    echo "deleting the JobSet $NAME; its pods save first. The node pool stays, and costs money unless it scales to zero"
    run kubectl delete jobset "$NAME" --wait=true
}

# xpk runs the command in a shell that passes SIGTERM on to its child; exec makes the program that child. By default xpk
# restarts only after the statuses 42 and 127 to 255.
xpk_create() {
    require_env NAME celeba
    require_env IMAGE europe-docker.pkg.dev/my-project/images/rvae_jax:1
    require_env CLUSTER my-cluster
    require_env TPU_TYPE v5litepod-16
    require_env ZONE us-west4-a
    require_env PROJECT my-project
    require_arguments
    run xpk workload create "--workload=$NAME" "--docker-image=$IMAGE" "--cluster=$CLUSTER" "--tpu-type=$TPU_TYPE" \
        "--zone=$ZONE" "--project=$PROJECT" "--max-restarts=$MAX_RESTARTS" --restart-on-exit-codes=70 \
        --termination-grace-period-seconds=120 \
        "--command=exec $(quoted python -m rvae_jax.main --distributed=on "${ARGUMENTS[@]}")"
}

parse_arguments "$@"
case $COMMAND in
    render | apply | status | logs | delete) "$COMMAND" ;;
    xpk) xpk_create ;;
    *) fail "'$COMMAND': expected render, apply, status, logs, delete or xpk" ;;
esac
