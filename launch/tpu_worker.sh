#!/usr/bin/env bash
# The part of tpu_vm.sh that runs on each worker of a slice. The code is in ~/rvae_jax; the log and the program's exit
# status are beside it, in ~/rvae_jax_run.
#
#     launch/tpu_worker.sh install REVISION|check REVISION LEAST_FREE_GB [DATA_DIR]|start ARGUMENTS...|state|stop|kill
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/lib.sh
source launch/lib.sh

run=../rvae_jax_run
python=.venv/bin/python
mkdir -p "$run"

refuse() {
    fail "$(hostname) $*"
}

# The Python of the image may be too old; uv installs a newer one.
install() {
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --allow-existing --python '>=3.11' .venv
    python3 -m uv pip install --quiet --python "$python" -e '.[demo,tpu,gcs]'
    "$python" -c 'import jax, rvae_jax'
    echo "$1" > .revision
    echo "$(hostname) has revision $1"
}

# All workers call this at once: the devices of a slice appear only when all of its hosts ask for them.
check() {
    local free
    [[ $(cat .revision 2> /dev/null) == "$1" ]] || refuse "does not have revision $1; run setup"
    "$python" -c 'import rvae_jax' || refuse "cannot import rvae_jax; run setup"
    free=$(df --output=avail -BG . | tail -1 | tr -dc 0-9)
    ((free >= $2)) || refuse "has $free GB free; expected at least $2"
    if [[ -n ${3:-} ]]; then
        [[ -n $(ls -A "$3" 2> /dev/null) ]] || refuse "has no files in $3; run stage"
        echo "DATA $(find -L "$3" -type f -printf '%s\n' | awk '{n += $1} END {print NR " files, " n " bytes"}')"
    fi
    timeout 300 "$python" -c '
import jax
jax.distributed.initialize()
assert jax.default_backend() == "tpu", jax.default_backend()
print(f"{jax.local_device_count()} of {jax.device_count()} devices are here, {jax.local_devices()[0].device_kind}")
' || refuse "has no TPU for JAX; see the lines above"
    echo "$(hostname) is ready"
}

# lives FILE WORD: whether the process with the id in the file runs, with the word in its command. After a restart of
# the machine another process may have the id.
lives() {
    [[ -s $run/$1 ]] && grep -a -e "$2" "/proc/$(cat "$run/$1")/cmdline" > /dev/null 2>&1
}

# Whether the program runs, or its exit status is not written yet.
running() {
    lives overseer watch_over || lives pid rvae_jax.main
}

# Starts no second program, which would only wait for the chips.
start() {
    if running; then
        echo "$(hostname) runs the program already; nothing was started"
        return
    fi
    rm -f "$run"/{overseer,pid,status,stopped}
    setsid nohup launch/tpu_worker.sh watch_over "$@" > /dev/null 2>&1 < /dev/null &
    for _ in {1..100}; do
        if [[ -s $run/pid || -s $run/status ]]; then
            echo "$(hostname) started"
            return
        fi
        sleep 0.1
    done
    refuse "did not start within 10 s"
}

# Runs the program and writes down its exit status; in a session of its own, which outlives the connection.
watch_over() {
    local status=0
    echo $$ > "$run/overseer"
    "$python" -m rvae_jax.main --distributed=on "$@" >> "$run/log" 2>&1 < /dev/null &
    echo $! > "$run/pid"
    wait $! || status=$?
    echo "$status" > "$run/status.part"
    mv "$run/status.part" "$run/status"
}

# Prints running, the exit status, 255 if the program ended without one (the machine was restarted), or none; and
# whether the user stopped it.
state() {
    local state=none
    if running; then
        state=running
    elif [[ -s $run/status ]]; then
        state=$(cat "$run/status")
    elif [[ -s $run/pid ]]; then
        state=255
    fi
    [[ ! -e $run/stopped ]] || state+=" stopped"
    echo "STATE $state"
}

stop() {
    touch "$run/stopped"
    ! lives pid rvae_jax.main || kill -TERM "$(cat "$run/pid")" || true
    for _ in {1..600}; do
        running || break
        sleep 0.5
    done
    state
}

end_at_once() {
    ! lives pid rvae_jax.main || kill -KILL "$(cat "$run/pid")" || true
}

case ${1:-} in
    install | check | start | watch_over | state | stop) "$@" ;;
    kill) end_at_once ;;
    *) fail "'${1:-}': expected install, check, start, state, stop or kill" ;;
esac
