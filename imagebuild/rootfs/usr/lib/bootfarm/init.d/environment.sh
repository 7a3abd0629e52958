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

# run_command KEY VALUE: one line of lts.conf that is meant to be run, by a shell of its own, with
# a log of its own.
run_command() {
    command_log=$BOOTFARM_ROOT/var/log/bootfarm/$1.log
    mkdir -p "$BOOTFARM_ROOT/var/log/bootfarm"
    if (
        export_environment
        exec sh -c "$2"
    ) </dev/null >"$command_log" 2>&1; then
        say "$1: done"
    else
        command_status=$?
        trouble "$1: exit $command_status: $(tail -n 1 "$command_log")"
    fi
}
