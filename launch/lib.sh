# shellcheck shell=bash
# Functions that the scripts of this folder share. To be sourced.

DRY_RUN=${DRY_RUN:-}
FOLLOW=""

# Exit status if workers of a slice cannot be reached or did not start; the program itself never ends with it.
# shellcheck disable=SC2034 # for the scripts that source this
UNREACHABLE=69

fail() {
    echo "Error: $*" >&2
    exit 1
}

# require_env NAME EXAMPLE: fails unless the variable is set.
require_env() {
    [[ -n ${!1:-} ]] || fail "\$$1 is not set; for example: export $1=$2"
}

# quoted ARGUMENT...: prints the arguments, quoted for a shell.
quoted() {
    local words
    printf -v words '%q ' "$@"
    echo "${words% }"
}

# run COMMAND...: runs the command, or with --dry-run prints it, quoted for a shell.
run() {
    if [[ -n $DRY_RUN ]]; then
        quoted "$@"
    else
        "$@"
    fi
}

# parse_arguments "$@": sets DRY_RUN, FOLLOW, COMMAND (the first word) and ARGUMENTS (all that follows --).
# shellcheck disable=SC2034 # for the scripts that source this
parse_arguments() {
    COMMAND="" ARGUMENTS=()
    while (($#)); do
        case $1 in
            --dry-run) DRY_RUN=1 ;;
            --follow) FOLLOW=1 ;;
            --)
                shift
                ARGUMENTS=("$@")
                return
                ;;
            -*) fail "$1: unknown option; options of the program come after --" ;;
            *)
                [[ -z $COMMAND ]] || fail "$1: unexpected after $COMMAND; arguments of the program come after --"
                COMMAND=$1
                ;;
        esac
        shift
    done
}

require_arguments() {
    ((${#ARGUMENTS[@]})) || fail "no arguments for the program; give them after --"
}

# verdict STATUS...: from the exit status of each process, prints what to do (finished, restart or stop) and the status
# that decided it. README.md lists the statuses.
verdict() {
    local status restart="" unknown=""
    for status in "$@"; do
        case $status in
            1 | 2 | 130)
                echo "stop $status"
                return
                ;;
            0) ;;
            '' | *[!0-9]*) unknown=255 ;;
            *) restart=$status ;;
        esac
    done
    restart=${restart:-$unknown}
    if [[ -n $restart ]]; then
        echo "restart $restart"
    else
        echo "finished 0"
    fi
}

# nap SECONDS: sleeps, but a signal to this script ends it at once.
nap() {
    sleep "$1" > /dev/null 2>&1 &
    wait $!
}

# keep_running COMMAND...: runs the command until its verdict is not restart, and exits with the status that decided.
# The command sets STATUSES to the exit status of each process, and STOPPED=1 if the user stopped them. Before a restart
# it waits $RESTART_WAIT_S, twice as long each time, up to ten minutes. It restarts at most $MAX_RESTARTS times in a
# row; a run of an hour or more resets the count.
keep_running() {
    local restarts=0 wait_s=${RESTART_WAIT_S:-15} began decision status
    while true; do
        began=$SECONDS STATUSES=() STOPPED=""
        "$@"
        read -r decision status <<< "$(verdict "${STATUSES[@]}")"
        [[ -z $STOPPED || $decision != restart ]] || decision=stopped
        echo "ended with status ${STATUSES[*]}: $decision"
        [[ $decision == restart ]] || exit "$status"
        if ((SECONDS - began >= 3600)); then
            restarts=0 wait_s=${RESTART_WAIT_S:-15}
        fi
        restarts=$((restarts + 1))
        ((restarts <= ${MAX_RESTARTS:-10})) ||
            fail "restarted ${MAX_RESTARTS:-10} times in a row; \$MAX_RESTARTS allows no more"
        echo "restart $restarts in $wait_s s"
        nap "$wait_s"
        wait_s=$((wait_s * 2 > 600 ? 600 : wait_s * 2))
    done
}
