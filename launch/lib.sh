# shellcheck shell=bash
# What the scripts of this folder share. To be sourced.

DRY_RUN=${DRY_RUN:-}

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

# parse_arguments "$@": takes --dry-run and what follows -- ; leaves COMMAND (the first word) and ARGUMENTS.
parse_arguments() {
    COMMAND="" ARGUMENTS=()
    while (($#)); do
        case $1 in
            --dry-run) DRY_RUN=1 ;;
            --)
                shift
                # shellcheck disable=SC2034 # for the scripts that source this
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

# verdict STATUS...: finished, stop or restart, by how the program ended in each process. README.md lists the statuses.
verdict() {
    local status result=finished
    for status in "$@"; do
        case $status in
            1 | 2 | 130)
                echo stop
                return
                ;;
            0) ;;
            *) result=restart ;;
        esac
    done
    echo "$result"
}

# keep_running COMMAND...: runs it until its verdict is not restart. The command leaves the processes' statuses in the
# array STATUSES. MAX_RESTARTS counts starts within an hour of each other; RESTART_WAIT_S is waited before each.
keep_running() {
    local restarts=0 began decision
    while true; do
        began=$SECONDS
        STATUSES=()
        "$@"
        decision=$(verdict "${STATUSES[@]}")
        echo "ended with status ${STATUSES[*]}: $decision"
        [[ $decision == restart ]] || break
        ((SECONDS - began < 3600)) || restarts=0
        restarts=$((restarts + 1))
        ((restarts <= ${MAX_RESTARTS:-10})) || fail "restarted $((restarts - 1)) times; expected at most \$MAX_RESTARTS=${MAX_RESTARTS:-10} within an hour of each other"
        sleep "${RESTART_WAIT_S:-15}"
    done
    [[ $decision == finished ]] || exit "${STATUSES[0]}"
}
