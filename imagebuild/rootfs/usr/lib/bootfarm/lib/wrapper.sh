# shellcheck shell=sh
# kubeadm for RCFILE_* lines: `join` is made to work after a power cut and to go on trying until
# joined, or until the token or the CA hash is refused; everything else goes to the real kubeadm
# as it is. docs/boot.md ("Join") tells how and why. Sourced by a line's shell and by bin/kubeadm.

BOOTFARM_ROOT=${BOOTFARM_ROOT-}
BOOTFARM_LIB=$BOOTFARM_ROOT/usr/lib/bootfarm

. "$BOOTFARM_LIB/lib/state.sh"
. "$BOOTFARM_LIB/lib/flat.sh"
. "$BOOTFARM_LIB/lib/kube.sh"
. "$BOOTFARM_LIB/lib/runtime.sh"
. "$BOOTFARM_LIB/lib/joinargs.sh"
. "$BOOTFARM_LIB/lib/joinwords.sh"
. "$BOOTFARM_LIB/lib/jws.sh"
. "$BOOTFARM_LIB/lib/clusterinfo.sh"
. "$BOOTFARM_LIB/lib/ownnode.sh"
. "$BOOTFARM_LIB/lib/lent.sh"
. "$BOOTFARM_LIB/lib/certificate.sh"
. "$BOOTFARM_LIB/lib/discovery.sh"

KUBERNETES=$BOOTFARM_ROOT/etc/kubernetes
KUBELET=$BOOTFARM_ROOT/var/lib/kubelet
# How often a token may be missing from cluster-info before it counts as refused: after the
# cluster's own start its signer needs some seconds.
TOKEN_MISSES=${TOKEN_MISSES-3}
WAIT_SECONDS=${WAIT_SECONDS-5}
WAIT_MOST=${WAIT_MOST-30}

report() {
    "$BOOTFARM_LIB/report" "$@"
}

# real_kubeadm: the next one in PATH after ours.
real_kubeadm() {
    real_self=$(cd "$BOOTFARM_LIB/bin" && pwd -P)
    real_ifs=$IFS
    IFS=:
    for real_dir in $PATH /usr/bin /usr/local/bin; do
        if [ -x "$real_dir/kubeadm" ] && [ "$(cd "$real_dir" && pwd -P)" != "$real_self" ]; then
            IFS=$real_ifs
            printf '%s\n' "$real_dir/kubeadm"
            return 0
        fi
    done
    IFS=$real_ifs
    return 1
}

# wants_join ARGS: the command is join, and not its help or one of its phases.
wants_join() {
    wants_command=
    for word in "$@"; do
        case $word in
        -h | --help | --print-join-command | --dry-run) return 1 ;;
        -*) ;;
        *)
            if [ "$wants_command" = join ] && [ "$word" = phase ]; then
                return 1
            fi
            wants_command=${wants_command:-$word}
            ;;
        esac
    done
    [ "$wants_command" = join ]
}

is_joined() {
    [ -e "$KUBELET/pki/kubelet-client-current.pem" ] && [ -e "$KUBERNETES/kubelet.conf" ] &&
        systemctl is-active --quiet kubelet
}

# has_leftovers: of a try that failed, or of a boot before where /var/lib/kubelet is on a disk.
has_leftovers() {
    for leftover in "$KUBERNETES/bootstrap-kubelet.conf" "$KUBERNETES/kubelet.conf" \
        "$KUBERNETES/pki/ca.crt" "$KUBELET/config.yaml" "$KUBELET/instance-config.yaml" \
        "$KUBELET/kubeadm-flags.env" "$KUBELET/cpu_manager_state" \
        "$KUBELET/memory_manager_state"; do
        [ ! -e "$leftover" ] || return 0
    done
    return 1
}

# remove_leftovers: what the next try's preflight refuses (kubeconfigs, CA), what it would go on
# with (instance-config.yaml of kubeadm from 1.32 on, kubeadm-flags.env), and kubelet's notes on
# which processors it gave to whom, with which it refuses to start once they have changed.
remove_leftovers() {
    has_leftovers || return 0
    systemctl stop kubelet
    rm -f "$KUBERNETES/bootstrap-kubelet.conf" "$KUBERNETES/kubelet.conf" \
        "$KUBERNETES/pki/ca.crt" "$KUBELET/config.yaml" "$KUBELET/instance-config.yaml" \
        "$KUBELET/kubeadm-flags.env" "$KUBELET/cpu_manager_state" "$KUBELET/memory_manager_state"
    rm -f "$KUBELET"/pki/kubelet-client-*
}

