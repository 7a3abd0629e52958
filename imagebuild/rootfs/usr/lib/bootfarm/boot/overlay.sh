# shellcheck shell=sh
# The root: a tmpfs over the squashfs, the read-only root visible as /rofs. Sourced.

# overlay_options: how much of the memory the root's files may take (lib/memory.sh).
overlay_options() {
    if plan_memory "$BOOTFARM_STATE/lts.conf" "$(state_get image-mib || echo 0)"; then
        printf 'mode=0755,size=%sm\n' "${memory_overlay:?}"
    else
        printf 'mode=0755\n'
    fi
}

# mount_writable_root DIR: DIR/ro below a tmpfs at DIR/rw, as the new root.
mount_writable_root() {
    mount -t tmpfs -o "$(overlay_options)" tmpfs "$1/rw" || return 1
    mkdir "$1/rw/upper" "$1/rw/work" || return 1
    mount -t overlay -o "lowerdir=$1/ro,upperdir=$1/rw/upper,workdir=$1/rw/work" \
        overlay "${rootmnt:?}"
}

mount_overlay() {
    overlay_dir=/run/initramfs/bootfarm
    if [ "$(state_get root-mode)" = RAM ]; then
        overlay_device=/dev/loop0
    else
        overlay_device=$(root_device)
    fi
    modprobe -a squashfs overlay
    mkdir -p "$overlay_dir/ro" "$overlay_dir/rw"
    mount -t squashfs -o ro "$overlay_device" "$overlay_dir/ro" || {
        fail no_squashfs "cannot mount $overlay_device as squashfs" \
            "an image that the builder made" \
            "dmesg | tail; the image's manifest in the store"
        return 1
    }
    if ! mount_writable_root "$overlay_dir"; then
        umount "$overlay_dir/rw" "$overlay_dir/ro"
        fail no_overlay "cannot mount the overlay" "the module overlay in the initramfs" \
            "dmesg | tail"
        return 1
    fi
    mkdir -p "$rootmnt/rofs"
    mount -o move "$overlay_dir/ro" "$rootmnt/rofs"
    # The overlay holds its tmpfs by itself; seen by nobody, it is not unmounted at shutdown.
    umount "$overlay_dir/rw" || umount -l "$overlay_dir/rw"
    rmdir "$overlay_dir/ro" "$overlay_dir/rw"
    say "root mounted ($(state_get root-mode)), read-only root at /rofs"
}
