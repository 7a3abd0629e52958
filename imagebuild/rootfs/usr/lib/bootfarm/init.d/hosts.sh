# shellcheck shell=sh
# /etc/hosts: this machine, then HOSTS_*. Sourced.

write_hosts_line() {
    printf '%s\n' "$2" >>"$BOOTFARM_ROOT/etc/hosts"
}

apply_hosts() {
    hosts_name=$(state_get hostname)
    hosts_alias=${hosts_name%%.*}
    if [ "$hosts_alias" = "$hosts_name" ]; then
        hosts_domain=$(dhcp_get domain) && hosts_name=$hosts_name.${hosts_domain%% *}
    fi
    rm -f "$BOOTFARM_ROOT/etc/hosts"
    {
        printf '127.0.0.1\tlocalhost\n'
        if [ "$hosts_name" = "$hosts_alias" ]; then
            printf '127.0.1.1\t%s\n' "$hosts_alias"
        else
            printf '127.0.1.1\t%s %s\n' "$hosts_name" "$hosts_alias"
        fi
        printf '::1\tlocalhost ip6-localhost ip6-loopback\n'
    } >"$BOOTFARM_ROOT/etc/hosts"
    flat_each "$FLAT" HOSTS_ write_hosts_line
}
