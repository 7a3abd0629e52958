# shellcheck shell=sh
# The cluster-info ConfigMap in kube-public, which anyone may read: the cluster's CA and, for each
# bootstrap token, a signature of it (jws.sh). Sourced after kube.sh and jws.sh.

# cluster_info_field FILE KEY: a string of the ConfigMap's data, still JSON-escaped.
cluster_info_field() {
    grep -o "\"$2\":\"\([^\"\\\\]\|\\\\.\)*\"" "$1" | head -n 1 | cut -d : -f 2- |
        sed 's/^"//;s/"$//'
}

# cluster_info_kubeconfig FILE: the kubeconfig, byte by byte what was signed. Escapes that Go
# writes are undone; others are left, and the signature will not fit.
cluster_info_kubeconfig() {
    info_backslash=$(printf '\001')
    info_escaped=$(cluster_info_field "$1" kubeconfig)
    printf '%s' "$info_escaped" |
        sed -e "s/\\\\\\\\/$info_backslash/g" -e 's/\\"/"/g' -e 's/\\t/	/g' \
            -e 's/\\u003c/</g;s/\\u003e/>/g;s/\\u0026/\&/g' -e 's/\\n/\
/g' -e "s/$info_backslash/\\\\/g"
}

# cluster_info_ca FILE OUTPUT: the CA certificate as PEM.
cluster_info_ca() {
    cluster_info_field "$1" kubeconfig |
        sed -n 's/.*certificate-authority-data: \([A-Za-z0-9+/=]*\).*/\1/p' |
        openssl base64 -d -A >"$2" 2>/dev/null
    [ -s "$2" ]
}

# cluster_info_server FILE: the API server's URL for clients.
cluster_info_server() {
    cluster_info_field "$1" kubeconfig | sed -n 's/.*server: \(https:[^\\ ]*\).*/\1/p'
}

# has_signature FILE TOKENID
has_signature() {
    [ -n "$(cluster_info_field "$1" "jws-kubeconfig-$2")" ]
}

# is_signed_with FILE TOKEN DIR: who wrote it knows the token's secret half.
is_signed_with() {
    cluster_info_kubeconfig "$1" >"$3/signed"
    [ -s "$3/signed" ] &&
        [ "$(cluster_info_field "$1" "jws-kubeconfig-${2%%.*}")" = "$(detached_jws "$2" "$3/signed")" ]
}

# ca_hash PEM: as kubeadm pins it, sha256:<hex> of the public key's SubjectPublicKeyInfo.
ca_hash() {
    printf 'sha256:%s\n' "$(openssl x509 -noout -pubkey -in "$1" |
        openssl pkey -pubin -outform DER | openssl dgst -sha256 -r | cut -c 1-64)"
}

# is_pinned HASH HASHES: any of the blank-separated ones, in any case.
is_pinned() {
    for pin in $2; do
        if [ "$(printf '%s' "$pin" | tr '[:upper:]' '[:lower:]')" = "$1" ]; then
            return 0
        fi
    done
    return 1
}
