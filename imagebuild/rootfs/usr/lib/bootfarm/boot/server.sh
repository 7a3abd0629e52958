# shellcheck shell=sh
# Who serves us, from the kernel command line: nbdroot=SERVER:EXPORT nbdport= bootfarm.http=
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
    # The boot environment, for PREINIT_*: /init unsets its own variables before the real init.
    state_put bootif "$(cmdline_value BOOTIF)"
    return 0
}
