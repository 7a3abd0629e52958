# shellcheck shell=sh
# The clock, set before anything checks a certificate. Sourced.

CLOCK_TOLERANCE=${CLOCK_TOLERANCE-3}

http_get() {
    busybox timeout "${2-10}" busybox wget -q -O - \
        "http://$(state_get server):$(state_get http)$1" 2>/dev/null
}

# server_time: the server's whole seconds since the epoch; fails if it gave no number.
server_time() {
    clock_text=$(http_get /api/time 5) || return 1
    clock_text=${clock_text%%.*}
    case $clock_text in
    '' | *[!0-9]* | ?????????????*) return 1 ;;
    esac
    printf '%s\n' "$clock_text"
}

set_system_clock() {
    busybox date -u -s "@$1" >/dev/null
}

# Never stops the boot: a wrong clock shows itself later, where it matters, and is said here.
set_clock() {
    clock_now=$(server_time) || {
        shout "the server does not tell the time (GET /api/time): certificates will be refused" \
            "if this machine's clock is wrong: it says $(date -u)"
        return 0
    }
    clock_off=$((clock_now - $(date +%s)))
    if [ "${clock_off#-}" -gt "$CLOCK_TOLERANCE" ]; then
        if set_system_clock "$clock_now"; then
            say "clock was off by $clock_off s: set to $(date -u)"
        else
            shout "cannot set the clock, which is off by $clock_off s"
        fi
    fi
    return 0
}
