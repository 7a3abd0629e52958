# shellcheck shell=sh
# CRONTAB_*: lines of root's crontab. Sourced.

write_crontab_line() {
    printf '%s\n' "$2" >>"$crontab_file"
}

apply_crontab() {
    flat_each "$FLAT" CRONTAB_ true_if_any
    [ -n "${crontab_wanted-}" ] || return 0
    if [ ! -d "$BOOTFARM_ROOT/var/spool/cron/crontabs" ]; then
        trouble "CRONTAB_*: this image has no cron (add the package cron to the recipe)"
        return 0
    fi
    crontab_file=$BOOTFARM_ROOT/var/spool/cron/crontabs/root
    printf '# written by init-ltsp\n' >"$crontab_file"
    flat_each "$FLAT" CRONTAB_ write_crontab_line
    chmod 600 "$crontab_file"
    chgrp crontab "$crontab_file" 2>/dev/null
    return 0
}

true_if_any() {
    crontab_wanted=yes
}
