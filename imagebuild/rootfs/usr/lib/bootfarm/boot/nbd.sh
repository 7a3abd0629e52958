# shellcheck shell=sh
# The image as /dev/nbd0, kept alive by nbdroot. Sourced.

NBD_TRIES=${NBD_TRIES-30}
NBD_TELL=${NBD_TELL-3}

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
    until nbd_said=$("$BOOTFARM_LIB/nbdroot" attach /dev/nbd0 "$(state_get server)" \
        "$(state_get nbd)" "$(state_get export)" "$BOOTFARM_STATE/nbdroot.pid" 2>&1); do
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
