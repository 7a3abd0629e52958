# shellcheck shell=sh
# An address for the chosen card. Sourced.

DHCP_TRIES=${DHCP_TRIES-10}

run_udhcpc() {
    busybox udhcpc -f -q -n -t 3 -T 3 -A 1 -i "$1" -s "$BOOTFARM_LIB/udhcpc-script" \
        -O hostname -O domain -O search -O dns -O router -O ntpsrv -O mtu \
        -O routes -O staticroutes -O msstaticroutes >/dev/null 2>&1
}

# pin_server ADDRESS: a route to the server alone, by the card of the root. No lease of another card and no
# network plugin has one that goes before it.
pin_server() {
    pin_server=$1
    pin_nic=$(state_get interface)
    pin_route=$(ip route get "$pin_server" 2>/dev/null) || return 0
    case $pin_route in
    *" dev $pin_nic "*) ;;
    *) return 0 ;;
    esac
    case $pin_route in
    *" via $pin_server "*) ip route add "$pin_server/32" dev "$pin_nic" ;; # a router that serves
    *" via "*)
        pin_gateway=${pin_route#* via }
        ip route add "$pin_server/32" via "${pin_gateway%% *}" dev "$pin_nic" onlink
        ;;
    *) ip route add "$pin_server/32" dev "$pin_nic" ;;
    esac
}

ask_dhcp() {
    dhcp_nic=$(state_get interface)
    dhcp_try=1
    until run_udhcpc "$dhcp_nic" && dhcp_get ip >/dev/null; do
        if [ "$dhcp_try" -ge "$DHCP_TRIES" ]; then
            fail no_dhcp "no DHCP answer on $dhcp_nic ($(state_get mac)) in $DHCP_TRIES tries" \
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
    for dhcp_server in $(state_get farm || state_get server); do
        pin_server "${dhcp_server%%:*}" ||
            say "no route of its own to ${dhcp_server%%:*}: the usual one is used"
    done
}
