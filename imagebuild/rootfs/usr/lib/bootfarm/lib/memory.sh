# shellcheck shell=sh
# What the machine's memory is promised to, each MiB once: the system's reserve, the image in memory,
# /run with the journal, /dev/shm, /dev, the root's overlay and the containers' layers. Sourced; used
# in the initramfs and in the system.

# Devices are made there by the kernel; a file by mistake.
MEMORY_DEV_MIB=8
# Less than this for overlay and containers together is no node: the reserve gives it then.
MEMORY_FLOOR_MIB=128

# total_mib: the machine's memory; nothing where the kernel does not tell it.
total_mib() {
    while read -r total_name total_kib _; do
        if [ "$total_name" = MemTotal: ]; then
            printf '%s\n' "$((total_kib / 1024))"
        fi
    done <"$BOOTFARM_ROOT/proc/meminfo"
}

# size_mib WORD TOTAL: 512M, 2G, 30% (of TOTAL, less than 100%) or a number of MiB -> MiB; fails on
# anything else.
size_mib() {
    size_number=${1%[MmGg%]}
    while :; do
        case $size_number in
        0?*) size_number=${size_number#0} ;; # 010 is ten
        *) break ;;
        esac
    done
    case $size_number in
    '' | *[!0-9]* | ????????*) return 1 ;;
    esac
    case $1 in
    *[Gg]) printf '%s\n' "$((size_number * 1024))" ;;
    *%)
        [ "$size_number" -lt 100 ] || return 1
        printf '%s\n' "$((size_number * $2 / 100))"
        ;;
    *) printf '%s\n' "$size_number" ;;
    esac
}

# wanted_mib FLAT KEY: what lts.conf says of it; fails where it says nothing or nonsense.
wanted_mib() {
    wanted_word=$(flat_get "$1" "$2") || return 1
    wanted_size=$(size_mib "$wanted_word" "$memory_total") || wanted_size=0
    [ "$wanted_size" -eq 0 ] || return 0
    memory_trouble="$memory_trouble$2 is '$wanted_word', no size: write 512M, 2G or 30%; "
    return 1
}

larger() {
    if [ "$1" -gt "$2" ]; then wanted_size=$1; else wanted_size=$2; fi
}

# plan_fixed FLAT: memory_total, memory_reserve, memory_journal, memory_run, memory_shm; fails where
# the machine's memory is not known.
plan_fixed() {
    memory_trouble=
    memory_total=$(total_mib)
    [ -n "$memory_total" ] || return 1
    wanted_mib "$1" MEMORY_RESERVE || larger 256 "$((memory_total / 4))"
    memory_reserve=$wanted_size
    wanted_mib "$1" JOURNAL_SIZE || wanted_size=64
    memory_journal=$wanted_size
    larger "$((memory_total / 10))" "$((memory_journal + 32))"
    memory_run=$wanted_size
    wanted_mib "$1" SHM_SIZE || wanted_size=$((memory_total / 16))
    memory_shm=$wanted_size
}

# plan_memory FLAT IMAGE_MIB: besides, memory_overlay and memory_containers out of what is left;
# memory_trouble holds what of lts.conf cannot be as it says.
plan_memory() {
    plan_fixed "$1" || return 1
    memory_left=$((memory_total - $2 - memory_reserve - memory_run - memory_shm - MEMORY_DEV_MIB))
    if [ "$memory_left" -lt "$MEMORY_FLOOR_MIB" ]; then
        memory_trouble="${memory_trouble}of $memory_total MiB of memory, $2 for the image and $memory_reserve in reserve, only $memory_left are left for overlay and containers: they get $MEMORY_FLOOR_MIB out of the reserve; "
        memory_left=$MEMORY_FLOOR_MIB
    fi
    # memory_overlay, memory_containers: "" where lts.conf does not say it
    memory_overlay=
    memory_containers=
    wanted_mib "$1" OVERLAY_SIZE && memory_overlay=$wanted_size
    wanted_mib "$1" CONTAINERS_SIZE && memory_containers=$wanted_size
    plan_asked=$((${memory_overlay:-0} + ${memory_containers:-0}))
    if [ "$plan_asked" -gt "$((memory_left - 16))" ]; then
        # In proportion, and 16 MiB for one that nobody named.
        if [ "$plan_asked" -gt "$memory_left" ]; then
            memory_trouble="${memory_trouble}OVERLAY_SIZE and CONTAINERS_SIZE ask for $plan_asked MiB, and there are $memory_left; "
        fi
        plan_given=$memory_left
        if [ -z "$memory_overlay" ] || [ -z "$memory_containers" ]; then
            plan_given=$((memory_left - 16))
        fi
        if [ "$plan_asked" -gt "$plan_given" ]; then
            [ -z "$memory_overlay" ] ||
                memory_overlay=$((memory_overlay * plan_given / plan_asked))
            [ -z "$memory_containers" ] ||
                memory_containers=$((memory_containers * plan_given / plan_asked))
        fi
    fi
    if [ -z "$memory_overlay" ] && [ -z "$memory_containers" ]; then
        memory_overlay=$((memory_left * 2 / 5))
    fi
    memory_overlay=${memory_overlay:-$((memory_left - memory_containers))}
    memory_containers=${memory_containers:-$((memory_left - memory_overlay))}
}
