# shellcheck shell=sh
# What kubelet and the container runtime look for and Debian keeps elsewhere, and with what labels
# and taints kubelet registers. Sourced.

. "$BOOTFARM_LIB/lib/nodelabels.sh"

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

# add_kubelet_argument WORD: one more in KUBELET_EXTRA_ARGS, before those that the image has. It
# holds no | and no character that sed or systemd's EnvironmentFile= would take for their own.
add_kubelet_argument() {
    kubelet_defaults=$BOOTFARM_ROOT/etc/default/kubelet
    if grep -q '^KUBELET_EXTRA_ARGS=' "$kubelet_defaults" 2>/dev/null; then
        sed -i -e "s|^KUBELET_EXTRA_ARGS=\"|&$1 |;t" \
            -e "s|^KUBELET_EXTRA_ARGS='|&$1 |;t" \
            -e "s|^KUBELET_EXTRA_ARGS=|&$1 |" "$kubelet_defaults"
    else
        mkdir -p "$BOOTFARM_ROOT/etc/default"
        printf 'KUBELET_EXTRA_ARGS=%s\n' "$1" >>"$kubelet_defaults"
    fi
}

# kubelet and the runtime must agree, else a join hangs for two minutes and fails; the cluster's
# own kubelet configuration may leave it out (kubeadm before 1.22).
set_cgroup_driver() {
    ! grep -q -e --cgroup-driver "$BOOTFARM_ROOT/etc/default/kubelet" 2>/dev/null ||
        return 0
    add_kubelet_argument --cgroup-driver=systemd
}

# take_words VARIABLE CHECK FILE: of the variable's words those that are right, one a line; the
# others are told, and left out: kubelet would not start with them.
take_words() {
    take_value=$(flat_get "$FLAT" "$1") || return 0
    set -f
    for take_word in $(flat_words "$take_value"); do
        if "$2" "$take_word"; then
            printf '%s\n' "$take_word" >>"$BOOTFARM_STATE/$3"
        else
            trouble "$1: $take_word is left out: no node may set that on itself, or it is none"
        fi
    done
    set +f
}

# NODE_LABELS, NODE_TAINTS: kubelet makes its Node with them; watch-ready sees to the rest.
set_node_labels() {
    rm -f "$BOOTFARM_STATE/node-labels" "$BOOTFARM_STATE/node-taints"
    take_words NODE_LABELS is_node_label node-labels
    take_words NODE_TAINTS is_node_taint node-taints
    [ ! -s "$BOOTFARM_STATE/node-labels" ] ||
        add_kubelet_argument "--node-labels=$(with_commas "$BOOTFARM_STATE/node-labels")"
    [ ! -s "$BOOTFARM_STATE/node-taints" ] ||
        add_kubelet_argument "--register-with-taints=$(with_commas "$BOOTFARM_STATE/node-taints")"
}

# kubelet complains each second of a static pods' directory that is missing; kubeadm's preflight
# takes an empty one.
make_static_pods_directory() {
    mkdir -p "$BOOTFARM_ROOT/etc/kubernetes/manifests"
}

# A cluster that was made on a machine with systemd-resolved tells every kubelet to give its pods
# /run/systemd/resolve/resolv.conf (kubeadm does so by itself): without it no pod starts on a node
# that says Ready. kubelet-config does the same for other paths, once they are known.
link_resolv_conf() {
    for resolved in /usr/lib/systemd/systemd-resolved /lib/systemd/systemd-resolved; do
        [ ! -x "$BOOTFARM_ROOT$resolved" ] || return 0
    done
    [ ! -e "$BOOTFARM_ROOT/run/systemd/resolve/resolv.conf" ] || return 0
    mkdir -p "$BOOTFARM_ROOT/run/systemd/resolve"
    ln -sfn /etc/resolv.conf "$BOOTFARM_ROOT/run/systemd/resolve/resolv.conf"
}

apply_kubernetes() {
    link_resolv_conf
    link_cni_plugins
    [ -x "$BOOTFARM_ROOT/usr/bin/kubelet" ] || return 0
    make_static_pods_directory
    set_cgroup_driver
    set_node_labels
}
