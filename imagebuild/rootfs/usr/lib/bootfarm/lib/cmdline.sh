# shellcheck shell=sh
# The kernel command line as data. Sourced.

BOOTFARM_ROOT=${BOOTFARM_ROOT-}

# cmdline_value KEY: the last KEY=value's value; fails if there is none.
cmdline_value() {
    cmdline_found=
    cmdline_result=
    set -f
    # shellcheck disable=SC2013 # words are what it holds
    for word in $(cat "$BOOTFARM_ROOT/proc/cmdline"); do
        case $word in
        "$1="*)
            cmdline_found=yes
            cmdline_result=${word#*=}
            ;;
        esac
    done
    set +f
    [ -n "$cmdline_found" ] || return 1
    printf '%s\n' "$cmdline_result"
}
