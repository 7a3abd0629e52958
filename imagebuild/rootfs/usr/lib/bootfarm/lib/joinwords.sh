# shellcheck shell=sh
# What kubeadm and kubelet say when a join fails, in the one line that the server's page shows.
# tests/server/diagnosis/recorded has what they really said, by version. Sourced.

# refusal LOG: why kubeadm will never succeed with these words; fails if it may.
refusal() {
    if grep -q 'none of the public keys .* are pinned' "$1"; then
        echo "CA hash refused"
    elif grep -q -e 'could not find a JWS signature' -e 'failed to verify JWS signature' \
        -e 'token id .* is invalid for this cluster' "$1"; then
        echo "token refused: expired, unknown or wrong"
    elif grep -q -e 'unknown flag:' -e 'unknown shorthand flag' -e 'the bootstrap token is invalid' \
        -e 'was not of the form' -e 'discovery: Invalid value' -e 'caCertHashes: Invalid value' \
        -e 'uses an old API spec' -e 'can not mix .--config. with' "$1"; then
        echo "command line refused: $(last_error "$1")"
    else
        return 1
    fi
}

# shortened LENGTH: a long line's beginning and end, since Go's errors tell the cause last.
shortened() {
    awk -v most="$1" '{
        if (length($0) > most) $0 = substr($0, 1, int(most / 2)) " ... " substr($0, length($0) - int(most / 2) + 6)
        print
    }'
}

# failed_checks LOG: what kubeadm's preflight refused: the first check's words, the others' names.
# ContainerRuntimeVersion fails with the words of CRI, beside it.
failed_checks() {
    grep -F '[ERROR ' "$1" | sed 's/^[[:space:]]*//' | grep -v '^\[ERROR ContainerRuntimeVersion\]' |
        shortened 300 | awk '
        NR == 1 { first = $0 }
        NR > 1 { name = $2; sub(/\].*/, "", name); others = others ", " name }
        END { if (first != "") print first (others == "" ? "" : "; also" substr(others, 2)) }'
}

# last_error LOG: the line that says most: a failed check of the preflight, else the error itself,
# else the last line; never kubeadm's advice on stack traces and --ignore-preflight-errors.
last_error() {
    if grep -qF '[ERROR ' "$1"; then
        failed_checks "$1"
        return
    fi
    { grep -iE '^(error|fatal|panic|couldn)|invalid|unknown' "$1" ||
        grep -vF -e 'To see the stack trace' -e 'If you know what you are doing' "$1"; } |
        tail -n 1 | sed 's/^[[:space:]]*//;s/^error: error /error /' | shortened 300
}

# kubelet_words LOG: why kubelet ended, in its own words; fails if it does not say. It says so as
# an error of its command (today), as a fatal line (klog's F, 1.20) or by a panic.
kubelet_words() {
    kubelet_last=$(grep -a -e '"command failed" err=' -e '^F[0-9]\{4\} ' -e '^panic: ' \
        -e '"Failed to start [A-Za-z]*" err=' -e 'unknown flag: ' "$1" 2>/dev/null | tail -n 1 |
        sed -e 's/^[EFIW][0-9]\{4\} [^]]*\] //' -e 's/^"[A-Za-z ]*" err="//' -e 's/"$//' \
            -e 's/\\"/"/g' -e 's/^failed to run Kubelet: //' | shortened 260)
    [ -n "$kubelet_last" ] && printf '%s\n' "$kubelet_last"
}

# failure_words LOG KUBELETLOG: why a try failed that may be repeated.
failure_words() {
    if grep -qF -e 'Starting the kubelet' -e 'Waiting for the kubelet' -e kubelet-check "$1" &&
        words_kubelet=$(kubelet_words "$2"); then
        echo "kubelet does not run: $words_kubelet"
        return
    fi
    last_error "$1"
}

# sandbox_words LOG: why kubelet could not begin a pod, whatever is in it; fails if it could.
sandbox_words() {
    sandbox_last=$(grep -a -i 'createPodSandbox for pod .*failed' "$1" 2>/dev/null | tail -n 1 |
        sed -e 's/.*"CreatePodSandbox for pod failed" err="\(.*\)" pod=".*/\1/' \
            -e 's/.*reatePodSandbox for pod "[^"]*" failed: //' -e 's/\\"/"/g' \
            -e 's/^rpc error: code = [A-Za-z]* desc = //' | shortened 260)
    [ -n "$sandbox_last" ] && printf '%s\n' "$sandbox_last"
}
