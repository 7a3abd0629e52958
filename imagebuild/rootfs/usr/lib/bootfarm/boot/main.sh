# shellcheck shell=sh
# The steps of the initramfs, in order. Sourced by scripts/bootfarm; docs/boot.md tells what each
# prints.

BOOTFARM_ROOT=${BOOTFARM_ROOT-}
BOOTFARM_LIB=$BOOTFARM_ROOT/usr/lib/bootfarm

. "$BOOTFARM_LIB/lib/console.sh"
. "$BOOTFARM_LIB/lib/cmdline.sh"
. "$BOOTFARM_LIB/lib/flat.sh"
. "$BOOTFARM_LIB/lib/state.sh"
. "$BOOTFARM_LIB/lib/memory.sh"
. "$BOOTFARM_LIB/boot/failure.sh"
. "$BOOTFARM_LIB/boot/server.sh"
. "$BOOTFARM_LIB/boot/hardware.sh"
. "$BOOTFARM_LIB/boot/nic.sh"
. "$BOOTFARM_LIB/boot/dhcp.sh"
. "$BOOTFARM_LIB/boot/clock.sh"
. "$BOOTFARM_LIB/boot/ltsconf.sh"
. "$BOOTFARM_LIB/boot/nbd.sh"
. "$BOOTFARM_LIB/boot/verity.sh"
. "$BOOTFARM_LIB/boot/ram.sh"
. "$BOOTFARM_LIB/boot/overlay.sh"

report() {
    "$BOOTFARM_LIB/report" "$@"
}

bootfarm_mountroot() {
    private_directory "$BOOTFARM_STATE"
    cat "$BOOTFARM_ROOT/proc/sys/kernel/random/boot_id" >"$BOOTFARM_STATE/boot-id"
    step initramfs read_server
    step network choose_nic
    step network ask_dhcp
    settle_cards
    warn_of_nics_without_driver
    note_hardware
    report_initramfs
    report network ok "$(state_get interface) $(state_get ip)"
    set_clock
    step ltsconf get_ltsconf
    apply_cmdline_settings
    step root attach_root
    step root verify_root
    step root move_root_to_ram
    step root mount_overlay
    # shellcheck disable=SC2046 # a cause and its facts, a word each
    report root ok "$(state_get root-mode)" $(state_get root-cause)
}
