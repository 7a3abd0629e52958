# shellcheck shell=sh
# DNS_SERVER and SEARCH_DOMAIN (several, with blanks or commas), else DHCP's. Sourced.

dns_servers() {
    flat_words "$(flat_get "$FLAT" DNS_SERVER || dhcp_get dns)"
}

dns_search() {
    flat_words "$(flat_get "$FLAT" SEARCH_DOMAIN || dhcp_get search || dhcp_get domain)"
}

# For systemd-resolved, which owns /etc/resolv.conf where it is a link to its own.
write_resolved_conf() {
    mkdir -p "$BOOTFARM_ROOT/etc/systemd/resolved.conf.d"
    {
        printf '[Resolve]\n'
        printf 'DNS=%s\n' "$(dns_servers)"
        printf 'Domains=%s\n' "$(dns_search)"
    } >"$BOOTFARM_ROOT/etc/systemd/resolved.conf.d/bootfarm.conf"
}

write_resolv_conf() {
    rm -f "$BOOTFARM_ROOT/etc/resolv.conf"
    {
        printf '# written by init-ltsp\n'
        set -f
        for dns_server in $(dns_servers); do
            printf 'nameserver %s\n' "$dns_server"
        done
        dns_domains=$(dns_search)
        # shellcheck disable=SC2086 # one blank between the names
        if [ -n "$dns_domains" ]; then
            echo search $dns_domains
        fi
        set +f
    } >"$BOOTFARM_ROOT/etc/resolv.conf"
}

apply_dns() {
    case $(readlink "$BOOTFARM_ROOT/etc/resolv.conf") in
    *systemd/resolve/*) write_resolved_conf ;;
    *) write_resolv_conf ;;
    esac
}
