# shellcheck shell=sh
# NODE_LABELS and NODE_TAINTS: what of them kubelet takes, and what is to be said to the API server
# once the node has joined, since kubelet sets them only where it makes its Node, and a Node is
# kept over reboots. server/ltsconf/lint_nodes.py has the same rules, and their sources. Sourced
# after state.sh.
#
# What counts stands one a line in node-labels and node-taints below $BOOTFARM_STATE.

LABEL_NAME='[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?'
LABEL_PREFIX='([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?[.])*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/'
LABEL_OWN='kubernetes.io/hostname kubernetes.io/os kubernetes.io/arch topology.kubernetes.io/zone
topology.kubernetes.io/region failure-domain.beta.kubernetes.io/zone
failure-domain.beta.kubernetes.io/region beta.kubernetes.io/instance-type beta.kubernetes.io/os
beta.kubernetes.io/arch'

# is_node_label WORD: KEY=VALUE that kubelet and NodeRestriction let a node set on itself.
is_node_label() {
    printf '%s\n' "$1" | grep -Eq "^($LABEL_PREFIX)?$LABEL_NAME=($LABEL_NAME)?\$" || return 1
    label_key=${1%%=*}
    case $label_key in
    node.kubernetes.io/* | *.node.kubernetes.io/* | kubelet.kubernetes.io/* | \
        *.kubelet.kubernetes.io/*) return 0 ;;
    kubernetes.io/* | *.kubernetes.io/* | k8s.io/* | *.k8s.io/*)
        for label_own in $LABEL_OWN; do
            [ "$label_key" != "$label_own" ] || return 0
        done
        return 1
        ;;
    esac
}

# is_node_taint WORD: KEY=VALUE:EFFECT or KEY:EFFECT.
is_node_taint() {
    printf '%s\n' "$1" |
        grep -Eq "^($LABEL_PREFIX)?$LABEL_NAME(=($LABEL_NAME)?)?:(NoSchedule|PreferNoSchedule|NoExecute)\$"
}

# with_commas FILE: its lines as one word.
with_commas() {
    paste -s -d , "$1"
}

# labels_before NODE.JSON: keys that a boot before has set, one a line.
labels_before() {
    grep -o '"bootfarm\.io/labels":"[A-Za-z0-9_./,-]*"' "$1" | head -n 1 | cut -d '"' -f 4 |
        tr ',' '\n' | grep -E "^($LABEL_PREFIX)?$LABEL_NAME\$"
}

# labels_patch NODE.JSON: a merge patch for the own Node; fails where there is nothing to say.
# An annotation keeps which labels are bootfarm's, so that others stay.
labels_patch() {
    patch_wanted=$(cat "$BOOTFARM_STATE/node-labels" 2>/dev/null)
    patch_before=$(labels_before "$1")
    [ -n "$patch_wanted$patch_before" ] || return 1
    patch_keys=$(printf '%s\n' "$patch_wanted" | cut -d = -f 1)
    patch_text=
    for patch_key in $patch_before; do
        printf '%s\n' "$patch_keys" | grep -Fqx "$patch_key" ||
            patch_text="$patch_text${patch_text:+,}\"$patch_key\":null"
    done
    for patch_word in $patch_wanted; do
        patch_text="$patch_text${patch_text:+,}\"${patch_word%%=*}\":\"${patch_word#*=}\""
    done
    patch_note=null
    [ -z "$patch_wanted" ] || patch_note="\"$(printf '%s\n' "$patch_keys" | paste -s -d , -)\""
    printf '{"metadata":{"annotations":{"bootfarm.io/labels":%s},"labels":{%s}}}\n' \
        "$patch_note" "$patch_text"
}

# missing_taints NODE.JSON: those that the Node has not, one a line.
missing_taints() {
    [ -s "$BOOTFARM_STATE/node-taints" ] || return 0
    while IFS= read -r taint_word; do
        taint_key=${taint_word%:*}
        taint_text=\"key\":\"${taint_key%%=*}\"
        case $taint_key in
        *=?*) taint_text="$taint_text,\"value\":\"${taint_key#*=}\"" ;;
        esac
        grep -Fq "{$taint_text,\"effect\":\"${taint_word##*:}\"" "$1" ||
            printf '%s\n' "$taint_word"
    done <"$BOOTFARM_STATE/node-taints"
}
