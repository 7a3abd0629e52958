# shellcheck shell=sh
# MODULE_*: a module's name, then its parameters. Sourced.

load_module() {
    set -f
    # shellcheck disable=SC2086 # words, not evaluated
    modprobe $2 || trouble "$1: modprobe $2 failed"
    set +f
}

apply_modules() {
    flat_each "$FLAT" MODULE_ load_module
}
