# shellcheck shell=sh
# CONFIGURE_FSTAB (default yes) and FSTAB_*: /etc/fstab and its mount points. Sourced.

# has_option OPTIONS NAME: in a comma-separated list, as NAME or NAME=value.
has_option() {
    case ,$1, in
    *",$2,"* | *",$2="*) return 0 ;;
    esac
    return 1
}

# fstab_options DEVICE TYPE OPTIONS: what the line says, and what a machine without that disk or
# with its network not yet up needs besides.
fstab_options() {
    fstab_added=$3
    case $2 in
    nfs | nfs4 | cifs | ceph | glusterfs | 9p)
        has_option "$fstab_added" _netdev || fstab_added=$fstab_added,_netdev
        ;;
    esac
    case $1 in
    /dev/* | UUID=* | LABEL=* | PARTUUID=* | PARTLABEL=* | ID=*)
        if has_option "$fstab_added" nofail &&
            ! has_option "$fstab_added" x-systemd.device-timeout; then
            fstab_added=$fstab_added,x-systemd.device-timeout=30s
        fi
        ;;
    esac
    printf '%s\n' "$fstab_added"
}

write_fstab_line() {
    fstab_key=$1
    set -f
    # shellcheck disable=SC2086
    set -- $2
    set +f
    case ${1-} in
    '' | '#'*) return 0 ;;
    esac
    if [ $# -lt 2 ]; then
        trouble "$fstab_key: a line of fstab has a device, a mount point, a type and options"
        return 0
    fi
    printf '%s %s %s %s %s %s\n' "$1" "$2" "${3:-auto}" \
        "$(fstab_options "$1" "${3:-auto}" "${4:-defaults}")" "${5:-0}" "${6:-0}" \
        >>"$BOOTFARM_ROOT/etc/fstab"
    case $2 in
    /*) mkdir -p "$BOOTFARM_ROOT$2" || trouble "$fstab_key: cannot make the mount point $2" ;;
    esac
}

apply_fstab() {
    if flat_is_false "$FLAT" CONFIGURE_FSTAB; then
        return 0
    fi
    rm -f "$BOOTFARM_ROOT/etc/fstab"
    printf '# written by init-ltsp; the root is an overlay\n' >"$BOOTFARM_ROOT/etc/fstab"
    flat_each "$FLAT" FSTAB_ write_fstab_line
}
