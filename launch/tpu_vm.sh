#!/usr/bin/env bash
# Trains on all workers of an existing TPU VM slice.
#
#     launch/tpu_vm.sh setup|stage|check|run|status|logs|stop|delete [--dry-run] [--follow] [-- ARGUMENTS]
#
#   setup   copies this commit to all workers and installs it there
#   stage   copies prepared data sets from $DATA_BUCKET to $DATA_DIR on all workers; with MOUNT=1 mounts the bucket
#   check   fails if a worker lacks this commit, its packages, free disk, devices, or has other data than the others
#   run     checks, starts `python -m rvae_jax.main ARGUMENTS` on all workers, waits, and restarts it if that helps; if
#           the program runs already, only waits
#   status  prints one line per worker: running, or the status that the program ended with
#   logs    copies the workers' logs to $LOG_DIR (default: logs); with --follow prints that of worker $WORKER
#           (default: 0)
#   stop    sends SIGTERM to all workers: they save at the same step, and end; `run` does not restart them
#   delete  deletes the slice with the workers' disks
#
# Variables: TPU_NAME, ZONE, PROJECT; DATA_DIR, DATA_BUCKET, MOUNT; LEAST_FREE_GB (default: 5); MAX_RESTARTS,
# RESTART_WAIT_S; POLL_S (default: 30).
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/lib.sh
source "$here/lib.sh"

POLL_S=${POLL_S:-30}
# After a worker dies, the others end by themselves within 90 s.
LEAVE_S=${LEAVE_S:-180}
# A failed poll takes a minute, since gcloud tries several times.
MAX_FAILED_POLLS=5
worker=rvae_jax/launch/tpu_worker.sh

ssh_to() {
    run gcloud compute tpus tpu-vm ssh "$TPU_NAME" "--zone=$ZONE" "--project=$PROJECT" "--worker=$1" "--command=$2" \
        "${@:3}"
}

# The status is that of the first worker that failed, or 255 if ssh failed.
on_all() {
    ssh_to all "$1"
}

revision() {
    git -C "$here/.." rev-parse HEAD
}

require_data_dir() {
    require_env DATA_DIR /var/tmp/rvae_data
    [[ $DATA_DIR == /* ]] || fail "\$DATA_DIR is $DATA_DIR; expected an absolute path, the same on all workers"
}

setup() {
    local archive=rvae_jax.tar.gz commit
    commit=$(revision)
    [[ -z $(git -C "$here/.." status --porcelain --untracked-files=no) ]] ||
        echo "Warning: uncommitted changes are not copied" >&2
    run git -C "$here/.." archive --format=tar.gz "--output=/tmp/$archive" HEAD
    run gcloud compute tpus tpu-vm scp "/tmp/$archive" "$TPU_NAME:$archive" "--zone=$ZONE" "--project=$PROJECT" \
        --worker=all
    on_all "mkdir -p rvae_jax && tar -xzf $archive -C rvae_jax && $worker install $commit"
}

stage() {
    require_data_dir
    require_env DATA_BUCKET gs://my-bucket/data
    local there path bucket options=(--implicit-dirs -o ro)
    there=$(quoted "$DATA_DIR")
    if [[ -n ${MOUNT:-} ]]; then
        path=${DATA_BUCKET#gs://} bucket=${path%%/*}
        [[ $path == "$bucket" ]] || options+=("--only-dir=${path#*/}")
        on_all "mkdir -p $there && { mountpoint -q $there || $(quoted gcsfuse "${options[@]}" "$bucket" "$DATA_DIR"); }"
    else
        on_all "mkdir -p $there && $(quoted gcloud storage rsync --recursive "$DATA_BUCKET" "$DATA_DIR")"
    fi
}

# Fails unless every worker is ready.
check() {
    local commit answer status=0
    commit=$(revision)
    [[ -z ${DATA_DIR:-} ]] || require_data_dir
    answer=$(on_all "$(quoted "$worker" check "$commit" "${LEAST_FREE_GB:-5}" ${DATA_DIR:+"$DATA_DIR"})") || status=$?
    echo "$answer"
    if ((status == 255)); then
        echo "Error: not all workers can be reached; nothing was started" >&2
        exit "$UNREACHABLE"
    fi
    ((status == 0)) || fail "not all workers are ready (run setup and stage first); nothing was started"
    (($(grep ^DATA <<< "$answer" | sort -u | wc -l) < 2)) ||
        fail "the data in \$DATA_DIR differ between workers, see above; nothing was started"
}

status() {
    on_all "$worker state"
}

# Waits until no worker runs. Sets STATUSES, and STOPPED=1 if the user stopped them.
wait_for_all() {
    local answer failed=0 ended_first=""
    while true; do
        nap "$POLL_S"
        if ! answer=$(status); then
            failed=$((failed + 1))
            ((failed < MAX_FAILED_POLLS)) && continue
            echo "Error: not all workers can be reached; the program may still run there" >&2
            exit "$UNREACHABLE"
        fi
        failed=0
        [[ $answer == *"STATE running"* ]] || break
        # A worker that does not notice that another has died would keep the chips.
        [[ ! $answer =~ STATE\ [1-9] ]] || ended_first=${ended_first:-$SECONDS}
        if [[ -n $ended_first ]] && ((SECONDS - ended_first >= LEAVE_S)); then
            echo "some workers have ended, others have not within $LEAVE_S s; killing these"
            on_all "$worker kill" || true
        fi
    done
    mapfile -t STATUSES < <(sed -n 's/.*STATE \([0-9a-z]*\).*/\1/p' <<< "$answer")
    [[ $answer != *stopped* ]] || STOPPED=1
}

attach=""

run_once() {
    if [[ -z $attach ]] && ! on_all "$(quoted "$worker" start "${ARGUMENTS[@]}")"; then
        echo "Error: the program did not start on all workers" >&2
        on_all "$worker kill" || true
        exit "$UNREACHABLE"
    fi
    attach=""
    wait_for_all
}

run_all() {
    require_arguments
    if [[ -n $DRY_RUN ]]; then
        check
        on_all "$(quoted "$worker" start "${ARGUMENTS[@]}")"
        status
        return
    fi
    [[ -z ${DATA_DIR:-} || " ${ARGUMENTS[*]} " == *" --config.data.data_dir=$DATA_DIR "* ]] ||
        echo "Warning: \$DATA_DIR is set, but the arguments lack --config.data.data_dir=$DATA_DIR" >&2
    trap 'echo "the program still runs: the same command waits for it again, tpu_vm.sh stop ends it"; exit 130' INT
    if [[ $(status 2> /dev/null || true) == *"STATE running"* ]]; then
        echo "the program runs already; waiting for it"
        attach=1
    else
        check
    fi
    keep_running run_once
}

logs() {
    local folder=${LOG_DIR:-logs}
    if [[ -n $FOLLOW ]]; then
        ssh_to "${WORKER:-0}" "tail -n 100 -F rvae_jax_run/log"
    else
        run mkdir -p "$folder"
        ssh_to all "cat rvae_jax_run/log" "--output-directory=$folder"
    fi
}

stop() {
    on_all "$worker stop"
}

delete() {
    echo "deleting the TPU VM $TPU_NAME in $ZONE of $PROJECT, with the disks of its workers"
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
