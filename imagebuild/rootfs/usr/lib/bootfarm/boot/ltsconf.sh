# shellcheck shell=sh
# This node's own flat lts.conf: from the server by HTTP, then by TFTP, else the image's. Sourced.

# Each fetch_* writes the text to $1. It may hold secrets: all that is written here is root's alone.
fetch_by_http() {
    http_get "/ltsp/$(state_get name)/lts.conf?mac=$(state_get mac)" 15 >"$1"
}

fetch_by_tftp() {
    busybox timeout 30 busybox tftp -g -b 1428 -l "$1" -r "/ltsp/$(state_get name)/lts.conf" \
        "$(state_get server)" 2>/dev/null
}

fetch_from_image() {
    cat "$BOOTFARM_ROOT/etc/lts.conf" >"$1" 2>/dev/null
}

# try_source NAME FUNCTION: keeps what it gives, if that is a whole flat text.
try_source() {
    rm -f "$BOOTFARM_STATE/lts.conf.new"
    (umask 077 && "$2" "$BOOTFARM_STATE/lts.conf.new") || return 1
    if ! flat_is_whole "$BOOTFARM_STATE/lts.conf.new"; then
        shout "the lts.conf from $1 is cut or no flat text (first line '# bootfarm lts.conf'," \
            "last line '# end'): not used"
        return 1
    fi
    mv "$BOOTFARM_STATE/lts.conf.new" "$BOOTFARM_STATE/lts.conf"
    state_put lts.conf-from "$1"
    say "lts.conf from $1: $(grep -c '="' "$BOOTFARM_STATE/lts.conf") values"
}

get_ltsconf() {
    for ltsconf_try in 1 2 3; do
        if try_source "the server by HTTP" fetch_by_http ||
            try_source "the server by TFTP" fetch_by_tftp; then
            report ltsconf ok "$(state_get lts.conf-from)"
            return 0
        fi
        say "no lts.conf from $(state_get server) yet, try $ltsconf_try of 3"
        report ltsconf start "no lts.conf from $(state_get server) yet, try $ltsconf_try of 3"
        next_server || true
        sleep 2
    done
    shout "no lts.conf from $(state_get server) (HTTP port $(state_get http), TFTP):" \
        "going on with the image's own"
    if try_source "the image" fetch_from_image; then
        report ltsconf error "no lts.conf from the server: the image's own is used" own_ltsconf
        return 0
    fi
    fail no_ltsconf "no lts.conf from the server, and the image has none" \
        "/ltsp/$(state_get name)/lts.conf from $(state_get server)" \
        "http://$(state_get server):$(state_get http)/healthz"
}

# cmdline_settings: ltsp.key=value of the kernel command line as KEY="value" lines, as in LTSP 5.
cmdline_settings() {
    set -f
    # shellcheck disable=SC2013 # words are what it holds
    for word in $(cat "$BOOTFARM_ROOT/proc/cmdline"); do
        case $word in
        ltsp.?*=*)
            settings_key=$(printf '%s' "${word%%=*}" | tr '[:lower:]' '[:upper:]')
            if is_flat_key "${settings_key#LTSP.}"; then
                printf '%s="%s"\n' "${settings_key#LTSP.}" "${word#*=}"
            fi
            ;;
        esac
    done
    set +f
}

# apply_cmdline_settings: they replace what lts.conf says, in the place that order gives them.
apply_cmdline_settings() {
    private_file "$BOOTFARM_STATE/settings"
    private_file "$BOOTFARM_STATE/lts.conf.new"
    cmdline_settings >"$BOOTFARM_STATE/settings"
    if [ ! -s "$BOOTFARM_STATE/settings" ]; then
        rm -f "$BOOTFARM_STATE/lts.conf.new"
        return 0
    fi
    {
        echo '# bootfarm lts.conf'
        {
            while IFS= read -r settings_line; do
                case $settings_line in
                '#'*) continue ;;
                esac
                grep -q "^${settings_line%%=*}=" "$BOOTFARM_STATE/settings" ||
                    printf '%s\n' "$settings_line"
            done <"$BOOTFARM_STATE/lts.conf"
            cat "$BOOTFARM_STATE/settings"
        } | LC_ALL=C sort -V
        echo '# end'
    } >"$BOOTFARM_STATE/lts.conf.new"
    mv "$BOOTFARM_STATE/lts.conf.new" "$BOOTFARM_STATE/lts.conf"
    say "$(grep -c = "$BOOTFARM_STATE/settings") values from the kernel command line (ltsp.key=value)"
}
