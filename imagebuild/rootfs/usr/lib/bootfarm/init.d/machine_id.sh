# shellcheck shell=sh
# /etc/machine-id: unique for each machine, the same at every boot. Sourced.

# is_machine_id WORD: 32 lower-case hex digits, not all 0 (systemd takes that for none).
is_machine_id() {
    case $1 in
    *[!0-9a-f]* | '') return 1 ;;
    esac
    [ "${#1}" -eq 32 ] && [ "$1" != 00000000000000000000000000000000 ]
}

# machine_uuid: what the firmware says of itself. Vendors ship boards by the thousand with one and the
# same, so that it tells machines apart only together with the MAC.
machine_uuid() {
    tr -d '\n-' <"$BOOTFARM_ROOT/sys/class/dmi/id/product_uuid" 2>/dev/null |
        tr '[:upper:]' '[:lower:]'
}

# machine_id_of_hardware: from the UUID and the MAC of the card that the machine boots from; a machine
# with neither gets another one at each boot.
machine_id_of_hardware() {
    hardware_mac=$(state_get mac) || hardware_mac=
    hardware_uuid=$(machine_uuid)
    if [ -z "$hardware_mac$hardware_uuid" ]; then
        trouble "neither a MAC nor a UUID of the machine is known: its machine-id is another one at each boot"
        hardware_uuid=$(cat "$BOOTFARM_ROOT/proc/sys/kernel/random/uuid")
    fi
    printf 'bootfarm machine-id %s %s' "$hardware_uuid" "$hardware_mac" | sha256sum | cut -c 1-32
}

apply_machine_id() {
    machine_id=$(cmdline_value systemd.machine_id) &&
        machine_id=$(printf '%s' "$machine_id" | tr -d '\n-' | tr '[:upper:]' '[:lower:]')
    is_machine_id "$machine_id" || machine_id=$(machine_id_of_hardware)
    rm -f "$BOOTFARM_ROOT/etc/machine-id"
    printf '%s\n' "$machine_id" >"$BOOTFARM_ROOT/etc/machine-id"
}