# prepare DIR: what must be so before kubeadm runs. 0 go; 1 go, but the own Node is not marked;
# 2 wait and look again; 3 refused for good. DIR/reason says why, DIR/cause in one word, DIR/said
# what others said of it.
prepare() {
    : >"$1/reason"
    : >"$1/wait"
    blame "$1" ""
    if [ -n "$JOIN_BARE" ]; then
        prepare_certificate "$1"
        return
    fi
    if [ -z "$JOIN_TOKEN" ] || [ -n "$JOIN_FILE" ]; then
        return 0 # --discovery-file and the like: kubeadm alone knows
    fi
    if [ -z "$JOIN_CONFIG" ] && prepare_fault=$(line_fault); then
        echo "command line refused: $prepare_fault" >"$1/reason"
        blame "$1" join_line
        return 3
    fi
    [ -n "$JOIN_ENDPOINT" ] || return 0
    info_code=$(kube_call GET \
        "https://$JOIN_ENDPOINT/api/v1/namespaces/kube-public/configmaps/cluster-info?pretty=false" \
        "$1/info.json" --insecure)
    if [ "$info_code" = 000 ]; then
        prepare_said=$(cat "$1/info.json.err")
        echo "no answer from the API server: $prepare_said" >"$1/reason"
        blame "$1" join_away "$prepare_said"
        return 2
    fi
    if [ "$info_code" != 200 ] || ! cluster_info_ca "$1/info.json" "$1/ca.pem"; then
        echo "the API server shows no cluster-info (HTTP $info_code), without which no token" \
            "can be used" >"$1/reason"
        case $info_code in
        401 | 403) blame "$1" join_forbidden ;;
        esac
        return 2
    fi
    prepare_trust "$1" || return
    join_server=$(cluster_info_server "$1/info.json")
    join_server=${join_server:-https://$JOIN_ENDPOINT}
    # From here on the token leaves this machine: to who has signed with it, and by a certificate
    # of the CA that was signed.
    unready_own_node "$join_server" "$1/ca.pem" "$JOIN_TLS" "$JOIN_NODE" "$1" >"$1/reason"
}

# prepare_trust DIR: the CA is the pinned one, and cluster-info is signed with the token's secret.
prepare_trust() {
    if [ -z "$JOIN_UNSAFE" ] && [ -n "$(printf '%s' "$JOIN_HASHES" | tr -d ' ')" ] &&
        ! is_pinned "$(ca_hash "$1/ca.pem")" "$JOIN_HASHES"; then
        echo "CA hash refused: the cluster's CA is $(ca_hash "$1/ca.pem"), not$JOIN_HASHES" \
            >"$1/reason"
        blame "$1" join_ca
        return 3
    fi
    if is_signed_with "$1/info.json" "$JOIN_TOKEN" "$1"; then
        token_misses=0
        return 0
    fi
    blame "$1" join_token
    if has_signature "$1/info.json" "${JOIN_TOKEN%%.*}"; then
        echo "token refused: cluster-info is not signed with the secret half of token" \
            "${JOIN_TOKEN%%.*} (another token of that name, or not the cluster answers)" \
            >"$1/reason"
    else
        echo "token refused: the cluster has no token ${JOIN_TOKEN%%.*} (expired, or never made)" \
            >"$1/reason"
    fi
    token_misses=$((token_misses + 1))
    [ "$token_misses" -lt "$TOKEN_MISSES" ] || return 3
    return 2
}

# run_kubeadm ARGS: with the socket of the image's runtime, if the line names none; shows and
# keeps in DIR/join.log what it prints.
run_kubeadm() {
    if [ -z "$JOIN_SOCKET$JOIN_CONFIG" ] && run_socket=$(runtime_get cri_socket); then
        set -- "$@" --cri-socket "$run_socket"
    fi
    {
        "$try_kubeadm" "$@"
        echo $? >"$try_dir/status"
    } 2>&1 | tee "$try_dir/join.log"
    return "$(cat "$try_dir/status")"
}

# run_line ARGS: the line, as kubeadm is to get it.
run_line() {
    if [ -n "$JOIN_CONFIG" ]; then
        if [ -z "$JOIN_SOCKET" ] && run_socket=$(runtime_get cri_socket); then
            if (umask 077 && config_with_socket "$JOIN_CONFIG" "$run_socket" >"$try_dir/config"); then
                with_config "$try_dir/config" run_kubeadm "$@"
                return
            fi
            echo "$JOIN_CONFIG names no criSocket and is not a plain block to add $run_socket to"
        fi
        run_kubeadm "$@"
    elif [ -n "$JOIN_BARE$JOIN_FILE$JOIN_TOKEN" ] && discovery_for_line; then
        with_discovery "$try_dir/discovery.conf" run_kubeadm "$@"
        run_code=$?
        rm -f "$try_dir/discovery.conf"
        return "$run_code"
    else
        run_kubeadm "$@"
    fi
}

# discovery_for_line: $try_dir/discovery.conf for a line that has a token, or for the boot's own
# certificate; fails if there is neither.
discovery_for_line() {
    if [ -n "$JOIN_BARE" ]; then
        write_certificate_discovery "$join_server" "$try_dir/ca.pem" "$try_dir/cert.pem" \
            "$JOIN_PLACE/key.pem" "$try_dir/discovery.conf"
        return
    fi
    [ -n "$JOIN_TLS" ] || return 1
    if [ -z "$JOIN_FILE" ]; then
        write_discovery "$join_server" "$try_dir/ca.pem" "$JOIN_TLS" "$try_dir/discovery.conf"
        return
    fi
    # The line's own file, which has no credentials, and a token for them beside it.
    yaml_value "$JOIN_FILE" certificate-authority-data 2>/dev/null |
        openssl base64 -d -A >"$try_dir/ca.pem" 2>/dev/null
    discovery_server=$(kubeconfig_server "$JOIN_FILE" 2>/dev/null)
    if [ -s "$try_dir/ca.pem" ] && [ -n "$discovery_server" ]; then
        write_discovery "$discovery_server" "$try_dir/ca.pem" "$JOIN_TLS" "$try_dir/discovery.conf"
        return
    fi
    echo "$JOIN_FILE has no embedded CA: kubeadm gets the token as an argument, which every" \
        "user of this machine can read while it runs"
    return 1
}

