# shellcheck shell=sh
# What kubelet and the container runtime look for and Debian keeps elsewhere. Sourced.

# Debian's CNI plugins are in /usr/lib/cni; everyone else's runtime looks into /opt/cni/bin.
link_cni_plugins() {
    [ -d "$BOOTFARM_ROOT/usr/lib/cni" ] || return 0
    mkdir -p "$BOOTFARM_ROOT/opt/cni/bin"
    for cni_plugin in "$BOOTFARM_ROOT"/usr/lib/cni/*; do
        cni_name=${cni_plugin##*/}
        if [ -x "$cni_plugin" ] && [ ! -e "$BOOTFARM_ROOT/opt/cni/bin/$cni_name" ]; then
            ln -s "/usr/lib/cni/$cni_name" "$BOOTFARM_ROOT/opt/cni/bin/$cni_name"
        fi
    done
}

apply_kubernetes() {
    link_cni_plugins
}
