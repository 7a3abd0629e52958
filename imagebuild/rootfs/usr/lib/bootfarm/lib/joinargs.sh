# shellcheck shell=sh
# What the wrapper must know of a `kubeadm join` line. Sourced after kube.sh.
#
# shellcheck disable=SC2034 # used by who sources it
#
# Sets JOIN_ENDPOINT JOIN_TOKEN (for discovery) JOIN_TLS (for the node's first certificate)
# JOIN_HASHES (blank-separated) JOIN_NODE JOIN_NAMED (--node-name is there) JOIN_CONFIG JOIN_FILE
# JOIN_UNSAFE JOIN_SOCKET JOIN_CONTROL JOIN_BARE (nothing says which cluster: the boot server does).

# join_option NAME VALUE
join_option() {
    case $1 in
    --token) JOIN_BOTH=$2 ;;
    --discovery-token) JOIN_TOKEN=$2 ;;
    --tls-bootstrap-token) JOIN_TLS=$2 ;;
    --discovery-token-ca-cert-hash) JOIN_HASHES="$JOIN_HASHES $(printf '%s' "$2" | tr ',' ' ')" ;;
    --discovery-file) JOIN_FILE=$2 ;;
    --node-name) JOIN_NODE=$2 JOIN_NAMED=yes ;;
    --config) JOIN_CONFIG=$2 ;;
    --cri-socket) JOIN_SOCKET=$2 ;;
    esac
}

# takes_value OPTION: its value may stand in the next word.
takes_value() {
    case $1 in
    --token | --discovery-token | --tls-bootstrap-token | --discovery-token-ca-cert-hash | \
        --discovery-file | --node-name | --config | --cri-socket | --ignore-preflight-errors | \
        --patches | --experimental-patches | --skip-phases | --apiserver-advertise-address | \
        --apiserver-bind-port | --certificate-key | --rootfs | --v | -v | --vmodule) return 0 ;;
    esac
    return 1
}

# is_endpoint WORD: HOST:PORT. Any other free word is the value of an option that is unknown here.
is_endpoint() {
    case $1 in
    *[/=,[:space:]]*) return 1 ;;
    ?*:[0-9]*) ;;
    *) return 1 ;;
    esac
    case ${1##*:} in
    *[!0-9]*) return 1 ;;
    esac
    return 0
}

# is_token WORD: as kubeadm makes them.
is_token() {
    [ "${#1}" -eq 23 ] || return 1
    case $1 in
    *[!a-z0-9.]* | *.*.*) return 1 ;;
    ??????.????????????????) return 0 ;;
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
    [ -n "$JOIN_TLS" ] || JOIN_TLS=$(yaml_value "$JOIN_CONFIG" tlsBootstrapToken)
    [ -n "$JOIN_NODE" ] || JOIN_NODE=$(yaml_value "$JOIN_CONFIG" name)
    JOIN_SOCKET=$(yaml_value "$JOIN_CONFIG" criSocket)
    JOIN_HASHES="$JOIN_HASHES $(sed -n 's/^[ -]*["'\'']\{0,1\}\(sha256:[0-9a-fA-F]*\).*/\1/p' \
        "$JOIN_CONFIG" | tr '\n' ' ')"
}

parse_join() {
    JOIN_ENDPOINT='' JOIN_TOKEN='' JOIN_TLS='' JOIN_BOTH='' JOIN_HASHES='' JOIN_NODE=''
    JOIN_CONFIG='' JOIN_FILE='' JOIN_UNSAFE='' JOIN_SOCKET='' JOIN_NAMED='' JOIN_CONTROL=''
    JOIN_BARE=''
    while [ $# -gt 0 ]; do
        case $1 in
        --discovery-token-unsafe-skip-ca-verification | \
            --discovery-token-unsafe-skip-ca-verification=true) JOIN_UNSAFE=yes ;;
        --control-plane | --control-plane=true) JOIN_CONTROL=yes ;;
        --*=*) join_option "${1%%=*}" "${1#*=}" ;;
        -*)
            if takes_value "$1" && [ $# -gt 1 ]; then
                join_option "$1" "$2"
                shift
            fi
            ;;
        *)
            if [ -z "$JOIN_ENDPOINT" ] && is_endpoint "$1"; then
                JOIN_ENDPOINT=$1
            fi
            ;;
        esac
        shift
    done
    if [ -z "$JOIN_ENDPOINT$JOIN_BOTH$JOIN_TOKEN$JOIN_TLS$JOIN_HASHES$JOIN_FILE$JOIN_CONFIG" ]; then
        JOIN_BARE=yes
    fi
    # As kubeadm does: --token is for both uses, and each may have one of its own.
    JOIN_TOKEN=${JOIN_TOKEN:-$JOIN_BOTH}
    JOIN_TLS=${JOIN_TLS:-$JOIN_BOTH}
    [ -z "$JOIN_CONFIG" ] || read_join_config
    JOIN_TLS=${JOIN_TLS:-$JOIN_TOKEN}
    JOIN_NODE=$(printf '%s' "${JOIN_NODE:-$(own_node_name)}" | tr '[:upper:]' '[:lower:]')
}

# line_fault: what kubeadm would refuse of the line's discovery by token; fails if nothing. Where
# the wrapper takes the discovery over, nobody else looks.
line_fault() {
    if [ -z "$JOIN_ENDPOINT" ]; then
        echo "no API server (HOST:PORT) in it"
    elif ! is_token "$JOIN_TOKEN" || ! is_token "$JOIN_TLS"; then
        echo "the token is not of the form abcdef.0123456789abcdef"
    elif [ -z "$(printf '%s' "$JOIN_HASHES" | tr -d ' ')" ] && [ -z "$JOIN_UNSAFE" ]; then
        echo "no --discovery-token-ca-cert-hash (nor --discovery-token-unsafe-skip-ca-verification)"
    else
        return 1
    fi
}
