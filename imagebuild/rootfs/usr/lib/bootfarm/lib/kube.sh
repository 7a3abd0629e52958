# shellcheck shell=sh
# The few calls to a Kubernetes API server that a node makes about itself, with curl. Sourced.

KUBE_TIMEOUT=${KUBE_TIMEOUT-10}

# kube_call METHOD URL OUTPUT [CURL OPTIONS]: the answer's body to OUTPUT; prints the HTTP status,
# 000 if there was none; curl's own complaint goes to OUTPUT.err.
kube_call() {
    kube_method=$1
    kube_url=$2
    kube_output=$3
    shift 3
    curl --silent --show-error --max-time "$KUBE_TIMEOUT" --noproxy '*' --request "$kube_method" \
        --output "$kube_output" --write-out '%{http_code}' "$@" "$kube_url" 2>"$kube_output.err"
}

# node_ready_status FILE: True, False or Unknown, of a Node object as the API server prints it
# with pretty=false.
node_ready_status() {
    grep -o '"type":"Ready","status":"[A-Za-z]*"' "$1" | head -n 1 | cut -d '"' -f 8
}

# ready_condition STATUS REASON MESSAGE: a patch of a Node's status.
ready_condition() {
    kube_now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    printf '{"status":{"conditions":[{"type":"Ready","status":"%s","reason":"%s","message":"%s",' \
        "$1" "$2" "$3"
    printf '"lastHeartbeatTime":"%s","lastTransitionTime":"%s"}]}}\n' "$kube_now" "$kube_now"
}

# mark_node SERVER NODE PATCHFILE OUTPUT [CURL OPTIONS]: prints the HTTP status.
mark_node() {
    mark_url=$1/api/v1/nodes/$2/status
    mark_patch=$3
    mark_output=$4
    shift 4
    kube_call PATCH "$mark_url" "$mark_output" \
        --header 'Content-Type: application/strategic-merge-patch+json' \
        --data-binary "@$mark_patch" "$@"
}

# expire_lease SERVER NODE OUTPUT [CURL OPTIONS]: lets go of the own kubelet's lease: a renewTime
# with which no kubelet renews. The boot server then knows at once that it does not run. Only the
# node's own credentials may do so. Prints the HTTP status.
expire_lease() {
    expire_url=$1/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/$2
    expire_output=$3
    shift 3
    kube_call PATCH "$expire_url" "$expire_output" \
        --header 'Content-Type: application/merge-patch+json' \
        --data '{"spec":{"renewTime":"1970-01-01T00:00:00.000000Z"}}' "$@"
}

# kubeadm's name for this node, unless --node-name says another.
own_node_name() {
    uname -n | tr '[:upper:]' '[:lower:]'
}

# kubeconfig_server FILE: the URL in a kubeconfig with one cluster.
kubeconfig_server() {
    sed -n 's/^ *server: *"\{0,1\}\(https:[^" ]*\).*/\1/p' "$1" | head -n 1
}

# own_certificate_name PEM: NODE of the subject CN=system:node:NODE.
own_certificate_name() {
    openssl x509 -noout -subject -nameopt multiline -in "$1" 2>/dev/null |
        sed -n 's/^ *commonName *= *system:node://p'
}
