# shellcheck shell=sh
# Network cards that Linux sees and cannot use. Sourced.

# nics_without_driver: a line for each PCI function of class 02 that no driver has taken. A server
# has hundreds of functions: no process for each.
nics_without_driver() {
    for pci in "$BOOTFARM_ROOT"/sys/bus/pci/devices/*; do
        pci_class=
        { IFS= read -r pci_class <"$pci/class"; } 2>/dev/null
        case $pci_class in
        0x02*)
            if [ ! -e "$pci/driver" ]; then
                printf '%s vendor %s device %s\n' "${pci##*/}" "$(cat "$pci/vendor")" \
                    "$(cat "$pci/device")"
            fi
            ;;
        esac
    done
}

# settle_cards: wait until a card without a driver is one for good. Nobody has waited for all
# devices (patches/udev), and the one card that the root needs may be up before the others.
settle_cards() {
    if [ -n "$(nics_without_driver)" ] && [ -e "$BOOTFARM_ROOT/run/udev/control" ]; then
        udevadm settle --timeout=10 || true
    fi
}

# firmware_failures: the kernel's lines on firmware that it did not find.
firmware_failures() {
    dmesg 2>/dev/null | grep -i firmware | grep -iE 'fail|not found|error -2|missing'
}

# note_hardware: what the server is told of the machine with the first report.
note_hardware() {
    state_put memory "$(total_mib)"
    state_put serial "$(head -c 64 "$BOOTFARM_ROOT/sys/class/dmi/id/product_serial" 2>/dev/null)"
}

# report_initramfs: the kernel's version, and the cards that it has no driver for.
report_initramfs() {
    cards=$(nics_without_driver | tr '\n' ';')
    cards=${cards%;}
    if [ -n "$cards" ]; then
        report initramfs ok "$(uname -r); no driver for: $cards" no_driver "cards=$cards"
    else
        report initramfs ok "$(uname -r)"
    fi
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
