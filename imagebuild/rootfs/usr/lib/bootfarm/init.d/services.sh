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

# keep_service NAME: it and its other names stand in $services_kept, between blanks, from now on.
# No forks here and below: on a slow core one for each name costs seconds.
keep_service() {
    case ${1%.service} in
    dbus-org.freedesktop.login1 | systemd-logind)
        services_kept="$services_kept dbus-org.freedesktop.login1 systemd-logind "
        ;;
    polkit | polkitd) services_kept="$services_kept polkit polkitd " ;;
    ssh | sshd) services_kept="$services_kept ssh sshd " ;;
    nfs-kernel-server | nfs-server)
        services_kept="$services_kept nfs-kernel-server nfs-server "
        ;;
    *) services_kept="$services_kept ${1%.service} " ;;
    esac
}

is_kept() {
    case $services_kept in
    *" ${1%.service} "*) return 0 ;;
    esac
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

# collect FILE...: those that are there (a pattern without a match is not) go away at the end.
collect() {
    for service_file; do
        if [ -e "$service_file" ] || [ -L "$service_file" ]; then
            services_links="$services_links$service_file
"
        fi
    done
}

# disable_unit UNIT: not started at boot, but by hand if one likes; masked only where the links
# that start it are not ours to remove.
disable_unit() {
    unit_exists "$1" || return 0
    collect "$BOOTFARM_ROOT"/etc/systemd/system/*.wants/"$1" \
        "$BOOTFARM_ROOT"/etc/systemd/system/*.requires/"$1"
    if is_wanted_by_vendor "$1"; then
        services_masked="$services_masked$BOOTFARM_ROOT/etc/systemd/system/$1
"
    fi
}

remove_service() {
    case $1 in
    *.service | *.socket | *.timer | *.path | *.mount | *.target) disable_unit "$1" ;;
    *)
        for service_suffix in service socket timer path; do
            disable_unit "$1.$service_suffix"
        done
        collect "$BOOTFARM_ROOT"/etc/rc[0-6S].d/S[0-9][0-9]"$1"
        ;;
    esac
}

# take_away: what was collected, by one rm; the few masks one by one.
take_away() {
    set -f
    service_ifs=$IFS
    IFS='
'
    # shellcheck disable=SC2086 # one a line
    [ -z "$services_links" ] || rm -f -- $services_links
    for service_file in $services_masked; do
        ln -sf /dev/null "$service_file"
    done
    IFS=$service_ifs
    set +f
}

apply_services() {
    services_kept=
    services_links=
    services_masked=
    services_wanted=$(flat_words "$(flat_get "$FLAT" KEEP_SYSTEM_SERVICES)")
    services_removed="$DEFAULT_REMOVED_SERVICES $(flat_words "$(flat_get "$FLAT" RM_SYSTEM_SERVICES)")"
    set -f
    # shellcheck disable=SC2086
    set -- $services_wanted
    for service; do keep_service "$service"; done
    # shellcheck disable=SC2086
    set -- $services_removed
    set +f
    for service; do
        is_kept "$service" || remove_service "$service"
    done
    take_away
}
