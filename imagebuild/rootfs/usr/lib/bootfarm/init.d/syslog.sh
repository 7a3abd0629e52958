# shellcheck shell=sh
# SYSLOG_HOST: the log goes there, too, UDP port 514. Sourced.

apply_syslog() {
    syslog_host=$(flat_get "$FLAT" SYSLOG_HOST) || return 0
    case $syslog_host in
    '' | *[!A-Za-z0-9.:-]*)
        trouble "SYSLOG_HOST: '$syslog_host' is no host name or address"
        return 0
        ;;
    esac
    if [ -d "$BOOTFARM_ROOT/etc/rsyslog.d" ]; then
        printf '*.* @%s\n' "$syslog_host" >"$BOOTFARM_ROOT/etc/rsyslog.d/90-bootfarm.conf"
    else
        state_put syslog-host "$syslog_host" # bootfarm-syslog.service starts where this file is
    fi
}
