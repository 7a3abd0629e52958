# shellcheck shell=sh
# An address for the chosen card. Sourced.

DHCP_TRIES=${DHCP_TRIES-10}

run_udhcpc() {
    busybox udhcpc -f -q -n -t 3 -T 3 -A 1 -i "$1" -s "$BOOTFARM_LIB/udhcpc-script" \
        -O hostname -O domain -O search -O dns -O router -O ntpsrv -O mtu >/dev/null 2>&1
}

ask_dhcp() {
    dhcp_nic=$(state_get interface)
    dhcp_try=1
    until run_udhcpc "$dhcp_nic" && dhcp_get ip >/dev/null; do
        if [ "$dhcp_try" -ge "$DHCP_TRIES" ]; then
            fail "no DHCP answer on $dhcp_nic ($(state_get mac)) in $DHCP_TRIES tries" \
                "the lease that PXE got a moment ago" \
                "DHCP server's log for that address, spanning tree on the switch port"
            return 1
        fi
        dhcp_try=$((dhcp_try + 1))
        say "no DHCP answer on $dhcp_nic yet, try $dhcp_try of $DHCP_TRIES"
    done
    state_put ip "$(dhcp_get ip)"
    say "address $(dhcp_get ip)/$(dhcp_get prefix) on $dhcp_nic," \
        "gateway $(dhcp_get router || echo none)"
}
