# shellcheck shell=sh
# The container runtime as the recipe says it: /usr/share/bootfarm/runtime, KEY=value a line, read
# as data. Sourced.
#
#   name=docker|containerd
#   cri_socket=unix:///run/cri-dockerd.sock

BOOTFARM_ROOT=${BOOTFARM_ROOT-}

# runtime_get KEY: its value; fails if the image does not say.
runtime_get() {
    [ -r "$BOOTFARM_ROOT/usr/share/bootfarm/runtime" ] || return 1
    while IFS= read -r runtime_line || [ -n "$runtime_line" ]; do
        case $runtime_line in
        "$1="?*)
            printf '%s\n' "${runtime_line#*=}"
            return 0
            ;;
        esac
    done <"$BOOTFARM_ROOT/usr/share/bootfarm/runtime"
    return 1
}
