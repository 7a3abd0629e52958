# shellcheck shell=sh
# The card of the root, for systemd-networkd: by its MAC, since any card may have any name. Sourced.

apply_network() {
    network_mac=$(state_get mac) || return 0
    case $network_mac in
    *[!0-9a-f:]*) return 0 ;;
    ??:??:??:??:??:??) ;;
    *) return 0 ;;
    esac
    network_dir=$BOOTFARM_ROOT/run/systemd/network/20-bootfarm.network.d
    mkdir -p "$network_dir"
    printf '# The card that the root comes over.\n[Match]\nMACAddress=%s\n' "$network_mac" \
        >"$network_dir/boot-card.conf"
}
