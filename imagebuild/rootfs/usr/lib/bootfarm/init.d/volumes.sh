# shellcheck shell=sh
# Where containers keep their layers: never on the overlay (overlayfs cannot be its own upper
# layer; Docker falls back to devicemapper and dies). A volume of FSTAB_* or, from
# bootfarm-volumes.service, a tmpfs. This step only says which directories. Sourced.

apply_volumes() {
    for volume in /var/lib/docker /var/lib/containerd; do
        mkdir -p "$BOOTFARM_ROOT$volume"
    done
    # The journal's own flush would wait for a volume that may never come;
    # bootfarm-volumes.service flushes when there is one.
    ln -sf /dev/null "$BOOTFARM_ROOT/etc/systemd/system/systemd-journal-flush.service"
}
