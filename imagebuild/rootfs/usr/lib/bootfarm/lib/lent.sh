# shellcheck shell=sh
# The agent of rollouts (obey-rollout) speaks with kubelet's certificate. An image whose kubelet
# does not start has none, and just that machine has to be called back: after a try to join that
# failed the wrapper lends the agent a certificate of this node. Sourced after state.sh, flat.sh,
# kube.sh and ownnode.sh.

LENT=$BOOTFARM_STATE/agent

# lend SERVER CA CERT KEY: for root alone; each file is whole at any time.
lend() {
    private_directory "$LENT"
    (
        umask 077
        cat "$3" "$4" >"$LENT/node.pem.new" && cat "$2" >"$LENT/ca.crt.new" &&
            printf '%s\n' "$1" >"$LENT/server.new"
    ) || return 1
    for lend_name in server ca.crt node.pem; do
        mv "$LENT/$lend_name.new" "$LENT/$lend_name"
    done
}

# lent_is_good: what was lent is good for another hour.
lent_is_good() {
    [ -s "$LENT/node.pem" ] && openssl x509 -noout -checkend 3600 -in "$LENT/node.pem" >/dev/null 2>&1
}

# lend_certificate DIR: where lts.conf wants an agent: of a line without a token what its try had,
# of one with a token a certificate that is asked for now, once. DIR: the try's.
lend_certificate() {
    if ! flat_is_true "$BOOTFARM_STATE/lts.conf" ROLLOUT_AGENT 2>/dev/null ||
        [ -z "${join_server-}" ] || [ ! -s "$1/ca.pem" ]; then
        return 0
    fi
    if [ -n "$JOIN_BARE" ]; then
        [ ! -s "$1/cert.pem" ] ||
            lend "$join_server" "$1/ca.pem" "$1/cert.pem" "$JOIN_PLACE/key.pem"
        return
    fi
    if [ -z "$JOIN_TLS" ] || [ ! -s "$1/token.curl" ] || lent_is_good; then
        return 0
    fi
    if lend_said=$(get_certificate "$join_server" "$1/ca.pem" "$JOIN_TLS" "$JOIN_NODE" "$1"); then
        lend "$join_server" "$1/ca.pem" "$1/cert.pem" "$1/key.pem"
    else
        echo "a rollout cannot call this machine back (ROLLOUT_AGENT): $lend_said" >&2
    fi
}
