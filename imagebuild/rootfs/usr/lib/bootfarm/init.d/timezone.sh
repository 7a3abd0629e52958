# shellcheck shell=sh
# TIMEZONE, such as Europe/Prague. Sourced.

apply_timezone() {
    timezone=$(flat_get "$FLAT" TIMEZONE) || return 0
    case $timezone in
    *..* | /* | '') timezone_file= ;;
    *) timezone_file=/usr/share/zoneinfo/$timezone ;;
    esac
    if [ -z "$timezone_file" ] || [ ! -f "$BOOTFARM_ROOT$timezone_file" ]; then
        trouble "TIMEZONE: this image has no zone $timezone (package tzdata); UTC stays"
        return 0
    fi
    ln -sfn "$timezone_file" "$BOOTFARM_ROOT/etc/localtime"
    printf '%s\n' "$timezone" >"$BOOTFARM_ROOT/etc/timezone"
}
