#!/usr/bin/env bash
# Requests a TPU slice as a queued resource, waits until it is ready, trains on it, and requests another if it is taken
# away.
#
#     launch/tpu_queued.sh create|wait|run|watch|status|delete [--dry-run] [-- ARGUMENTS]
#
#   create  requests the slice; it costs money as soon as it is ready
#   wait    returns when the slice is ready; prints the state of the request, and the time, while it waits
#   run     waits, then tpu_vm.sh setup, stage (if $DATA_BUCKET is set) and run, once
#   watch   create and run; after a preemption deletes what is left of the slice, and starts again
#   status  prints the state of the request
#   delete  deletes the request and the slice
#
# Variables: TPU_NAME, ZONE, PROJECT, ACCELERATOR_TYPE, RUNTIME_VERSION; SPOT=1 for cheaper slices that may be taken
# away; SERVICE_ACCOUNT, if not the project's default; MAX_RECREATIONS (default: 20); DELETE_WHEN_DONE=1 to copy the
# logs and delete the slice after a run that ended with 0; POLL_S (default: 30); and those of tpu_vm.sh.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/lib.sh
source "$here/lib.sh"

POLL_S=${POLL_S:-30}
MAX_FAILED_POLLS=10
# How often in a row an active slice may be unreachable.
MAX_ATTEMPTS=3

create() {
    require_env ACCELERATOR_TYPE v5litepod-16
    require_env RUNTIME_VERSION v2-alpha-tpuv5-lite
    echo "requesting $ACCELERATOR_TYPE${SPOT:+ (spot)} in $ZONE of $PROJECT, as $TPU_NAME; it costs money until deleted"
    run gcloud compute tpus queued-resources create "$TPU_NAME" "--node-id=$TPU_NAME" "--zone=$ZONE" \
        "--project=$PROJECT" "--accelerator-type=$ACCELERATOR_TYPE" "--runtime-version=$RUNTIME_VERSION" \
        ${SPOT:+--spot} ${SERVICE_ACCOUNT:+"--service-account=$SERVICE_ACCOUNT"}
}

status() {
    run gcloud compute tpus queued-resources describe "$TPU_NAME" "--zone=$ZONE" "--project=$PROJECT" \
        "--format=value(state.state)"
}

# Prints the state of the request, or NONE if there is no request. Fails if the state cannot be looked up.
state() {
    local errors answer
    errors=$(mktemp)
    if answer=$(status 2> "$errors"); then
        echo "$answer"
    elif grep -q NOT_FOUND "$errors"; then
        echo NONE
    else
        cat "$errors" >&2
        rm "$errors"
        return 1
    fi
    rm "$errors"
}

# Returns 0 when the slice is ready, 1 when it never will be.
wait_for_it() {
    local state failed=0
    if [[ -n $DRY_RUN ]]; then
        status
        return
    fi
    while true; do
        if state=$(state); then
            failed=0
            echo "$(date +%T) $TPU_NAME is $state after $((SECONDS / 60)) minutes"
            case $state in
                ACTIVE) return ;;
                FAILED | SUSPENDED | SUSPENDING | DELETING | NONE) return 1 ;;
            esac
        else
            failed=$((failed + 1))
            ((failed < MAX_FAILED_POLLS)) || fail "the request cannot be looked up; see the lines above"
        fi
        nap "$POLL_S"
    done
}

delete() {
    echo "deleting the queued resource $TPU_NAME in $ZONE of $PROJECT, with its TPU VM and the disks of its workers"
    run gcloud compute tpus queued-resources delete "$TPU_NAME" "--zone=$ZONE" "--project=$PROJECT" --force --quiet
}

on_slice() {
    "$here/tpu_vm.sh" "$1" ${DRY_RUN:+--dry-run} "${@:2}"
}

# Sets the slice up and trains, each in a process of its own. The status is the program's, or $UNREACHABLE.
train() {
    if [[ -n $DRY_RUN || $(on_slice status 2> /dev/null || true) != *"STATE running"* ]]; then
        on_slice setup || return "$UNREACHABLE"
        [[ -z ${DATA_BUCKET:-} ]] || on_slice stage || return "$UNREACHABLE"
    fi
    on_slice run -- "${ARGUMENTS[@]}"
}

# A slice that was taken away may be reported as active for a while.
is_still_there() {
    for _ in {1..10}; do
        [[ $(state) == ACTIVE ]] || return 1
        nap "$POLL_S"
    done
}

finish() {
    if [[ -n ${DELETE_WHEN_DONE:-} ]]; then
        on_slice logs
        delete
    else
        echo "done; the slice still exists and costs money: launch/tpu_queued.sh delete"
    fi
}

train_there() {
    local attempt status
    for ((attempt = 1; attempt <= MAX_ATTEMPTS; attempt++)); do
        status=0
        train || status=$?
        case $status in
            0) return ;;
            "$UNREACHABLE") is_still_there || return "$UNREACHABLE" ;;
            *)
                echo "Error: the run ended with status $status, and the slice still exists and costs money: see" \
                    "launch/tpu_vm.sh logs, then launch/tpu_queued.sh delete" >&2
                exit "$status"
                ;;
        esac
    done
    fail "the slice is active and costs money, but $MAX_ATTEMPTS attempts to use it failed; see the lines above"
}

run_there() {
    require_arguments
    if [[ -n $DRY_RUN ]]; then
        status
        train
        return
    fi
    wait_for_it || fail "the slice will never be ready; run launch/tpu_queued.sh delete, then create"
    train_there || fail "the slice was taken away; launch/tpu_queued.sh watch would request another"
    finish
}

watch() {
    local recreations=0
    require_arguments
    if [[ -n $DRY_RUN ]]; then
        create
        run_there
        return
    fi
    [[ $(state) != NONE ]] || create
    while ! { wait_for_it && train_there; }; do
        recreations=$((recreations + 1))
        ((recreations <= ${MAX_RECREATIONS:-20})) ||
            fail "the slice was taken away $recreations times; expected at most" \
                "\$MAX_RECREATIONS=${MAX_RECREATIONS:-20}"
        echo "the slice was taken away; requesting another"
        delete || true
        create || fail "another slice could not be requested; see the lines above"
    done
    finish
}

parse_arguments "$@"
require_env TPU_NAME rvae
require_env ZONE us-west4-a
require_env PROJECT my-project
case $COMMAND in
    create | watch | status | delete) "$COMMAND" ;;
    wait) wait_for_it || fail "$TPU_NAME will never be ready" ;;
    run) run_there ;;
    *) fail "'$COMMAND': expected create, wait, run, watch, status or delete" ;;
esac
