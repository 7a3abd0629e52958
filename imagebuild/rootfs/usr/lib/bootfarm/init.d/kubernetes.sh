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

# kubelet and the runtime must agree, else a join hangs for two minutes and fails; the cluster's
# own kubelet configuration may leave it out (kubeadm before 1.22).
set_cgroup_driver() {
    kubelet_defaults=$BOOTFARM_ROOT/etc/default/kubelet
    if [ ! -x "$BOOTFARM_ROOT/usr/bin/kubelet" ] ||
        grep -q -e --cgroup-driver "$kubelet_defaults" 2>/dev/null; then
        return 0
    fi
    if grep -q '^KUBELET_EXTRA_ARGS=' "$kubelet_defaults" 2>/dev/null; then
        sed -i -e 's/^KUBELET_EXTRA_ARGS="/&--cgroup-driver=systemd /;t' \
            -e "s/^KUBELET_EXTRA_ARGS='/&--cgroup-driver=systemd /;t" \
            -e 's/^KUBELET_EXTRA_ARGS=/&--cgroup-driver=systemd /' "$kubelet_defaults"
    else
        mkdir -p "$BOOTFARM_ROOT/etc/default"
        printf 'KUBELET_EXTRA_ARGS=--cgroup-driver=systemd\n' >>"$kubelet_defaults"
    fi
}

# kubelet complains each second of a static pods' directory that is missing; kubeadm's preflight
# takes an empty one.
make_static_pods_directory() {
    [ ! -x "$BOOTFARM_ROOT/usr/bin/kubelet" ] || mkdir -p "$BOOTFARM_ROOT/etc/kubernetes/manifests"
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
    make_static_pods_directory
    set_cgroup_driver
}
