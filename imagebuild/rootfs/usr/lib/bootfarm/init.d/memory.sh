# shellcheck shell=sh
# Sizes of the file systems that are memory, as lib/memory.sh has them: a full one gives its writer
# ENOSPC and costs nobody else anything. The overlay has its own from the initramfs, the containers'
# layers from bootfarm-volumes.service. Sourced.

. "$BOOTFARM_LIB/lib/memory.sh"

# is_in_fstab MOUNTPOINT
is_in_fstab() {
    [ -r "$BOOTFARM_ROOT/etc/fstab" ] || return 1
    while read -r _ memory_target _; do
        [ "$memory_target" != "$1" ] || return 0
    done <"$BOOTFARM_ROOT/etc/fstab"
    return 1
}

limit_run() {
    mount -o "remount,nosuid,nodev,noexec,mode=0755,size=${memory_run:?}m" "$BOOTFARM_ROOT/run" &&
        mount -o "remount,nosuid,mode=0755,size=${MEMORY_DEV_MIB}m" "$BOOTFARM_ROOT/dev"
}

# Mounted before systemd comes, which leaves it; its own has half of the memory.
limit_shm() {
    is_in_fstab /dev/shm && return 0
    mkdir -p "$BOOTFARM_ROOT/dev/shm"
    mount -t tmpfs -o "nosuid,nodev,mode=1777,size=${memory_shm:?}m" tmpfs "$BOOTFARM_ROOT/dev/shm"
}

# /tmp lies on the overlay, and has no half of the memory of its own (Debian 13's tmp.mount), unless
# the recipe or FSTAB_* says otherwise.
leave_tmp_on_overlay() {
    is_in_fstab /tmp && return 0
    [ ! -e "$BOOTFARM_ROOT/etc/systemd/system/tmp.mount" ] || return 0
    mkdir -p "$BOOTFARM_ROOT/run/systemd/system"
    ln -sf /dev/null "$BOOTFARM_ROOT/run/systemd/system/tmp.mount"
}

limit_journal() {
    mkdir -p "$BOOTFARM_ROOT/run/systemd/journald.conf.d"
    # After /etc's bootfarm.conf: files of all directories are read in the order of their names.
    printf '[Journal]\nRuntimeMaxUse=%sM\n' "${memory_journal:?}" \
        >"$BOOTFARM_ROOT/run/systemd/journald.conf.d/bootfarm.size.conf"
}

apply_memory() {
    if ! plan_memory "$FLAT" "$(state_get image-mib || echo 0)"; then
        trouble "the kernel does not tell how much memory there is: file systems in memory are not limited"
        return 0
    fi
    [ -z "$memory_trouble" ] || trouble "${memory_trouble%; }"
    state_put containers-mib "${memory_containers:?}"
    limit_run || trouble "cannot limit the size of /run and /dev"
    limit_shm || trouble "cannot limit the size of /dev/shm"
    leave_tmp_on_overlay
    limit_journal
}
