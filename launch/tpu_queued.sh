#!/usr/bin/env bash
# Asks for a TPU slice as a queued resource, waits until there is one, trains on it, and asks again when it was taken away.
#
#     launch/tpu_queued.sh create|wait|watch|status|delete [--dry-run] [-- ARGUMENTS]
#
#   create  asks for the slice; it costs money from the moment that it is there
#   wait    returns when it is there, and says meanwhile how long it has waited
#   watch   create, wait, then tpu_vm.sh setup, stage (if $DATA_BUCKET is set) and run; after a preemption all of it again
#   status  the state of the request
#   delete  deletes the request and the slice
#
# Variables: TPU_NAME, ZONE, PROJECT, ACCELERATOR_TYPE, RUNTIME_VERSION; SPOT=1 for cheap slices that may be taken away;
# MAX_RECREATIONS (default: 20), POLL_S (default: 30); and those of tpu_vm.sh.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/lib.sh
source "$here/lib.sh"

POLL_S=${POLL_S:-30}

create() {
    require_env ACCELERATOR_TYPE v5litepod-16
    require_env RUNTIME_VERSION v2-alpha-tpuv5-lite
    echo "asks for $ACCELERATOR_TYPE${SPOT:+ (spot)} in $ZONE of $PROJECT, as $TPU_NAME; it costs money until deleted"
    run gcloud compute tpus queued-resources create "$TPU_NAME" "--node-id=$TPU_NAME" "--zone=$ZONE" \
        "--project=$PROJECT" "--accelerator-type=$ACCELERATOR_TYPE" "--runtime-version=$RUNTIME_VERSION" ${SPOT:+--spot}
}

status() {
    run gcloud compute tpus queued-resources describe "$TPU_NAME" "--zone=$ZONE" "--project=$PROJECT" \
        "--format=value(state.state)"
}

wait_for_it() {
    local state
    if [[ -n $DRY_RUN ]]; then
        status
        return
    fi
    while true; do
        state=$(status) || fail "the request cannot be looked up; the lines above say why"
        echo "$(date +%T) $state after $((SECONDS / 60)) minutes"
        case $state in
            ACTIVE) return ;;
            FAILED | SUSPENDED | SUSPENDING) return 1 ;;
        esac
        sleep "$POLL_S"
    done
}

delete() {
    echo "deletes the queued resource $TPU_NAME in $ZONE of $PROJECT, with its TPU VM and the disks of its workers"
    run gcloud compute tpus queued-resources delete "$TPU_NAME" "--zone=$ZONE" "--project=$PROJECT" --force --quiet
}

on_slice() {
    local dry=()
    [[ -z $DRY_RUN ]] || dry=(--dry-run)
    "$here/tpu_vm.sh" "$1" "${dry[@]}" "${@:2}"
}

# Each of these is a process of its own; the first that fails ends it.
train() {
    on_slice setup &&
        { [[ -z ${DATA_BUCKET:-} ]] || on_slice stage; } &&
        on_slice run -- "${ARGUMENTS[@]}"
}

# Whether the slice is still ours. A slice that is there and a run that failed need a person.
is_there() {
    [[ $(status 2>/dev/null) == ACTIVE ]]
}

watch() {
    local recreations=0
    ((${#ARGUMENTS[@]})) || fail "no arguments for the program; expected them after --"
    if [[ -n $DRY_RUN ]]; then
        create
        status
        train
        return
    fi
    is_there || create
    while ! { wait_for_it && train; }; do
        ! is_there || fail "the run has ended, and the slice is still there and costs money; see tpu_vm.sh logs"
        recreations=$((recreations + 1))
        ((recreations <= ${MAX_RECREATIONS:-20})) ||
            fail "the slice was taken away $recreations times; expected at most \$MAX_RECREATIONS=${MAX_RECREATIONS:-20}"
        echo "the slice was taken away; asks for another"
        delete || true
        create
    done
    echo "done; the slice is still there and costs money: launch/tpu_queued.sh delete"
}

parse_arguments "$@"
require_env TPU_NAME rvae
require_env ZONE us-west4-a
require_env PROJECT my-project
case $COMMAND in
    create | watch | status | delete) "$COMMAND" ;;
    wait) wait_for_it ;;
    *) fail "'$COMMAND': expected create, wait, watch, status or delete" ;;
esac
