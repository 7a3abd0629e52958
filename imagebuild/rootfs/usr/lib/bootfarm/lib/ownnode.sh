# shellcheck shell=sh
# After a power cut the own Node still says Ready, and kubeadm refuses to join (kubernetes#89512).
# With a client certificate of its own the node marks its status Ready=Unknown: Node, labels and
# taints are kept. It has that from the boot server, or gets it by CSR with the join token, which
# kubeadm's default RBAC approves.
# Sourced after kube.sh and joinwords.sh.

# csr_object CSRFILE: for the signer of kubelets' client certificates.
csr_object() {
    printf '{"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest",'
    printf '"metadata":{"generateName":"bootfarm-"},"spec":{"request":"%s",' \
        "$(openssl base64 -A -in "$1")"
    printf '"signerName":"kubernetes.io/kube-apiserver-client-kubelet",'
    printf '"usages":["digital signature","key encipherment","client auth"]}}\n'
}

# get_certificate SERVER CA TOKEN NODE DIR: key.pem and cert.pem in DIR.
get_certificate() {
    openssl ecparam -genkey -name prime256v1 -noout -out "$5/key.pem" 2>/dev/null || return 1
    openssl req -new -sha256 -key "$5/key.pem" -subj "/O=system:nodes/CN=system:node:$4" \
        -out "$5/csr.pem" 2>/dev/null || return 1
    csr_object "$5/csr.pem" >"$5/csr.json"
    csr_url=$1/apis/certificates.k8s.io/v1/certificatesigningrequests
    csr_code=$(kube_call POST "$csr_url?pretty=false" "$5/csr.out" --cacert "$2" \
        --config "$5/token.curl" --header 'Content-Type: application/json' \
        --data-binary "@$5/csr.json")
    if [ "$csr_code" != 201 ]; then
        echo "the API server does not take a certificate request (HTTP $csr_code)"
        return 1
    fi
    csr_name=$(grep -o '"name":"bootfarm-[a-z0-9]*"' "$5/csr.out" | head -n 1 | cut -d '"' -f 4)
    wait_for_certificate "$csr_url/$csr_name?pretty=false" "$2" "$5"
}

# wait_for_certificate URL CA DIR
wait_for_certificate() {
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
        kube_call GET "$1" "$3/csr.out" --cacert "$2" --config "$3/token.curl" >/dev/null
        grep -o '"certificate":"[A-Za-z0-9+/=]*"' "$3/csr.out" | head -n 1 | cut -d '"' -f 4 |
            openssl base64 -d -A >"$3/cert.pem" 2>/dev/null
        if [ -s "$3/cert.pem" ]; then
            return 0
        fi
        sleep 1
    done
    echo "the certificate request was not approved and signed within 15 s"
    return 1
}

# unready_own_node SERVER CA TOKEN NODE DIR: 0 if kubeadm will find no Ready Node, 1 otherwise, 3
# if the token was refused, each with a reason on standard output.
unready_own_node() {
    # The token stands in a file: on a command line every process could read it.
    (umask 077 && printf 'header = "Authorization: Bearer %s"\n' "$3" >"$5/token.curl")
    own_code=$(kube_call GET "$1/api/v1/nodes/$4?pretty=false" "$5/node.json" --cacert "$2" \
        --config "$5/token.curl")
    case $own_code in
    404) return 0 ;;
    401)
        echo "token refused: the API server does not take it (HTTP 401)"
        blame "$5" join_token
        return 3
        ;;
    200) [ "$(node_ready_status "$5/node.json")" = True ] || return 0 ;;
    403) ;; # may not look; marking does no harm
    *)
        echo "the API server does not answer about Node $4 (HTTP $own_code)"
        return 1
        ;;
    esac
    get_certificate "$1" "$2" "$3" "$4" "$5" || return 1
    mark_rebooted "$1" "$2" "$5/cert.pem" "$5/key.pem" "$4" "$5"
}

# unready_by_certificate SERVER CA CERT KEY NODE DIR: 0 if kubeadm will find no Ready Node, 1
# otherwise, 2 if it is no use to go on now, each with a reason on standard output.
unready_by_certificate() {
    own_code=$(kube_call GET "$1/api/v1/nodes/$5?pretty=false" "$6/node.json" --cacert "$2" \
        --cert "$3" --key "$4")
    case $own_code in
    404) return 0 ;;
    200) [ "$(node_ready_status "$6/node.json")" = True ] || return 0 ;;
    403) ;; # may not look; marking does no harm
    000)
        own_said=$(cat "$6/node.json.err")
        echo "no answer from the API server: $own_said"
        blame "$6" join_away "$own_said"
        return 2
        ;;
    *)
        echo "the API server does not answer about Node $5 (HTTP $own_code)"
        return 2
        ;;
    esac
    mark_rebooted "$1" "$2" "$3" "$4" "$5" "$6"
}

# mark_rebooted SERVER CA CERT KEY NODE DIR: 0 if it is marked, or is not there; else 1 and why.
mark_rebooted() {
    ready_condition Unknown NodeRebooted "the machine booted anew and is about to join" \
        >"$6/patch.json"
    own_code=$(mark_node "$1" "$5" "$6/patch.json" "$6/patch.out" --cacert "$2" --cert "$3" \
        --key "$4")
    case $own_code in
    200 | 404) return 0 ;;
    esac
    echo "the node may not mark itself (HTTP $own_code)"
    return 1
}
