# shellcheck shell=sh
# What happens when a step fails. Sourced.

FAILED_CAUSE=
FAILED_WHAT=
FAILED_EXPECTED=
FAILED_CHECK=

# fail CAUSE WHAT EXPECTED CHECK: a step says what is wrong, and returns 1 after it. CAUSE is one
# word of server/causes.py; the rest is for people.
fail() {
    FAILED_CAUSE=$1
    FAILED_WHAT=$2
    FAILED_EXPECTED=$3
    FAILED_CHECK=$4
    return 1
}

# step PHASE FUNCTION: runs it until it succeeds; on failure tells console and server, then gives
# a shell (whose end means: try again) or reboots, as bootfarm.on_error= says.
step() {
    FAILED_WHAT=
    until "$2"; do
        if [ -z "$FAILED_WHAT" ]; then
            FAILED_CAUSE=step
            FAILED_WHAT="the step $2 failed"
            FAILED_EXPECTED="that it succeeds"
            FAILED_CHECK="the lines above"
        fi
        tell_failure "$1"
        if [ "$(cmdline_value bootfarm.on_error)" = reboot ]; then
            reboot_after 30
        else
            give_shell
        fi
        FAILED_WHAT=
    done
}

tell_failure() {
    shout "FAILED in phase $1: $FAILED_WHAT"
    shout "  expected: $FAILED_EXPECTED"
    shout "  to check: $FAILED_CHECK"
    report "$1" error "$FAILED_WHAT" "$FAILED_CAUSE"
}

reboot_after() {
    shout "rebooting in $1 seconds (bootfarm.on_error=reboot)"
    sleep "$1"
    reboot -f
    sleep 60
}

give_shell() {
    shout "a shell follows on the console; leave it with 'exit' to try again"
    PS1='(bootfarm initramfs) ' setsid sh -c 'exec sh -i <>/dev/console 1>&0 2>&1'
    shout "trying again"
}
