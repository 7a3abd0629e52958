# shellcheck shell=sh
# What this boot knows about itself: one small file a fact below /run/bootfarm. Sourced.
#
#   server servers farm http nbd name export mac interface ip boot-id lts.conf lts.conf-from root-mode root-cause dhcp
#   root-device memory serial reported
# nbdroot writes server, http, nbd, root-moved and root-elsewhere anew when the root moves.

BOOTFARM_ROOT=${BOOTFARM_ROOT-}
BOOTFARM_STATE=$BOOTFARM_ROOT/run/bootfarm

# state_get NAME: its first line; fails if it is not known.
state_get() {
    state_value=
    [ -r "$BOOTFARM_STATE/$1" ] || return 1
    IFS= read -r state_value <"$BOOTFARM_STATE/$1" || [ -n "$state_value" ] || return 1
    printf '%s\n' "$state_value"
}

# private_directory DIR: root's alone, for what may hold secrets.
private_directory() {
    mkdir -p "$1"
    chmod 700 "$1"
}

# private_file FILE: empty, root's alone before anything is written into it.
private_file() {
    rm -f "$1"
    (umask 077 && : >"$1")
}

state_put() {
    mkdir -p "$BOOTFARM_STATE"
    printf '%s\n' "$2" >"$BOOTFARM_STATE/$1"
}

# dhcp_get KEY: what the DHCP lease said (KEY=value lines, as data).
dhcp_get() {
    [ -r "$BOOTFARM_STATE/dhcp" ] || return 1
    while IFS= read -r state_line; do
        case $state_line in
        "$1="?*)
            printf '%s\n' "${state_line#*=}"
            return 0
            ;;
        esac
    done <"$BOOTFARM_STATE/dhcp"
    return 1
}
