#!/usr/bin/env bash
# Trains on one machine, on all its GPUs, in one process; restarts after a crash or a SIGTERM to the program.
#
#     launch/one_host.sh [--dry-run] -- --config=configs/celeba.py --workdir=runs/celeba
#
# SIGTERM or Ctrl-C to this script is passed on to the program, which saves; then both end. Variables: PYTHON (default:
# python), LOG_DIR (default: logs), MAX_RESTARTS, RESTART_WAIT_S.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

PYTHON=${PYTHON:-python}
LOG_DIR=${LOG_DIR:-logs}

# If JAX finds no usable GPU, it silently uses the CPU, and training is a hundred times slower.
require_gpus() {
    local platform
    [[ ${JAX_PLATFORMS:-} != cpu ]] || return 0
    nvidia-smi --list-gpus 2> /dev/null | grep GPU > /dev/null || return 0
    platform=$("$PYTHON" -c 'import jax; print(jax.default_backend())') || fail "$PYTHON cannot import jax"
    [[ $platform == gpu ]] ||
        fail "nvidia-smi lists GPUs, but JAX finds only the $platform; pip install -e '.[train,cuda]', or set" \
            "JAX_PLATFORMS=cpu"
}

program="" interrupted=""

# pass_on SIGNAL STATUS: passes a signal on to the program; if none runs, exits with the status.
pass_on() {
    interrupted=1
    [[ -n $program ]] || exit "$2"
    kill -s "$1" "$program" 2> /dev/null || true
}

train_once() {
    local status=0 stopped=""
    # Job control gives the program a process group of its own, so that Ctrl-C reaches it once, from this script. tee
    # ignores the signals, and writes the log until the program has ended.
    set -m
    "$PYTHON" -m rvae_jax.main "${ARGUMENTS[@]}" < /dev/null \
        > >(
            trap '' INT TERM
            exec tee -a "$LOG_DIR/one_host.log"
        ) 2>&1 &
    program=$!
    set +m
    while true; do
        interrupted="" status=0
        wait "$program" || status=$?
        [[ -n $interrupted ]] || break # otherwise a signal to this script ended the wait
        stopped=1
    done
    program=""
    [[ -z $stopped ]] || exit "$status"
    STATUSES=("$status")
}

parse_arguments "$@"
[[ -z $COMMAND ]] || fail "$COMMAND: unexpected; expected one_host.sh [--dry-run] -- ARGUMENTS"
require_arguments
if [[ -n $DRY_RUN ]]; then
    quoted "$PYTHON" -m rvae_jax.main "${ARGUMENTS[@]}"
    exit 0
fi
require_gpus
mkdir -p "$LOG_DIR"
trap 'pass_on TERM 143' TERM
trap 'pass_on INT 130' INT
keep_running train_once
