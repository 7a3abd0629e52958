# shellcheck shell=sh
# The root's blocks are checked as they are read, where the kernel command line says against what:
# bootfarm.verity= (docs/contracts.md). Sourced.

VERITY_NAME=bootfarm-root

# root_device: what the root is mounted from, while it is not in memory.
root_device() {
    state_get root-device || echo /dev/nbd0
}

# load_verity: its modules; SHA-256 by the processor's own instructions, where it has them.
load_verity() {
    for verity_module in sha256_ssse3 sha2_ce sha256_arm64; do
        modprobe -q "$verity_module" 2>/dev/null || true
    done
    modprobe -q -a dm_mod dm_verity || true # built in, or missed by verityroot, which says so
}

# verity_cause STATUS: why verityroot ended with it (src/bootfarm/verity/verityroot.c, EXIT_*).
verity_cause() {
    case $1 in
    2) echo command_line ;;
    3) echo verity_mismatch ;;
    *) echo no_verity ;;
    esac
}

# refuse_root CAUSE WHAT: the image is let go of, so that another try attaches it anew.
refuse_root() {
    "$BOOTFARM_LIB/nbdroot" detach /dev/nbd0
    case $1 in
    verity_mismatch)
        fail "$1" "the image is not the one that the kernel command line names: $2" \
            "the image with the root hash of bootfarm.verity=, as it was built" \
            "the image's files on $(state_get server) against its manifest (bootfarm doctor --store DIR --full); who else answers on this network"
        ;;
    command_line)
        fail "$1" "bootfarm.verity= cannot be read: $2" "the word that the server's menu has" \
            "KERNEL_CMDLINE in lts.conf; the boot loader's menu"
        ;;
    *)
        fail "$1" "the image cannot be checked: $2" \
            "dm-mod and dm-verity in the initramfs, as an image of \`verity: true\` has them" \
            "dmesg | tail; the recipe's kernel package"
        ;;
    esac
}

# attach_and_check TABLE: the image (anew, after one that was refused), and its device; prints
# nothing, leaves it in verity_said.
attach_and_check() {
    attach_root || return 1
    verity_said=$("$BOOTFARM_LIB/verityroot" open "$VERITY_NAME" /dev/nbd0 "$1" 2>&1) || {
        verity_why=$(verity_cause $?)
        refuse_root "$verity_why" "$verity_said"
    }
}

verify_root() {
    verity_table=$(cmdline_value bootfarm.verity) || return 0
    if [ -b "$(state_get root-device)" ]; then
        return 0 # a try before this one got so far
    fi
    load_verity
    verity_tries=$(state_get servers | wc -w)
    until attach_and_check "$verity_table"; do
        verity_tries=$((verity_tries - 1))
        if [ "$FAILED_CAUSE" != verity_mismatch ] || [ "$verity_tries" -le 0 ]; then
            return 1
        fi
        tell_failure root # of this server; the farm's next one may have it right
        next_server || return 1
    done
    state_put root-device "$verity_said"
    state_put root-mode "live NBD, verified"
    "$BOOTFARM_LIB/verityroot" watch "$verity_said" "$(state_get server)" "$(state_get http)" \
        "$(state_get mac)" "$(state_get boot-id)"
    say "$verity_said checks each block of the image as it is read"
}

# let_go_of_verity: before /dev/nbd0 is detached.
let_go_of_verity() {
    [ -b "$(state_get root-device)" ] || return 0
    "$BOOTFARM_LIB/verityroot" close "$VERITY_NAME"
    rm -f "$BOOTFARM_STATE/root-device"
}
