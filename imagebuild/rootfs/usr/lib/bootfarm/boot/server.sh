# shellcheck shell=sh
# Who serves us, from the kernel command line: nbdroot=SERVER:EXPORT nbdport= bootfarm.http=
# and, where the farm has more servers, bootfarm.servers=IP[:HTTP[:NBD]],...
# Sourced.

is_ipv4() {
    case $1 in
    *[!0-9.]* | '' | .* | *. | *..*) return 1 ;;
    *.*.*.*.*) return 1 ;;
    *.*.*.*) return 0 ;;
    esac
    return 1
}

is_port() {
    case $1 in
    '' | *[!0-9]* | ??????*) return 1 ;;
    esac
    [ "$1" -ge 1 ] && [ "$1" -le 65535 ]
}

# image_name EXPORT: /opt/ltsp/amd64@<digest> -> amd64
image_name() {
    image_name=${1##*/}
    printf '%s\n' "${image_name%%@*}"
}

# other_servers HTTP NBD: those of bootfarm.servers=, an IP:HTTP:NBD a line; what is none is told.
other_servers() {
    other_all=$(cmdline_value bootfarm.servers) || return 0
    printf '%s\n' "$other_all" | tr ',' '\n' | while IFS=: read -r other_ip other_http other_nbd; do
        other_http=${other_http:-$1}
        other_nbd=${other_nbd:-$2}
        if is_ipv4 "$other_ip" && is_port "$other_http" && is_port "$other_nbd"; then
            printf '%s:%s:%s\n' "$other_ip" "$other_http" "$other_nbd"
        else
            shout "bootfarm.servers names no server by $other_ip: left out" >&2
        fi
    done
}

# next_server: from now on the next one of the farm's servers, until the root is attached; fails
# where there is but one.
next_server() {
    next_all=$(state_get servers) || return 1
    next_first=${next_all%%" "*}
    [ "$next_first" != "$next_all" ] || return 1
    next_all="${next_all#*" "} $next_first"
    state_put servers "$next_all"
    next_first=${next_all%%" "*}
    next_ports=${next_first#*:}
    state_put server "${next_first%%:*}"
    state_put http "${next_ports%%:*}"
    state_put nbd "${next_ports#*:}"
    say "going on with the server ${next_first%%:*}"
}

read_server() {
    server_nbdroot=$(cmdline_value nbdroot) || {
        fail command_line "the kernel command line has no nbdroot=" \
            "nbdroot=<server's IPv4>:/opt/ltsp/<image>" \
            "the boot loader's menu (grub.cfg, as the server renders it)"
        return 1
    }
    server_ip=${server_nbdroot%%:*}
    server_export=${server_nbdroot#*:}
    if ! is_ipv4 "$server_ip" || [ "$server_export" = "$server_nbdroot" ] ||
        [ -z "$server_export" ]; then
        fail command_line "nbdroot=$server_nbdroot cannot be read" \
            "nbdroot=<server's IPv4>:/opt/ltsp/<image>" \
            "the boot loader's menu (grub.cfg, as the server renders it)"
        return 1
    fi
    server_nbd=$(cmdline_value nbdport) || server_nbd=10809
    server_http=$(cmdline_value bootfarm.http) || server_http=8080
    if ! is_port "$server_nbd" || ! is_port "$server_http"; then
        fail command_line "nbdport=$server_nbd or bootfarm.http=$server_http is no port" \
            "a number from 1 to 65535" "KERNEL_CMDLINE in lts.conf, the image's cmdline"
        return 1
    fi
    state_put server "$server_ip"
    state_put export "$server_export"
    state_put name "$(image_name "$server_export")"
    state_put nbd "$server_nbd"
    state_put http "$server_http"
    server_others=$(other_servers "$server_http" "$server_nbd" | tr '\n' ' ')
    server_others="$server_ip:$server_http:$server_nbd $server_others"
    state_put servers "${server_others%" "}"
    state_put farm "${server_others%" "}"
    # The boot environment, for PREINIT_*: /init unsets its own variables before the real init.
    state_put bootif "$(cmdline_value BOOTIF)"
    return 0
}
