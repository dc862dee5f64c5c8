#!/usr/bin/env bash
# Trains on all workers of a TPU VM slice that exists.
#
#     launch/tpu_vm.sh setup|stage|check|run|status|logs|stop|delete [--dry-run] [-- ARGUMENTS]
#
#   setup   copies this commit to all workers and installs it there
#   stage   copies prepared data sets from $DATA_BUCKET to $DATA_DIR of all workers; with MOUNT=1 mounts the bucket there
#   check   refuses when a worker lacks the code of this commit, the data or free disk
#   run     checks, starts `python -m rvae_jax.main ARGUMENTS` on all workers, waits, and restarts what asks for it
#   status  one line a worker: running, or the status it ended with
#   logs    copies the workers' logs to $LOG_DIR (default: logs)
#   stop    SIGTERM to all workers: they save at the same step, and end
#   delete  deletes the slice, and with it the workers' disks
#
# Variables: TPU_NAME, ZONE, PROJECT; DATA_DIR, DATA_BUCKET, MOUNT; MAX_RESTARTS, RESTART_WAIT_S, POLL_S (default: 30).
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/lib.sh
source "$here/lib.sh"

POLL_S=${POLL_S:-30}
LEAST_FREE_GB=${LEAST_FREE_GB:-5}

on_all() {
    run gcloud compute tpus tpu-vm ssh "$TPU_NAME" "--zone=$ZONE" "--project=$PROJECT" --worker=all "--command=$1"
}

setup() {
    local archive=rvae_jax.tar.gz revision
    revision=$(git -C "$here/.." rev-parse HEAD)
    [[ -z $(git -C "$here/.." status --porcelain --untracked-files=no) ]] ||
        echo "Warning: changes that are not committed are not copied" >&2
    run git -C "$here/.." archive --format=tar.gz "--output=/tmp/$archive" HEAD
    run gcloud compute tpus tpu-vm scp "/tmp/$archive" "$TPU_NAME:$archive" "--zone=$ZONE" "--project=$PROJECT" \
        --worker=all
    on_all "set -e; mkdir -p rvae_jax; tar -xzf $archive -C rvae_jax; cd rvae_jax; python3 -m venv .venv; .venv/bin/pip install -q -e '.[train,tpu,gcs]'; echo $revision > .revision; .venv/bin/python -c 'import rvae_jax, jax; print(jax.__version__)'"
}

stage() {
    require_env DATA_DIR /home/me/data
    require_env DATA_BUCKET gs://my-bucket/data
    local there
    there=$(quoted "$DATA_DIR")
    if [[ -n ${MOUNT:-} ]]; then
        # The bucket's name without gs://, and what follows it as the only folder that is mounted.
        local path=${DATA_BUCKET#gs://}
        local bucket=${path%%/*} folder=""
        [[ $path == "$bucket" ]] || folder="--only-dir=$(quoted "${path#*/}") "
        on_all "set -e; mkdir -p $there; mountpoint -q $there || gcsfuse --implicit-dirs ${folder}$bucket $there"
    else
        on_all "set -e; mkdir -p $there; gcloud storage rsync --recursive $(quoted "$DATA_BUCKET") $there"
    fi
}

check() {
    local revision tests
    revision=$(git -C "$here/.." rev-parse HEAD)
    tests="[ \"\$(cat rvae_jax/.revision 2>/dev/null)\" = $revision ] || { echo \"Error: \$(hostname) has not the code of $revision; run setup\"; exit 1; }"
    tests+="; [ \$(df --output=avail -BG . | tail -1 | tr -dc 0-9) -ge $LEAST_FREE_GB ] || { echo \"Error: \$(hostname) has less than $LEAST_FREE_GB GB free\"; exit 1; }"
    if [[ -n ${DATA_DIR:-} ]]; then
        tests+="; [ -n \"\$(ls -A $(quoted "$DATA_DIR") 2>/dev/null)\" ] || { echo \"Error: \$(hostname) has nothing in $(quoted "$DATA_DIR"); run stage\"; exit 1; }"
    fi
    on_all "$tests; echo \"\$(hostname) is ready\"" || fail "not all workers are ready; nothing was started"
}

start() {
    local program wrapped
    program=$(quoted .venv/bin/python -m rvae_jax.main --distributed=on "${ARGUMENTS[@]}")
    wrapped="$program >> ../rvae_jax_run/log 2>&1 & echo \$! > ../rvae_jax_run/pid; wait \$!; echo \$? > ../rvae_jax_run/status"
    # A session of its own, so that it outlives this connection. What it prints and how it ends stays on the worker.
    on_all "mkdir -p rvae_jax_run; rm -f rvae_jax_run/status rvae_jax_run/pid; cd rvae_jax; setsid nohup bash -c $(quoted "$wrapped") > /dev/null 2>&1 < /dev/null & sleep 1; echo \"\$(hostname) started\""
}

status() {
    on_all "echo \"STATUS \$(cat rvae_jax_run/status 2>/dev/null || { kill -0 \$(cat rvae_jax_run/pid) 2>/dev/null && echo running || echo 255; })\""
}

# Leaves the workers' statuses in STATUSES; 255 where a worker cannot be reached, or knows of no run.
run_once() {
    local answer
    start
    [[ -z $DRY_RUN ]] || return 0
    while true; do
        sleep "$POLL_S"
        answer=$(status) || answer="STATUS 255"
        [[ $answer == *"STATUS running"* ]] || break
    done
    read -ra STATUSES <<< "$(sed -n 's/.*STATUS \([0-9]*\).*/\1/p' <<< "$answer" | tr '\n' ' ')"
    ((${#STATUSES[@]})) || STATUSES=(255)
}

run_all() {
    ((${#ARGUMENTS[@]})) || fail "no arguments for the program; expected them after --"
    check
    if [[ -n $DRY_RUN ]]; then
        run_once
    else
        keep_running run_once
    fi
}

logs() {
    local folder=${LOG_DIR:-logs}
    run mkdir -p "$folder"
    run gcloud compute tpus tpu-vm ssh "$TPU_NAME" "--zone=$ZONE" "--project=$PROJECT" --worker=all \
        "--command=cat rvae_jax_run/log" "--output-directory=$folder"
}

stop() {
    on_all "kill -TERM \$(cat rvae_jax_run/pid) 2>/dev/null; for _ in \$(seq 120); do [ -s rvae_jax_run/status ] && break; sleep 1; done; echo \"STATUS \$(cat rvae_jax_run/status)\""
}

delete() {
    echo "deletes the TPU VM $TPU_NAME in $ZONE of $PROJECT, with the disks of its workers"
    run gcloud compute tpus tpu-vm delete "$TPU_NAME" "--zone=$ZONE" "--project=$PROJECT" --quiet
}

parse_arguments "$@"
require_env TPU_NAME rvae
require_env ZONE us-west4-a
require_env PROJECT my-project
case $COMMAND in
    setup | stage | check | status | logs | stop | delete) "$COMMAND" ;;
    run) run_all ;;
    *) fail "'$COMMAND': expected setup, stage, check, run, status, logs, stop or delete" ;;
esac
