# shellcheck shell=sh
# HOSTNAME, else HOSTNAME_BASE with HOSTNAME_EXTRA, else DHCP's, else from the MAC. Sourced.

# clean_hostname TEXT: lower case, only what a host name may hold (RFC 1123), 63 at most; fails
# if nothing is left. A trailing domain stays.
clean_hostname() {
    [ -n "$1" ] || return 1
    hostname_text=$(printf '%s' "$1" | tr '[:upper:]' '[:lower:]' | tr -c 'a-z0-9.-' '-' | cut -c 1-63)
    while :; do
        case $hostname_text in
        [.-]*) hostname_text=${hostname_text#?} ;;
        *[.-]) hostname_text=${hostname_text%?} ;;
        *) break ;;
        esac
    done
    [ -n "$hostname_text" ] || return 1
    printf '%s\n' "$hostname_text"
}

# LTSP 5: HOSTNAME_EXTRA says what is appended to HOSTNAME_BASE (default ltsp): the last number of
# the IP, or the MAC without colons.
hostname_from_base() {
    hostname_base=$(flat_get "$FLAT" HOSTNAME_BASE) || hostname_base=
    hostname_extra=$(flat_get "$FLAT" HOSTNAME_EXTRA)
    [ -n "$hostname_base$hostname_extra" ] || return 1
    case $hostname_extra in
    [Mm][Aa][Cc]) hostname_extra=$(state_get mac | tr -d :) ;;
    *)
        hostname_extra=$(state_get ip)
        hostname_extra=${hostname_extra##*.}
        ;;
    esac
    printf '%s%s\n' "${hostname_base:-ltsp}" "$hostname_extra"
}

hostname_from_mac() {
    hostname_mac=$(state_get mac | tr -d :)
    printf 'node-%s\n' "${hostname_mac:-unknown}"
}

choose_hostname() {
    clean_hostname "$(flat_get "$FLAT" HOSTNAME)" ||
        clean_hostname "$(hostname_from_base)" ||
        clean_hostname "$(dhcp_get hostname)" ||
        hostname_from_mac
}

apply_hostname() {
    node_hostname=$(choose_hostname)
    printf '%s\n' "$node_hostname" >"$BOOTFARM_ROOT/etc/hostname"
    printf '%s\n' "$node_hostname" >"$BOOTFARM_ROOT/proc/sys/kernel/hostname"
    state_put hostname "$node_hostname"
}
