# shellcheck shell=sh
# LTSP_NBD_TO_RAM: the whole image in memory; the server may then go away. Sourced.

# What the running system must have left besides the image.
RAM_HEADROOM_MIB=${RAM_HEADROOM_MIB-256}

mib() {
    printf '%s\n' "$((($1 + 1048575) / 1048576))"
}

available_mib() {
    while read -r ram_name ram_value _; do
        if [ "$ram_name" = MemAvailable: ]; then
            printf '%s\n' "$((ram_value / 1024))"
        fi
    done <"$BOOTFARM_ROOT/proc/meminfo"
}

# headroom_mib: what must be left besides the image now, or in the end (lib/memory.sh), whichever is
# more of the free memory.
headroom_mib() {
    headroom_now=$RAM_HEADROOM_MIB
    if plan_fixed "$BOOTFARM_STATE/lts.conf"; then
        headroom_end=$((${memory_reserve:?} + ${memory_run:?} + ${memory_shm:?} + MEMORY_DEV_MIB))
        headroom_end=$((headroom_end + MEMORY_FLOOR_MIB - ${memory_total:?} + $(available_mib)))
        [ "$headroom_end" -le "$headroom_now" ] || headroom_now=$headroom_end
    fi
    printf '%s\n' "$headroom_now"
}

# fits_into_ram BYTES
fits_into_ram() {
    [ "$(($(mib "$1") + $(headroom_mib)))" -le "$(available_mib)" ]
}

# copy_with_progress FROM TO BYTES: the console hears of it each second, the server each ten.
copy_with_progress() {
    dd if="$1" of="$2" bs=1048576 2>/dev/null &
    ram_copier=$!
    ram_seconds=0
    while kill -0 "$ram_copier" 2>/dev/null; do
        sleep 1
        ram_seconds=$((ram_seconds + 1))
        ram_said="copied $(mib "$(stat -c %s "$2")") of $(mib "$3") MiB into memory"
        say "$ram_said"
        [ $((ram_seconds % 10)) -ne 0 ] || report root start "$ram_said"
    done
    wait "$ram_copier" && [ "$(stat -c %s "$2")" = "$3" ]
}

move_root_to_ram() {
    flat_is_true "$BOOTFARM_STATE/lts.conf" LTSP_NBD_TO_RAM || return 0
    if [ "$(state_get root-mode)" = RAM ]; then
        return 0
    fi
    ram_device=$(root_device)
    ram_bytes=$(($(cat "/sys/class/block/${ram_device##*/}/size") * 512))
    if ! fits_into_ram "$ram_bytes"; then
        ram_why="LTSP_NBD_TO_RAM: the image ($(mib "$ram_bytes") MiB and $(headroom_mib) MiB for the system) does not fit into the $(available_mib) MiB of free memory, of $(total_mib) MiB in all"
        shout "$ram_why: staying on live NBD"
        state_put root-mode "$(state_get root-mode) ($ram_why)"
        state_put root-cause "too_large ram_image=$(mib "$ram_bytes") ram_system=$RAM_HEADROOM_MIB ram_free=$(available_mib) ram_total=$(total_mib)"
        return 0
    fi
    ram_dir=/run/initramfs/bootfarm/ram
    mkdir -p "$ram_dir"
    mount -t tmpfs -o "size=$(($(mib "$ram_bytes") + 1))m,mode=0700" tmpfs "$ram_dir"
    if ! copy_with_progress "$ram_device" "$ram_dir/image.squashfs" "$ram_bytes"; then
        umount "$ram_dir"
        shout "LTSP_NBD_TO_RAM: the copy failed: staying on live NBD"
        state_put root-mode "$(state_get root-mode) (the copy into memory failed)"
        state_put root-cause copy_failed
        return 0
    fi
    modprobe loop
    wait_for 10 "/dev/loop0" test -b /dev/loop0
    busybox losetup -r /dev/loop0 "$ram_dir/image.squashfs" || {
        umount "$ram_dir"
        fail no_loop "cannot make a loop device of the image in memory" \
            "/dev/loop0 and the module loop in the initramfs" "dmesg | tail"
        return 1
    }
    umount -l "$ram_dir" # the loop device holds it; nothing is left to unmount at shutdown
    let_go_of_verity # each block was checked on its way into memory
    "$BOOTFARM_LIB/nbdroot" detach /dev/nbd0
    state_put root-mode RAM
    state_put image-mib "$(($(mib "$ram_bytes") + 1))"
    say "the image is in memory; the server is no longer needed for it"
}