# try_join DIR KUBEADM ARGS: 0 joined, 1 try again, 2 refused; try_reason says why, DIR/cause in one
# word, DIR/said in others' words.
try_join() {
    try_dir=$1
    try_kubeadm=$2
    shift 2
    prepare "$try_dir"
    try_code=$?
    try_reason=$(cat "$try_dir/reason")
    case $try_code in
    0) ;;
    1) echo "the own Node is not marked: $try_reason" ;;
    2)
        case $(cat "$try_dir/cause") in
        # Perhaps it is the kubelet that a try before started: it would renew the lease for ever.
        join_alive | join_watched) remove_leftovers ;;
        esac
        return 1
        ;;
    *) return 2 ;;
    esac
    remove_leftovers
    if run_line "$@"; then
        return 0
    fi
    journalctl --boot --unit kubelet --lines 500 --no-pager --output cat \
        >"$try_dir/kubelet.log" 2>/dev/null
    try_reason=$(judge_try "$try_dir") && return 2
    echo "kubelet's last lines:"
    tail -n 15 "$try_dir/kubelet.log"
    return 1
}

# token_name: the public half of the line's token; nothing of what is no token.
token_name() {
    case ${JOIN_TOKEN-} in
    [a-z0-9][a-z0-9][a-z0-9][a-z0-9][a-z0-9][a-z0-9].*) printf '%s' "${JOIN_TOKEN%%.*}" ;;
    esac
}

# report_failure DETAIL: a try that failed, with its cause, what others said of it, and the public
# half of the line's token.
report_failure() {
    report join error "$1" "$(cat "$try_dir/cause")" \
        "said=$(shortened 300 <"$try_dir/said")" "bootstrap=$(token_name)"
}

# mends: what kubelet-config had to add to the cluster's configuration.
mends() {
    [ -s "$BOOTFARM_STATE/kubelet-mended" ] || return 0
    printf '; the kubelet-config of the cluster names '
    sort -u "$BOOTFARM_STATE/kubelet-mended" | tr '\n' ';' | sed 's/;$//;s/;/; /g'
}

# watch_lease DIR: waits for as long as the boot server says, which watches whether a kubelet of
# this name renews its lease. That is no failure, and counts as the same try.
watch_lease() {
    watch_wait=$(cat "$1/wait")
    case $watch_wait in
    [1-9] | [1-5][0-9]) ;;
    *) watch_wait=$WAIT_SECONDS ;;
    esac
    echo "kubeadm join, try $join_try: $try_reason; again in $watch_wait s" >&2
    report join start "try $join_try: waits: $try_reason; again in $watch_wait s" join_watched
    sleep "$watch_wait"
}

# join KUBEADM ARGS: tries until joined or refused.
join() {
    join_dir=$(mktemp -d) || return 1
    trap 'rm -rf "$join_dir"' EXIT
    trap 'exit 143' TERM INT
    join_try=1
    join_wait=$WAIT_SECONDS
    token_misses=0
    while :; do
        report join start "try $join_try"
        try_join "$join_dir" "$@"
        case $? in
        0)
            # the token's public half: when it is refused one day, its last success is known
            report join ok \
                "try $join_try: joined as $JOIN_NODE${JOIN_BARE:+ (by certificate)}${JOIN_TOKEN:+ (token ${JOIN_TOKEN%%.*})}$(mends)" \
                "" "bootstrap=$(token_name)"
            return 0
            ;;
        2)
            echo "kubeadm join: $try_reason" >&2
            report_failure "try $join_try: $try_reason; not trying again"
            return 1
            ;;
        esac
        if [ "$(cat "$join_dir/cause")" = join_watched ]; then
            watch_lease "$join_dir"
            continue
        fi
        echo "kubeadm join, try $join_try: $try_reason; again in $join_wait s" >&2
        report_failure "try $join_try: $try_reason; again in $join_wait s"
        lend_certificate "$join_dir"
        sleep "$join_wait"
        join_try=$((join_try + 1))
        join_wait=$((join_wait * 2))
        [ "$join_wait" -le "$WAIT_MOST" ] || join_wait=$WAIT_MOST
    done
}

main() {
    kubeadm=$(real_kubeadm) || {
        echo "kubeadm: not in this image (looked in $PATH)" >&2
        return 127
    }
    if ! wants_join "$@" || is_joined; then
        exec "$kubeadm" "$@"
    fi
    parse_join "$@"
    join "$kubeadm" "$@"
}
