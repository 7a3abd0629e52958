# shellcheck shell=sh
# PREINIT_*: the last step before systemd, so that it may change what the others wrote. Sourced.

. "$BOOTFARM_LIB/init.d/environment.sh"

apply_preinit() {
    flat_each "$FLAT" PREINIT_ run_command
}
