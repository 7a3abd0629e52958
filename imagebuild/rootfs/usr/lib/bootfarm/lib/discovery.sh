# shellcheck shell=sh
# How kubeadm gets a token, or the boot's certificate and key, without reading it on its command
# line, where every process may: in a discovery file (a kubeconfig, 0600), which takes the place of
# the endpoint and of the options that name tokens and pins. All other options stay as they are, known here or not. Sourced after
# joinargs.sh.

# discovery_head SERVER CAFILE: all but what the user has.
discovery_head() {
    printf 'apiVersion: v1\nkind: Config\n'
    printf 'clusters:\n- cluster:\n    certificate-authority-data: %s\n    server: %s\n' \
        "$(openssl base64 -A -in "$2")" "$1"
    printf '  name: kubernetes\n'
    printf 'contexts:\n- context:\n    cluster: kubernetes\n    user: bootstrap\n  name: join\n'
    printf 'current-context: join\nusers:\n- name: bootstrap\n  user:\n'
}

# write_discovery SERVER CAFILE TOKEN OUTPUT
write_discovery() {
    (
        umask 077
        {
            discovery_head "$1" "$2"
            printf '    token: %s\n' "$3"
        } >"$4"
    )
}

# write_certificate_discovery SERVER CAFILE CERT KEY OUTPUT
write_certificate_discovery() {
    (
        umask 077
        {
            discovery_head "$1" "$2"
            printf '    client-certificate-data: %s\n' "$(openssl base64 -A -in "$3")"
            printf '    client-key-data: %s\n' "$(openssl base64 -A -in "$4")"
        } >"$5"
    )
}

# is_discovery_option WORD: it names a token or a pin.
is_discovery_option() {
    case ${1%%=*} in
    --token | --discovery-token | --tls-bootstrap-token | --discovery-token-ca-cert-hash | \
        --discovery-token-unsafe-skip-ca-verification | --discovery-file) return 0 ;;
    esac
    return 1
}

# with_discovery FILE FUNCTION ARGS: FUNCTION with the line's ARGS, discovery by FILE.
with_discovery() {
    discovery_file=$1
    discovery_function=$2
    shift 2
    discovery_left=$#
    while [ "$discovery_left" -gt 0 ]; do
        discovery_word=$1
        shift
        discovery_left=$((discovery_left - 1))
        if is_discovery_option "$discovery_word"; then
            case $discovery_word in
            *=* | --discovery-token-unsafe-skip-ca-verification) ;;
            *)
                if [ "$discovery_left" -gt 0 ]; then
                    shift
                    discovery_left=$((discovery_left - 1))
                fi
                ;;
            esac
        elif takes_value "$discovery_word" && [ "$discovery_left" -gt 0 ]; then
            set -- "$@" "$discovery_word" "$1"
            shift
            discovery_left=$((discovery_left - 1))
        elif [ "$discovery_word" != "$JOIN_ENDPOINT" ]; then
            set -- "$@" "$discovery_word"
        fi
    done
    "$discovery_function" "$@" --discovery-file "$discovery_file"
}

# with_config FILE FUNCTION ARGS: FUNCTION with the line's ARGS, the configuration being FILE.
with_config() {
    config_file=$1
    config_function=$2
    shift 2
    config_left=$#
    while [ "$config_left" -gt 0 ]; do
        config_word=$1
        shift
        config_left=$((config_left - 1))
        case $config_word in
        --config)
            set -- "$@" --config "$config_file"
            [ "$config_left" -eq 0 ] || shift
            config_left=$((config_left - 1))
            ;;
        --config=*) set -- "$@" "--config=$config_file" ;;
        *) set -- "$@" "$config_word" ;;
        esac
    done
    "$config_function" "$@"
}

# config_with_socket FILE SOCKET: the configuration with the socket in its JoinConfiguration, whose
# nodeRegistration is a block or is missing; fails where it is written otherwise.
config_with_socket() {
    awk -v socket="$2" '
        function flush_document(  i, at, indent) {
            for (i = 1; i <= count; i++) {
                if (line[i] ~ /^kind: *"?JoinConfiguration/) is_join = 1
                if (line[i] ~ /^nodeRegistration: *(#.*)?$/) at = i
                else if (line[i] ~ /^nodeRegistration:/) refused = 1
            }
            indent = "  "
            if (at && line[at + 1] ~ /^ +[^ ]/) { match(line[at + 1], /^ +/); indent = substr(line[at + 1], 1, RLENGTH) }
            for (i = 1; i <= count; i++) {
                print line[i]
                if (is_join && i == at) print indent "criSocket: \"" socket "\""
            }
            if (is_join && !at) print "nodeRegistration:\n  criSocket: \"" socket "\""
            if (is_join) done = 1
            count = 0; is_join = 0
        }
        /^---/ { flush_document(); print; next }
        { line[++count] = $0 }
        END { flush_document(); exit !done || refused }
    ' "$1"
}
