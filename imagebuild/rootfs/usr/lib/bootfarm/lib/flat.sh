# shellcheck shell=sh
# The flat lts.conf that a node gets (docs/contracts.md), read as data: nothing here evaluates a
# value. Sourced.
#
#   # bootfarm lts.conf
#   KEY="value"        the value is all between the first =" and the line's last "
#   # end

# flat_is_whole FILE: it begins and ends as a flat text does (a cut transfer has no "# end").
flat_is_whole() {
    flat_first=
    flat_last=
    while IFS= read -r flat_line || [ -n "$flat_line" ]; do
        if [ -z "$flat_first" ]; then
            flat_first=$flat_line
        fi
        flat_last=$flat_line
    done <"$1"
    [ "$flat_first" = "# bootfarm lts.conf" ] && [ "$flat_last" = "# end" ]
}

# flat_get FILE KEY: its value; fails if the key is not there.
flat_get() {
    while IFS= read -r flat_line; do
        case $flat_line in
        "$2=\""*\")
            flat_value=${flat_line#*=\"}
            printf '%s\n' "${flat_value%\"}"
            return 0
            ;;
        esac
    done <"$1"
    return 1
}

# flat_words TEXT: its words, which blanks or commas are between, with one blank between them.
flat_words() (
    IFS=', 	'
    set -f
    # shellcheck disable=SC2086
    set -- $1
    IFS=' '
    printf '%s\n' "$*"
)

# flat_is_true FILE KEY: LTSP's booleans.
flat_is_true() {
    case $(flat_get "$1" "$2") in
    [Tt] | [Tt][Rr][Uu][Ee] | [Yy] | [Yy][Ee][Ss] | [Oo][Nn] | 1) return 0 ;;
    esac
    return 1
}

# flat_is_false FILE KEY: set, and to LTSP's no.
flat_is_false() {
    case $(flat_get "$1" "$2") in
    [Ff] | [Ff][Aa][Ll][Ss][Ee] | [Nn] | [Nn][Oo] | [Oo][Ff][Ff] | 0) return 0 ;;
    esac
    return 1
}

# is_flat_key WORD: a name that may be a variable's.
is_flat_key() {
    case $1 in
    '' | [0-9]* | *[!A-Z0-9_]*) return 1 ;;
    esac
    return 0
}

# flat_each FILE PREFIX FUNCTION: FUNCTION KEY VALUE for each key that begins so, in the text's
# order (the server has sorted it). FUNCTION reads its own standard input, not the text.
flat_each() {
    while IFS= read -r flat_line <&9; do
        case $flat_line in
        "$2"*=\"*\")
            flat_key=${flat_line%%=*}
            flat_value=${flat_line#*=\"}
            if is_flat_key "$flat_key"; then
                "$3" "$flat_key" "${flat_value%\"}" 9<&-
            fi
            ;;
        esac
    done 9<"$1"
}
