# shellcheck shell=sh
# Messages for whoever stands before the machine. Sourced; used in the initramfs and in the system.

BOOTFARM_ROOT=${BOOTFARM_ROOT-}

say() {
    printf 'bootfarm: %s\n' "$*"
}

# mask_tokens: standard input, the secret halves of bootstrap tokens left out. For words that are
# shown, or that go to another program as arguments.
mask_tokens() {
    sed 's/\([a-z0-9]\{6\}\)\.[a-z0-9]\{16\}/\1.(secret)/g'
}

# The consoles that the kernel writes to, as paths; /dev/console is only the last of them.
consoles() {
    # shellcheck disable=SC2013 # words are what it holds
    for console in $(cat "$BOOTFARM_ROOT/sys/class/tty/console/active" 2>/dev/null); do
        if [ "$console" = tty0 ]; then
            console=tty1
        fi
        if [ -e "$BOOTFARM_ROOT/dev/$console" ]; then
            printf '%s\n' "$BOOTFARM_ROOT/dev/$console"
        fi
    done
}

# What must be seen goes to every console, not only to the last one.
shout() {
    shouted=
    for console in $(consoles); do
        if printf '\r\nbootfarm: %s\r\n' "$*" 2>/dev/null >"$console"; then
            shouted=yes
        fi
    done
    if [ -z "$shouted" ]; then
        say "$*" >&2
    fi
}
