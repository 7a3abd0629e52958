# shellcheck shell=sh
# What a node is to storage: the name of its iSCSI initiator, its NVMe host name and id. Two machines
# with one name throw each other out of a volume, or write into it together; and a target that knows
# a node shall know it at the next boot, whatever image that is. So they come from the machine-id.
# What the recipe or a volume brings stays. Sourced.

# identity_of WORD: 32 hex digits, other ones for each word; the machine-id itself is not shown.
identity_of() {
    printf 'bootfarm %s %s' "$1" "$identity_machine" | sha256sum | cut -c 1-32
}

# as_uuid DIGITS
as_uuid() {
    printf '%s\n' "$1" | sed 's/^\(.\{8\}\)\(.\{4\}\)\(.\{4\}\)\(.\{4\}\)\(.\{12\}\)$/\1-\2-\3-\4-\5/'
}

# lacks_identity FILE: the package is there that reads it, and nothing else said it.
lacks_identity() {
    [ -d "$BOOTFARM_ROOT${1%/*}" ] && [ ! -s "$BOOTFARM_ROOT$1" ]
}

# give_identity FILE LINE
give_identity() {
    printf '%s\n' "$2" >"$BOOTFARM_ROOT$1" || trouble "cannot write $1"
}

give_initiator() {
    lacks_identity /etc/iscsi/initiatorname.iscsi || return 0
    give_identity /etc/iscsi/initiatorname.iscsi \
        "InitiatorName=iqn.1993-08.org.debian:01:$(identity_of iscsi | cut -c 1-12)"
}

# give_host FILE PREFIX: the machine-id as a UUID behind PREFIX.
give_host() {
    lacks_identity "$1" || return 0
    give_identity "$1" "$2$(as_uuid "$identity_machine")"
}

apply_identity() {
    IFS= read -r identity_machine <"$BOOTFARM_ROOT/etc/machine-id" || return 1
    give_initiator
    give_host /etc/nvme/hostid ''
    give_host /etc/nvme/hostnqn nqn.2014-08.org.nvmexpress:uuid:
    give_host /etc/openvswitch/system-id.conf ''
}
