#!/usr/bin/env bash
# Trains on one machine, on all its GPUs, in one process; starts again after a crash or a SIGTERM to the program.
#
#     launch/one_host.sh [--dry-run] -- --config=configs/celeba.py --workdir=runs/celeba
#
# SIGTERM or Ctrl-C to this script goes to the program, which saves, and ends both. Variables: PYTHON (default: python),
# LOG_DIR (default: logs), MAX_RESTARTS, RESTART_WAIT_S.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

PYTHON=${PYTHON:-python}
LOG_DIR=${LOG_DIR:-logs}

require_gpus() {
    local platform
    nvidia-smi --list-gpus 2>/dev/null | grep -q GPU || return 0
    platform=$("$PYTHON" -c 'import jax; print(jax.default_backend())') || fail "$PYTHON cannot import jax"
    [[ $platform == gpu ]] || fail "nvidia-smi lists GPUs, and JAX sees only the $platform; pip install -e '.[train,cuda]'"
}

program=0 stopped=""

pass_on() {
    stopped=1
    kill -s "$1" "$program" 2>/dev/null || true
}

train_once() {
    local status=0
    # Ctrl-C on a terminal reaches the program, too: in a session of its own it gets it once, from here.
    setsid "$PYTHON" -m rvae_jax.main "${ARGUMENTS[@]}" > >(tee -a "$LOG_DIR/one_host.log") 2>&1 &
    program=$!
    while true; do
        status=0
        wait "$program" || status=$?
        kill -0 "$program" 2>/dev/null || break # else a signal to this script ended the wait
    done
    [[ -z $stopped ]] || exit "$status"
    STATUSES=("$status")
}

parse_arguments "$@"
[[ -z $COMMAND ]] || fail "$COMMAND: unexpected; expected one_host.sh [--dry-run] -- ARGUMENTS"
((${#ARGUMENTS[@]})) || fail "no arguments for the program; expected them after --"
if [[ -n $DRY_RUN ]]; then
    quoted "$PYTHON" -m rvae_jax.main "${ARGUMENTS[@]}"
    exit 0
fi
require_gpus
mkdir -p "$LOG_DIR"
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT
keep_running train_once
