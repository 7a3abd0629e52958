# shellcheck shell=sh
# /etc/machine-id: unique for each machine, the same at every boot. Sourced.

# is_machine_id WORD: 32 lower-case hex digits, not all the same (vendors ship 0… and f…).
is_machine_id() {
    case $1 in
    *[!0-9a-f]* | '') return 1 ;;
    esac
    [ "${#1}" -eq 32 ] || return 1
    case $1 in
    00000000000000000000000000000000 | ffffffffffffffffffffffffffffffff) return 1 ;;
    # The sample UUID that boards leave the factory with.
    03000200040005000006000700080009) return 1 ;;
    esac
    return 0
}

machine_id_from_dmi() {
    [ -r "$BOOTFARM_ROOT/sys/class/dmi/id/product_uuid" ] || return 1
    tr -d '\n-' <"$BOOTFARM_ROOT/sys/class/dmi/id/product_uuid" |
        tr '[:upper:]' '[:lower:]'
}

machine_id_from_mac() {
    printf 'bootfarm machine-id %s' "$(state_get mac)" | sha256sum | cut -c 1-32
}

apply_machine_id() {
    machine_id=$(cmdline_value systemd.machine_id | tr -d '\n-' | tr '[:upper:]' '[:lower:]')
    is_machine_id "$machine_id" || machine_id=$(machine_id_from_dmi)
    is_machine_id "$machine_id" || machine_id=$(machine_id_from_mac)
    rm -f "$BOOTFARM_ROOT/etc/machine-id"
    printf '%s\n' "$machine_id" >"$BOOTFARM_ROOT/etc/machine-id"
}
