# shellcheck shell=sh
# The environment of PREINIT_* and INIT_COMMAND_*: what the boot left, what this boot is, and all
# resolved values. Sourced.

# Names that would change how a shell runs, instead of what it is told.
is_shells_own() {
    case $1 in
    PATH | IFS | ENV | BASH_ENV | PS4 | SHELLOPTS | OPTIND | PPID | LD_*) return 0 ;;
    esac
    return 1
}

export_value() {
    if ! is_shells_own "$1"; then
        export "$1=$2"
    fi
}

export_environment() {
    HOME=/root
    SERVER=$(state_get server)
    BOOTIF=$(state_get bootif)
    IPADDR=$(state_get ip)
    MACADDR=$(state_get mac)
    INTERFACE=$(state_get interface)
    HOSTNAME=$(state_get hostname)
    export HOME SERVER BOOTIF IPADDR MACADDR INTERFACE HOSTNAME
    flat_each "$FLAT" '' export_value
}

# tell_wait KEY: the server's page says what the boot waits for, every ten seconds.
tell_wait() {
    wait_seconds=0
    while sleep 10; do
        wait_seconds=$((wait_seconds + 10))
        "$BOOTFARM_LIB/report" preinit start "waiting for $1 to end, $wait_seconds s"
    done
}

# run_command KEY VALUE: one line of lts.conf that is meant to be run, by a shell of its own, with
# a log of its own. The shell reads it from its standard input: arguments are read by every user.
run_command() {
    command_log=$BOOTFARM_ROOT/var/log/bootfarm/$1.log
    private_directory "$BOOTFARM_ROOT/var/log/bootfarm"
    private_file "$command_log"
    tell_wait "$1" </dev/null >/dev/null 2>&1 &
    command_teller=$!
    if printf '%s\n' "$2" | (
        export_environment
        exec sh -s
    ) >"$command_log" 2>&1; then
        command_status=0
    else
        command_status=$?
    fi
    kill "$command_teller" 2>/dev/null
    if [ "$command_status" -eq 0 ]; then
        say "$1: done"
    else
        trouble "$1: exit $command_status: $(tail -n 1 "$command_log" | mask_tokens)"
    fi
}
