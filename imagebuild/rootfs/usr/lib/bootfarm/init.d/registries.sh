# shellcheck shell=sh
# REGISTRY_MIRRORS, or what the recipe has of it, as the image's runtime wants it: containerd's
# certs.d/REGISTRY/hosts.toml, Docker's daemon.json. Sourced.
#
#   REGISTRY=URL[,ca=FILE] …    the same registry again is its next mirror, in this order;
#                               * is every registry without a line of its own; a registry that
#                               is its own mirror is one that speaks plain http, or has that CA

. "$BOOTFARM_LIB/lib/runtime.sh"

CERTS=$BOOTFARM_ROOT/etc/containerd/certs.d
DOCKER_CONFIG=$BOOTFARM_ROOT/etc/docker

# read_mirror WORD: into mirror_registry, mirror_url, mirror_host (of the URL) and mirror_ca;
# fails, with mirror_problem, where it is not one.
read_mirror() {
    mirror_registry=${1%%=*}
    mirror_url=${1#*=}
    mirror_ca=
    case $mirror_url in
    *,ca=*)
        mirror_ca=${mirror_url#*,ca=}
        mirror_url=${mirror_url%%,ca=*}
        ;;
    esac
    mirror_url=${mirror_url%/}
    mirror_host=${mirror_url#*://}
    mirror_host=${mirror_host%%/*}
    mirror_problem="expected REGISTRY=https://HOST[:PORT][,ca=/FILE], or http:// for a plain one"
    case $mirror_registry in
    '*') ;;
    '' | *[!A-Za-z0-9.:-]*) return 1 ;;
    esac
    case $mirror_url in
    https://* | http://*) ;;
    *) return 1 ;;
    esac
    case $mirror_host in
    '' | *[!A-Za-z0-9.:-]*) return 1 ;;
    esac
    case $mirror_url$mirror_ca in
    *[!A-Za-z0-9._~:/%-]*) return 1 ;;
    esac
    case $mirror_ca in
    '') return 0 ;;
    /*) ;;
    *) return 1 ;;
    esac
    mirror_problem="no such file: $mirror_ca"
    [ -r "$BOOTFARM_ROOT$mirror_ca" ]
}

# add_hosts_toml: one mirror into containerd's file of its registry. Without server= the registry
# itself is asked last; one that is its own mirror is asked nowhere else.
add_hosts_toml() {
    toml_name=$mirror_registry
    [ "$toml_name" != '*' ] || toml_name=_default
    toml_file=$CERTS/$toml_name/hosts.toml
    mkdir -p "${toml_file%/*}"
    case " $toml_written " in
    *" $toml_name "*) ;;
    *)
        toml_written="$toml_written $toml_name"
        printf '# REGISTRY_MIRRORS\n' >"$toml_file"
        if [ "$mirror_registry" = "$mirror_host" ]; then
            printf 'server = "%s"\n' "$mirror_url" >>"$toml_file"
        fi
        ;;
    esac
    {
        printf '\n[host."%s"]\n  capabilities = ["pull", "resolve"]\n' "$mirror_url"
        [ -z "$mirror_ca" ] || printf '  ca = "%s"\n' "$mirror_ca"
        # containerd adds /v2 to a bare host only
        [ "$mirror_url" = "${mirror_url%%://*}://$mirror_host" ] ||
            printf '  override_path = true\n'
    } >>"$toml_file"
}

# add_docker: one mirror for Docker, which has mirrors of docker.io and of nothing else.
add_docker() {
    if [ "$mirror_registry" != docker.io ] && [ "$mirror_registry" != "$mirror_host" ]; then
        trouble "REGISTRY_MIRRORS: $mirror_registry: Docker mirrors docker.io only; name images as\
 $mirror_host/…, or take an image with containerd"
        return 0
    fi
    if [ "$mirror_url" != "${mirror_url%%://*}://$mirror_host" ]; then
        trouble "REGISTRY_MIRRORS: $mirror_url: Docker takes no mirror with a path"
        return 0
    fi
    if [ -n "$mirror_ca" ]; then
        mkdir -p "$DOCKER_CONFIG/certs.d/$mirror_host"
        cp "$BOOTFARM_ROOT$mirror_ca" "$DOCKER_CONFIG/certs.d/$mirror_host/ca.crt"
    fi
    if [ "$mirror_registry" = docker.io ]; then
        docker_mirrors="$docker_mirrors${docker_mirrors:+, }\"$mirror_url\""
    fi
    case "$mirror_url $docker_insecure" in
    *"\"$mirror_host\""*) ;; # named before
    http://*) docker_insecure="$docker_insecure${docker_insecure:+, }\"$mirror_host\"" ;;
    esac
}

# set_daemon_key NAME ITEMS: a list more in daemon.json, whatever else stands in it.
set_daemon_key() {
    [ -n "$2" ] || return 0
    daemon_file=$DOCKER_CONFIG/daemon.json
    daemon_text=$(cat "$daemon_file" 2>/dev/null)
    case $daemon_text in
    *"\"$1\""*)
        trouble "REGISTRY_MIRRORS: daemon.json of the image has $1 already, which stays"
        return 0
        ;;
    esac
    mkdir -p "$DOCKER_CONFIG"
    case $(printf '%s' "$daemon_text" | tr -d ' \t\r\n') in
    '' | '{}') printf '{"%s": [%s]}\n' "$1" "$2" >"$daemon_file.new" ;;
    '{'*) printf '{"%s": [%s], %s\n' "$1" "$2" "${daemon_text#*\{}" >"$daemon_file.new" ;;
    *)
        trouble "REGISTRY_MIRRORS: daemon.json of the image is no JSON object"
        return 0
        ;;
    esac
    mv "$daemon_file.new" "$daemon_file"
}

apply_registries() {
    registries=$(flat_get "$FLAT" REGISTRY_MIRRORS) ||
        registries=$(runtime_get registry_mirrors) || return 0
    if ! registries_runtime=$(runtime_get name); then
        [ -z "$registries" ] || trouble "REGISTRY_MIRRORS: the image has no container runtime"
        return 0
    fi
    toml_written=
    docker_mirrors=
    docker_insecure=
    set -f
    # shellcheck disable=SC2086
    set -- $registries
    set +f
    for registries_word in "$@"; do
        if ! read_mirror "$registries_word"; then
            trouble "REGISTRY_MIRRORS: '$registries_word': $mirror_problem"
        elif [ "$registries_runtime" = docker ]; then
            add_docker
        else
            add_hosts_toml
        fi
    done
    set_daemon_key insecure-registries "$docker_insecure"
    set_daemon_key registry-mirrors "$docker_mirrors"
}
