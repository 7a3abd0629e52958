# shellcheck shell=sh
# Services that a diskless node does not need are not started: a default list and
# RM_SYSTEM_SERVICES, without those in KEEP_SYSTEM_SERVICES. They can still be started by hand.
# Sourced.

# LTSP 5's list as far as the article names it, and what the years since have brought. Names as in
# KEEP_SYSTEM_SERVICES: a unit's, with or without suffix.
DEFAULT_REMOVED_SERVICES="anacron apparmor apport-autoreport apt-daily apt-daily-upgrade \
avahi-daemon bluetooth cgmanager cups cups-browsed dbus-org.freedesktop.login1 dpkg-db-backup \
e2scrub_all e2scrub_reap exim4 fstrim ifupdown-pre man-db ModemManager motd-news multipathd \
networking NetworkManager nfs-kernel-server nfs-server open-iscsi polkit polkitd rpcbind rsync \
smartmontools snapd ssh systemd-logind ufw unattended-upgrades ureadahead whoopsie \
wpa_supplicant"

# Names that mean the same service.
service_names() {
    case ${1%.service} in
    dbus-org.freedesktop.login1 | systemd-logind) echo dbus-org.freedesktop.login1 systemd-logind ;;
    polkit | polkitd) echo polkit polkitd ;;
    ssh | sshd) echo ssh sshd ;;
    nfs-kernel-server | nfs-server) echo nfs-kernel-server nfs-server ;;
    *) printf '%s\n' "${1%.service}" ;;
    esac
}

# is_kept NAME: it, or another name of it, stands in KEEP_SYSTEM_SERVICES.
is_kept() {
    for service_kept in $SERVICES_KEPT; do
        for service_name in $(service_names "$service_kept"); do
            [ "$service_name" = "$1" ] && return 0
        done
    done
    return 1
}

# unit_exists UNIT: checked with the shell's own means; a fork for each name costs seconds.
unit_exists() {
    for service_dir in etc/systemd/system lib/systemd/system usr/lib/systemd/system; do
        service_path=$BOOTFARM_ROOT/$service_dir/$1
        if [ -e "$service_path" ] || [ -L "$service_path" ]; then
            return 0
        fi
    done
    [ -e "$BOOTFARM_ROOT/etc/init.d/${1%.service}" ]
}

# is_wanted_by_vendor UNIT: links below /lib start it, which are the package's and stay.
is_wanted_by_vendor() {
    [ "$1" = systemd-logind.service ] && return 0 # D-Bus starts it, too
    for service_link in "$BOOTFARM_ROOT"/lib/systemd/system/*.wants/"$1"; do
        if [ -e "$service_link" ] || [ -L "$service_link" ]; then
            return 0
        fi
    done
    return 1
}

# disable_unit UNIT: not started at boot, but by hand if one likes; masked only where the links
# that start it are not ours to remove.
disable_unit() {
    unit_exists "$1" || return 0
    rm -f "$BOOTFARM_ROOT"/etc/systemd/system/*.wants/"$1" \
        "$BOOTFARM_ROOT"/etc/systemd/system/*.requires/"$1"
    if is_wanted_by_vendor "$1"; then
        ln -sf /dev/null "$BOOTFARM_ROOT/etc/systemd/system/$1"
    fi
}

remove_service() {
    case $1 in
    *.service | *.socket | *.timer | *.path | *.mount | *.target) disable_unit "$1" ;;
    *)
        for service_suffix in service socket timer path; do
            disable_unit "$1.$service_suffix"
        done
        rm -f "$BOOTFARM_ROOT"/etc/rc[0-6S].d/S[0-9][0-9]"$1"
        ;;
    esac
}

apply_services() {
    SERVICES_KEPT=$(flat_get "$FLAT" KEEP_SYSTEM_SERVICES | tr ',' ' ')
    services_removed="$DEFAULT_REMOVED_SERVICES $(flat_get "$FLAT" RM_SYSTEM_SERVICES | tr ',' ' ')"
    set -f
    # shellcheck disable=SC2086
    set -- $services_removed
    set +f
    for service in "$@"; do
        is_kept "${service%.service}" || remove_service "$service"
    done
}
