# shellcheck shell=sh
# What the shell of an RCFILE_* line has beside its PATH. Sourced by it.
#
# kubeadm as a function runs the wrapper in a copy of this shell, which read the line from its
# standard input: a token in the line is in no process's arguments, where every user could read it.

kubeadm() (
    set +e
    . "$BOOTFARM_ROOT/usr/lib/bootfarm/lib/wrapper.sh"
    main "$@"
)
