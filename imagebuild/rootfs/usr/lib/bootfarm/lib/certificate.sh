# shellcheck shell=sh
# The line `kubeadm join` without a token: the node makes a key and a request, and the boot server,
# which knows the machine, has the cluster sign it. All that it answers is public; the key is
# root's alone, in memory, and leaves this machine never. Sourced after state.sh, kube.sh, ownnode.sh
# joinargs.sh and joinwords.sh.

JOIN_PLACE=$BOOTFARM_STATE/join
# Looks, while the boot server waits for the cluster, two seconds apart.
JOIN_LOOKS=${JOIN_LOOKS-15}

# bare_fault: what of such a line cannot be; fails if nothing.
bare_fault() {
    if [ -n "$JOIN_NAMED" ]; then
        echo "--node-name: without a token the boot server says the machine's name"
    elif [ -n "$JOIN_CONTROL" ]; then
        echo "--control-plane: without a token only workers join"
    else
        return 1
    fi
}

# make_request NODE: csr.pem beside key.pem. The key is the same for the whole boot, since a boot
# gets certificates for one.
make_request() {
    private_directory "$JOIN_PLACE"
    if [ ! -s "$JOIN_PLACE/key.pem" ]; then
        (umask 077 && openssl ecparam -genkey -name prime256v1 -noout -out "$JOIN_PLACE/key.new") \
            2>/dev/null || return 1
        mv "$JOIN_PLACE/key.new" "$JOIN_PLACE/key.pem"
    fi
    openssl req -new -sha256 -key "$JOIN_PLACE/key.pem" -subj "/O=system:nodes/CN=system:node:$1" \
        -out "$JOIN_PLACE/csr.pem" 2>/dev/null
}

# answer_field FILE KEY: of the boot server's KEY=value lines, as data.
answer_field() {
    sed -n "s/^$2=//p" "$1" | head -n 1
}

# ask_for_certificate DIR: ca.pem and cert.pem in DIR, the API server in join_server. Fails with a
# reason on standard output, its cause in DIR/cause, and in DIR/wait the seconds after which the
# boot server says that it is worth asking again.
ask_for_certificate() {
    ask_url=http://$(state_get server):$(state_get http || echo 8080)/join
    ask_boot=$(state_get boot-id)
    ask_looks=$JOIN_LOOKS
    ask_pause=0.3
    while :; do
        ask_code=$(kube_call POST "$ask_url" "$1/answer" --data-urlencode "boot=$ask_boot" \
            --data-urlencode "csr@$JOIN_PLACE/csr.pem")
        if [ "$ask_code" != 202 ] || [ "$ask_looks" -le 0 ]; then
            break
        fi
        sleep "$ask_pause"
        ask_pause=2
        ask_looks=$((ask_looks - 1))
    done
    echo join_server >"$1/cause"
    case $ask_code in
    200)
        if take_answer "$1"; then
            : >"$1/cause"
            return 0
        fi
        echo "the boot server's answer is no certificate for this machine's key"
        ;;
    000)
        ask_words=$(cat "$1/answer.err")
        blame "$1" join_server "$ask_words"
        echo "no answer from the boot server: $ask_words"
        ;;
    202) echo "the boot server's certificate is still under way" ;;
    *)
        ask_words=$(answer_field "$1/answer" words)
        if [ -n "$ask_words" ]; then
            answer_field "$1/answer" cause | tr -cd 'a-z_' >"$1/cause"
            answer_field "$1/answer" wait | tr -cd 0-9 >"$1/wait"
            echo "no certificate: $ask_words"
        else
            echo "the boot server gives no certificates (HTTP $ask_code; is it older than this image?)"
        fi
        ;;
    esac
    return 1
}

# take_answer DIR: fails where it is not whole, or for another key.
take_answer() {
    answer_field "$1/answer" ca | openssl base64 -d -A >"$1/ca.pem" 2>/dev/null
    answer_field "$1/answer" certificate | openssl base64 -d -A >"$1/cert.pem" 2>/dev/null
    join_server=$(answer_field "$1/answer" api)
    case $join_server in
    https://?*) ;;
    *) return 1 ;;
    esac
    take_key=$(openssl pkey -pubout -in "$JOIN_PLACE/key.pem" 2>/dev/null)
    [ -s "$1/ca.pem" ] && [ -n "$take_key" ] &&
        [ "$(openssl x509 -noout -pubkey -in "$1/cert.pem" 2>/dev/null)" = "$take_key" ]
}

# prepare_certificate DIR: as the wrapper's `prepare`, for a line without a token.
prepare_certificate() {
    if prepare_fault=$(bare_fault); then
        echo "command line refused: $prepare_fault" >"$1/reason"
        blame "$1" join_line
        return 3
    fi
    if ! make_request "$JOIN_NODE"; then
        echo "openssl makes no key and no certificate request in $JOIN_PLACE" >"$1/reason"
        return 2
    fi
    ask_for_certificate "$1" >"$1/reason" || return 2
    unready_by_certificate "$join_server" "$1/ca.pem" "$1/cert.pem" "$JOIN_PLACE/key.pem" \
        "$JOIN_NODE" "$1" >"$1/reason"
}
