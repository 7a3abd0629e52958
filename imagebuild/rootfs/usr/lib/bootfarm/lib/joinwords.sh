# shellcheck shell=sh
# What kubeadm and kubelet say when a join fails: the cause (a word of server/causes.py, by which
# the server's diagnosis goes), their own words, and the one line that the server's page shows.
# tests/server/diagnosis/recorded has what they really said, by version. Sourced.

# blame DIR CAUSE [WORDS]: notes in DIR/cause why a try fails, in DIR/said what others said of it.
blame() {
    echo "$2" >"$1/cause"
    printf '%s\n' "${3-}" >"$1/said"
}

# refusal LOG: the cause for which kubeadm will never succeed; fails if it may.
refusal() {
    if grep -q 'none of the public keys .* are pinned' "$1"; then
        echo join_ca
    elif grep -q -e 'could not find a JWS signature' -e 'failed to verify JWS signature' \
        -e 'token id .* is invalid for this cluster' "$1"; then
        echo join_token
    elif grep -q -e 'unknown flag:' -e 'unknown shorthand flag' -e 'the bootstrap token is invalid' \
        -e 'was not of the form' -e 'discovery: Invalid value' -e 'caCertHashes: Invalid value' \
        -e 'uses an old API spec' -e 'can not mix .--config. with' "$1"; then
        echo join_line
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

# judge_try DIR: a try of kubeadm that failed, by DIR/join.log and DIR/kubelet.log: its cause, if
# it is known, in DIR/cause, kubeadm's or kubelet's words in DIR/said, and a line for people on
# standard output. Fails if kubeadm may succeed with the next try.
judge_try() {
    judge_said=$(last_error "$1/join.log")
    if judge_cause=$(refusal "$1/join.log"); then
        blame "$1" "$judge_cause" "$judge_said"
        case $judge_cause in
        join_ca) echo "CA hash refused" ;;
        join_token) echo "token refused: expired, unknown or wrong" ;;
        *) echo "command line refused: $judge_said" ;;
        esac
        return 0
    fi
    if grep -qF -e 'Starting the kubelet' -e 'Waiting for the kubelet' -e kubelet-check \
        "$1/join.log" && judge_kubelet=$(kubelet_words "$1/kubelet.log"); then
        blame "$1" join_kubelet "$judge_kubelet"
        echo "kubelet does not run: $judge_kubelet"
    else
        blame "$1" "" "$judge_said"
        printf '%s\n' "$judge_said"
    fi
    return 1
}

# csinode_words LOG: why kubelet, which runs, does not say Ready yet: it asked for its Node before
# the API server had it, and asks again after a pause of its own; fails if that is not the last
# that it said of it.
csinode_words() {
    csinode_last=$(grep -a -i 'failed to initialize CSINode' "$1" 2>/dev/null | tail -n 1 |
        sed -e 's/^[EFIW][0-9]\{4\} [^]]*\] //' -e 's/^"[A-Za-z ]*" err="//' -e 's/"$//' \
            -e 's/\\"/"/g' -e 's/^[Ff]ailed to initialize CSINode: //' | shortened 200)
    [ -n "$csinode_last" ] && printf 'failed to initialize CSINode: %s\n' "$csinode_last"
}

# sandbox_words LOG: why kubelet could not begin a pod, whatever is in it; fails if it could.
sandbox_words() {
    sandbox_last=$(grep -a -i 'createPodSandbox for pod .*failed' "$1" 2>/dev/null | tail -n 1 |
        sed -e 's/.*"CreatePodSandbox for pod failed" err="\(.*\)" pod=".*/\1/' \
            -e 's/.*reatePodSandbox for pod "[^"]*" failed: //' -e 's/\\"/"/g' \
            -e 's/^rpc error: code = [A-Za-z]* desc = //' | shortened 260)
    [ -n "$sandbox_last" ] && printf '%s\n' "$sandbox_last"
}
