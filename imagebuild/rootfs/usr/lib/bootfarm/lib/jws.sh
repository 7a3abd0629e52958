# shellcheck shell=sh
# The signature of cluster-info that a bootstrap token's secret half makes: JWS (RFC 7515, HS256)
# with detached content, as the cluster's bootstrapsigner writes it. It is what tells the cluster
# from a stranger who answers at its address. Sourced.
#
# The secret stays within the shell: its HMAC key blocks are written by printf, a builtin of dash
# and of busybox, into a pipe; openssl hashes what comes and sees no key in its arguments.

# key_block KEY BYTE: 64 bytes, those of the key (zeros after its end) xor BYTE (RFC 2104).
key_block() {
    block_rest=$1
    block_left=64
    while [ "$block_left" -gt 0 ]; do
        block_code=0
        if [ -n "$block_rest" ]; then
            block_code=$(printf '%d' "'${block_rest%"${block_rest#?}"}")
            block_rest=${block_rest#?}
        fi
        block_code=$((block_code ^ $2))
        # shellcheck disable=SC2059 # the format is the byte, in octal
        printf "\\$((block_code / 64))$((block_code / 8 % 8))$((block_code % 8))"
        block_left=$((block_left - 1))
    done
}

# hmac_sha256 KEY: of standard input, 32 bytes. KEY: ASCII, 64 bytes at most.
hmac_sha256() {
    {
        key_block "$1" 92
        {
            key_block "$1" 54
            cat
        } | openssl dgst -sha256 -binary
    } | openssl dgst -sha256 -binary
}

base64url() {
    openssl base64 -A | tr '+/' '-_' | tr -d '='
}

# detached_jws TOKEN FILE: the signature that the cluster has for this content and this token.
detached_jws() {
    jws_header=$(printf '{"alg":"HS256","kid":"%s"}' "${1%%.*}" | base64url)
    jws_signature=$({
        printf '%s.' "$jws_header"
        base64url <"$2"
    } | hmac_sha256 "${1#*.}" | base64url)
    printf '%s..%s\n' "$jws_header" "$jws_signature"
}
