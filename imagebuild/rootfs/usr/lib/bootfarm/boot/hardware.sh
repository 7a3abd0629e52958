# shellcheck shell=sh
# Network cards that Linux sees and cannot use. Sourced.

# nics_without_driver: a line for each PCI function of class 02 that no driver has taken.
nics_without_driver() {
    for pci in "$BOOTFARM_ROOT"/sys/bus/pci/devices/*; do
        case $(cat "$pci/class" 2>/dev/null) in
        0x02*)
            if [ ! -e "$pci/driver" ]; then
                printf '%s vendor %s device %s\n' "${pci##*/}" "$(cat "$pci/vendor")" \
                    "$(cat "$pci/device")"
            fi
            ;;
        esac
    done
}

# firmware_failures: the kernel's lines on firmware that it did not find.
firmware_failures() {
    dmesg 2>/dev/null | grep -i firmware | grep -iE 'fail|not found|error -2|missing'
}

# total_mib: the machine's memory.
total_mib() {
    while read -r total_name total_kib _; do
        if [ "$total_name" = MemTotal: ]; then
            printf '%s\n' "$((total_kib / 1024))"
        fi
    done <"$BOOTFARM_ROOT/proc/meminfo"
}

# note_hardware: what the server is told of the machine with the first report.
note_hardware() {
    state_put memory "$(total_mib)"
    state_put serial "$(head -c 64 "$BOOTFARM_ROOT/sys/class/dmi/id/product_serial" 2>/dev/null)"
}

# kernel_and_cards: the kernel's version, and the cards that it has no driver for.
kernel_and_cards() {
    cards=$(nics_without_driver | tr '\n' ';')
    printf '%s%s\n' "$(uname -r)" "${cards:+; no driver for: ${cards%;}}"
}

warn_of_nics_without_driver() {
    nics_without_driver | while IFS= read -r nic; do
        shout "network card $nic has no driver in this image:" \
            "add its module to the recipe's initramfs modules (lspci -nn names it)"
    done
    firmware_failures | while IFS= read -r line; do
        shout "missing firmware: $line: add its package (firmware-*) to the recipe"
    done
    return 0
}
