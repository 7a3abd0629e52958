# shellcheck shell=sh
# The network card that PXE used, by BOOTIF=, with its link up. Sourced.

NIC_SECONDS=${NIC_SECONDS-30}
LINK_SECONDS=${LINK_SECONDS-60}

# bootif_mac VALUE: 01-52-54-00-12-34-56, with colons or dashes, with or without the hardware
# type, in any case -> 52:54:00:12:34:56; fails on anything else.
bootif_mac() {
    bootif=$(printf '%s\n' "$1" | tr 'A-F-' 'a-f:')
    case $bootif in
    ??:??:??:??:??:??:??) bootif=${bootif#??:} ;;
    esac
    case $bootif in
    *[!0-9a-f:]*) return 1 ;;
    ??:??:??:??:??:??) printf '%s\n' "$bootif" ;;
    *) return 1 ;;
    esac
}

# ethernet_nics: names of what may be a network card (bridges, loopback and the like are not).
ethernet_nics() {
    for nic_path in "$BOOTFARM_ROOT"/sys/class/net/*; do
        [ -e "$nic_path/device" ] || continue
        nic_type=
        { IFS= read -r nic_type <"$nic_path/type"; } 2>/dev/null
        if [ "$nic_type" = 1 ]; then
            printf '%s\n' "${nic_path##*/}"
        fi
    done
}

nic_address() {
    nic_read=
    { IFS= read -r nic_read <"$BOOTFARM_ROOT/sys/class/net/$1/address"; } 2>/dev/null
    printf '%s\n' "$nic_read"
}

# is_named NIC: udev has given it its lasting name. Nobody has waited for all devices
# (patches/udev), and a card that is in use cannot be renamed any more. Before udev renames one it
# writes ID_RENAMING=1 into the card's record (systemd, udev-event.c).
is_named() {
    [ -e "$BOOTFARM_ROOT/run/udev/control" ] || return 0
    { IFS= read -r nic_index <"$BOOTFARM_ROOT/sys/class/net/$1/ifindex"; } 2>/dev/null || return 1
    nic_record=$BOOTFARM_ROOT/run/udev/data/n$nic_index
    [ -e "$nic_record" ] || return 1
    while IFS= read -r nic_line; do
        [ "$nic_line" != "E:ID_RENAMING=1" ] || return 1
    done <"$nic_record"
}

# nic_with_address MAC: nic becomes its name, or empty where there is none that udev has named.
nic_with_address() {
    for nic in $(ethernet_nics); do
        if [ "$(nic_address "$nic")" = "$1" ] && is_named "$nic"; then
            return 0
        fi
    done
    nic=
    return 1
}

# link_with_address MAC: that card has a link; one that has got another name is set up again.
link_with_address() {
    nic_before=$nic
    nic_with_address "$1" || return 1
    [ "$nic" = "$nic_before" ] || link_up "$nic"
    has_carrier "$nic"
}

has_carrier() {
    nic_carrier=
    { IFS= read -r nic_carrier <"$BOOTFARM_ROOT/sys/class/net/$1/carrier"; } 2>/dev/null
    [ "$nic_carrier" = 1 ]
}

# known_nics: "eth0 (52:54:…), eth1 (…)" for a message.
known_nics() {
    nic_list=
    for nic in $(ethernet_nics); do
        nic_list="$nic_list${nic_list:+, }$nic ($(nic_address "$nic"))"
    done
    printf '%s\n' "${nic_list:-none}"
}

# wait_for SECONDS WHAT COMMAND...: polls five times a second, and says so every five seconds.
wait_for() {
    wait_left=$(($1 * 5))
    wait_what=$2
    shift 2
    until "$@"; do
        [ "$wait_left" -gt 0 ] || return 1
        wait_left=$((wait_left - 1))
        if [ $((wait_left % 25)) -eq 0 ]; then
            say "waiting for $wait_what ($((wait_left / 5)) s more)"
        fi
        sleep 0.2
    done
}

link_up() {
    ip link set dev "$1" up
}

# nic_with_link: without BOOTIF, nic becomes the first card that gets a link.
nic_with_link() {
    for nic in $(ethernet_nics); do
        if has_carrier "$nic"; then
            return 0
        fi
    done
    nic=
    return 1
}

choose_by_mac() {
    wait_for "$NIC_SECONDS" "network card $1" nic_with_address "$1" || {
        warn_of_nics_without_driver
        fail no_card "no network card with the address $1 (BOOTIF) appeared" \
            "the card that PXE used, with a driver; Linux has: $(known_nics)" \
            "cards without a driver: $(nics_without_driver | tr '\n' ';')"
        return 1
    }
    link_up "$nic"
    nic_chosen=$nic
    wait_for "$LINK_SECONDS" "link on $nic" link_with_address "$1" || {
        fail no_link "$nic_chosen ($1) has no link" "carrier on the card that PXE used" \
            "cable, switch port, ip link show $nic_chosen"
        return 1
    }
}

choose_by_link() {
    wait_for "$NIC_SECONDS" "any network card" any_nic || {
        warn_of_nics_without_driver
        fail no_card "there is no network card" "one with a driver" \
            "cards without a driver: $(nics_without_driver | tr '\n' ';')"
        return 1
    }
    for nic in $(ethernet_nics); do
        link_up "$nic"
    done
    wait_for "$LINK_SECONDS" "link on any card" nic_with_link || {
        fail no_link "no network card has a link" "carrier on one of: $(known_nics)" \
            "cable, switch port"
        return 1
    }
}

# any_nic: there is one, and none that udev has not named yet.
any_nic() {
    any_found=1
    for nic in $(ethernet_nics); do
        is_named "$nic" || return 1
        any_found=0
    done
    return "$any_found"
}

choose_nic() {
    nic_bootif=$(cmdline_value BOOTIF) && nic_mac=$(bootif_mac "$nic_bootif") || nic_mac=
    if [ -n "$nic_mac" ]; then
        choose_by_mac "$nic_mac" || return 1
    else
        say "no usable BOOTIF= on the kernel command line: taking the first card with a link"
        choose_by_link || return 1
    fi
    state_put interface "$nic"
    state_put mac "$(nic_address "$nic")"
    say "network card $nic, address $(nic_address "$nic")"
}
