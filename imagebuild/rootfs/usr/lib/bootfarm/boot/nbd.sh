# shellcheck shell=sh
# The image as /dev/nbd0, kept alive by nbdroot. Sourced.

NBD_TRIES=${NBD_TRIES-30}
NBD_TELL=${NBD_TELL-3}
NBD_HOME_SECONDS=300

nbd_ready() {
    [ -b /dev/nbd0 ]
}

# nbd_cause STATUS: why nbdroot ended with it (src/bootfarm/nbdroot.c, EXIT_*).
nbd_cause() {
    case $1 in
    3) echo nbd_refused ;;
    4) echo nbd_no_answer ;;
    5) echo no_export ;;
    *) echo nbd_failed ;;
    esac
}

# farm_words: what nbdroot is told of the farm's other servers, so that it goes on with one of them
# when this one is gone: how long a better one has to answer until the root moves back, and all of
# them in this machine's order. Nothing where there is but one.
farm_words() {
    farm_all=$(state_get farm) || return 0
    case $farm_all in
    *' '*) ;;
    *) return 0 ;;
    esac
    farm_home=$(cmdline_value bootfarm.home) || farm_home=$NBD_HOME_SECONDS
    case $farm_home in
    never) farm_home=0 ;;
    '' | *[!0-9]* | ??????*)
        shout "bootfarm.home=$farm_home is no number of seconds: $NBD_HOME_SECONDS" >&2
        farm_home=$NBD_HOME_SECONDS
        ;;
    esac
    printf '%s %s\n' "$farm_home" "$farm_all"
}

attach_root() {
    if [ "$(cat /sys/class/block/nbd0/size 2>/dev/null || echo 0)" != 0 ]; then
        return 0 # a try before this one got so far
    fi
    modprobe nbd nbds_max=4
    wait_for 10 "/dev/nbd0" nbd_ready || {
        fail no_device "the kernel has no /dev/nbd0" "the module nbd in the initramfs" \
            "ls /lib/modules; the recipe's kernel package"
        return 1
    }
    nbd_try=1
    nbd_farm=$(farm_words)
    # shellcheck disable=SC2086 # a server a word
    until nbd_said=$("$BOOTFARM_LIB/nbdroot" attach /dev/nbd0 "$(state_get server)" \
        "$(state_get nbd)" "$(state_get export)" "$BOOTFARM_STATE/nbdroot.pid" $nbd_farm 2>&1); do
        nbd_why=$(nbd_cause $?)
        if [ "$nbd_try" -ge "$NBD_TRIES" ]; then
            fail "$nbd_why" "no root: $nbd_said" \
                "NBD export $(state_get export) on $(state_get server):$(state_get nbd)" \
                "that the server runs and its store has the image; firewall"
            return 1
        fi
        say "$nbd_said, try $nbd_try of $NBD_TRIES"
        if [ "$nbd_try" -eq "$NBD_TELL" ]; then
            # a server that restarts is back by now: whoever looks shall see why nothing happens
            report root error "no root yet, try $nbd_try of $NBD_TRIES: $nbd_said" "$nbd_why"
        fi
        nbd_try=$((nbd_try + 1))
        next_server || true
        sleep 2
    done
    state_put root-mode "live NBD"
    say "attached $(state_get export): $nbd_said"
}
