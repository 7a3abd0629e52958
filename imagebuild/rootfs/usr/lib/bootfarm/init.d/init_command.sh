# shellcheck shell=sh
# INIT_COMMAND_*: commands of LTSP 5's init-ltsp, before PREINIT_*. Sourced.

. "$BOOTFARM_LIB/init.d/environment.sh"

apply_init_command() {
    flat_each "$FLAT" INIT_COMMAND_ run_command
}
