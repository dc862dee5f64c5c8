# shellcheck shell=bash
# What the scripts of this folder share. To be sourced.

DRY_RUN=${DRY_RUN:-}
FOLLOW=""

# The workers of a slice cannot be reached, or did not all start: nothing that the program said.
# shellcheck disable=SC2034 # for the scripts that source this
UNREACHABLE=69

fail() {
    echo "Error: $*" >&2
    exit 1
}

# require_env NAME EXAMPLE: ends with one line unless the variable is set.
require_env() {
    [[ -n ${!1:-} ]] || fail "\$$1 is not set; expected such as: export $1=$2"
}

# The arguments, quoted so that a shell reads them back as they are.
quoted() {
    local words
    printf -v words '%q ' "$@"
    echo "${words% }"
}

# run COMMAND...: runs it, or with --dry-run prints it so that it can be pasted.
run() {
    if [[ -n $DRY_RUN ]]; then
        quoted "$@"
    else
        "$@"
    fi
}

# parse_arguments "$@": takes --dry-run, --follow and what follows -- ; leaves COMMAND (the first word) and ARGUMENTS.
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
            -*) fail "$1: unknown option; the program's own come after --" ;;
            *)
                [[ -z $COMMAND ]] || fail "$1: unexpected after $COMMAND; the program's own arguments come after --"
                COMMAND=$1
                ;;
        esac
        shift
    done
}

require_arguments() {
    ((${#ARGUMENTS[@]})) || fail "no arguments for the program; expected them after --"
}

# verdict STATUS...: what to do, and the status that says so, by how the program ended in each process. README.md lists
# the statuses.
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

# A sleep that a signal to this script ends at once.
nap() {
    sleep "$1" > /dev/null 2>&1 &
    wait $!
}

# keep_running COMMAND...: runs it until its verdict is not restart, and ends with the status that decided. The command
# leaves the processes' statuses in STATUSES, and STOPPED=1 where a person ended them. Before each restart it waits
# RESTART_WAIT_S, twice as long each time up to ten minutes; MAX_RESTARTS in a row is the most. A run of an hour or more
# makes it forget those before.
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
            fail "restarted ${MAX_RESTARTS:-10} times, less than an hour apart; expected at most \$MAX_RESTARTS"
        echo "restart $restarts in $wait_s s"
        nap "$wait_s"
        wait_s=$((wait_s * 2 > 600 ? 600 : wait_s * 2))
    done
}
