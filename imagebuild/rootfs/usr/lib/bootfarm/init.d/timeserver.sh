# shellcheck shell=sh
# TIMESERVER (several, with blanks), else DHCP's: for chrony or systemd-timesyncd. Sourced.

apply_timeserver() {
    timeserver=$(flat_get "$FLAT" TIMESERVER || dhcp_get ntp) || return 0
    if [ -d "$BOOTFARM_ROOT/etc/chrony" ]; then
        mkdir -p "$BOOTFARM_ROOT/etc/chrony/sources.d"
        set -f
        for timeserver_name in $timeserver; do
            printf 'server %s iburst\n' "$timeserver_name"
        done >"$BOOTFARM_ROOT/etc/chrony/sources.d/bootfarm.sources"
        set +f
    elif [ -x "$BOOTFARM_ROOT/lib/systemd/systemd-timesyncd" ]; then
        mkdir -p "$BOOTFARM_ROOT/etc/systemd/timesyncd.conf.d"
        printf '[Time]\nNTP=%s\n' "$timeserver" \
            >"$BOOTFARM_ROOT/etc/systemd/timesyncd.conf.d/bootfarm.conf"
    else
        trouble "TIMESERVER: this image has neither chrony nor systemd-timesyncd"
    fi
}
