# shellcheck shell=sh
# What the wrapper must know of a `kubeadm join` line. Sourced after kube.sh.
#
# shellcheck disable=SC2034 # used by who sources it
#
# Sets JOIN_ENDPOINT JOIN_TOKEN JOIN_HASHES (blank-separated) JOIN_NODE JOIN_CONFIG JOIN_UNSAFE.

# join_option NAME VALUE
join_option() {
    case $1 in
    --token) JOIN_TOKEN=$2 ;;
    --discovery-token) JOIN_DISCOVERY=$2 ;;
    --tls-bootstrap-token) JOIN_TLS=$2 ;;
    --discovery-token-ca-cert-hash) JOIN_HASHES="$JOIN_HASHES $(printf '%s' "$2" | tr ',' ' ')" ;;
    --node-name) JOIN_NODE=$2 ;;
    --config) JOIN_CONFIG=$2 ;;
    esac
}

# takes_value OPTION: its value may stand in the next word.
takes_value() {
    case $1 in
    --token | --discovery-token | --tls-bootstrap-token | --discovery-token-ca-cert-hash | \
        --discovery-file | --node-name | --config | --cri-socket | --ignore-preflight-errors | \
        --patches | --experimental-patches | --skip-phases | --apiserver-advertise-address | \
        --apiserver-bind-port | --certificate-key | --rootfs | --v | -v) return 0 ;;
    esac
    return 1
}

# yaml_value FILE KEY: of a plain `key: value` line of kubeadm's configuration.
yaml_value() {
    sed -n "s/^[ -]*$2: *[\"']\{0,1\}\([^\"' #]*\).*/\1/p" "$1" | head -n 1
}

read_join_config() {
    [ -r "$JOIN_CONFIG" ] || return 0
    [ -n "$JOIN_ENDPOINT" ] || JOIN_ENDPOINT=$(yaml_value "$JOIN_CONFIG" apiServerEndpoint)
    [ -n "$JOIN_TOKEN" ] || JOIN_TOKEN=$(yaml_value "$JOIN_CONFIG" token)
    [ -n "$JOIN_NODE" ] || JOIN_NODE=$(yaml_value "$JOIN_CONFIG" name)
    JOIN_HASHES="$JOIN_HASHES $(sed -n 's/^[ -]*["'\'']\{0,1\}\(sha256:[0-9a-fA-F]*\).*/\1/p' \
        "$JOIN_CONFIG" | tr '\n' ' ')"
}

parse_join() {
    JOIN_ENDPOINT='' JOIN_TOKEN='' JOIN_HASHES='' JOIN_NODE='' JOIN_CONFIG='' JOIN_UNSAFE=''
    JOIN_DISCOVERY='' JOIN_TLS=''
    while [ $# -gt 0 ]; do
        case $1 in
        --discovery-token-unsafe-skip-ca-verification | \
            --discovery-token-unsafe-skip-ca-verification=true) JOIN_UNSAFE=yes ;;
        --*=*) join_option "${1%%=*}" "${1#*=}" ;;
        -*)
            if takes_value "$1" && [ $# -gt 1 ]; then
                join_option "$1" "$2"
                shift
            fi
            ;;
        join) ;;
        *) [ -n "$JOIN_ENDPOINT" ] || JOIN_ENDPOINT=$1 ;;
        esac
        shift
    done
    [ -n "$JOIN_TOKEN" ] || JOIN_TOKEN=${JOIN_DISCOVERY:-$JOIN_TLS}
    [ -z "$JOIN_CONFIG" ] || read_join_config
    JOIN_NODE=$(printf '%s' "${JOIN_NODE:-$(own_node_name)}" | tr '[:upper:]' '[:lower:]')
}
