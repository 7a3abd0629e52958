"""Which section names can match a node at all: its host name, its IPv4 address, its MAC.

A name, plain or a glob, is followed through three small automata, one for each
kind of id; if none of them can accept what it matches, no node ever gets the
section. Host names are those that the server knows: one label, no domain.
"""

from __future__ import annotations

import re
from functools import lru_cache

from server.addresses import explain_no_card, explain_no_host, parse_ip, parse_mac
from server.ltsconf.glob import Token, is_glob, parse_glob

_LABEL = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_()-")
_DIGITS = frozenset(b"0123456789")
_HEX = frozenset(b"0123456789abcdefABCDEF")
_MAX_LABEL = 63
"""Characters of a label of a host name (RFC 1035, 2.3.4)."""
_LONGEST = 512
"""Bytes of a section's name that is looked at; a longer one is taken to be reachable."""

State = tuple[int, int]


class _Label:
    """A host name: 1 to 63 characters."""

    longest = _MAX_LABEL
    start: State = (0, 0)

    def step(self, state: State) -> list[tuple[frozenset[int], State]]:
        return [(_LABEL, (state[0] + 1, 0))] if state[0] < _MAX_LABEL else []

    def accepts(self, state: State) -> bool:
        return state[0] > 0


# What of a number from 0 to 255, without leading zeros, has been read, and what may follow.
_NONE, _WHOLE, _ONE, _TWO, _MORE, _TWENTY_FIVE = range(6)
_OCTET: dict[int, tuple[tuple[frozenset[int], int], ...]] = {
    _NONE: (
        (frozenset(b"0"), _WHOLE),
        (frozenset(b"1"), _ONE),
        (frozenset(b"2"), _TWO),
        (frozenset(b"3456789"), _MORE),
    ),
    _WHOLE: (),
    _ONE: ((_DIGITS, _MORE),),
    _TWO: (
        (frozenset(b"01234"), _MORE),
        (frozenset(b"5"), _TWENTY_FIVE),
        (frozenset(b"6789"), _WHOLE),
    ),
    _MORE: ((_DIGITS, _WHOLE),),
    _TWENTY_FIVE: ((frozenset(b"012345"), _WHOLE),),
}


class _Address:
    """Four numbers from 0 to 255. A state is (which number, what has been read of it)."""

    longest = 15
    start: State = (0, _NONE)

    def step(self, state: State) -> list[tuple[frozenset[int], State]]:
        number, read = state
        found = [(chars, (number, after)) for chars, after in _OCTET[read]]
        if read != _NONE and number < 3:
            found.append((frozenset(b"."), (number + 1, _NONE)))
        return found

    def accepts(self, state: State) -> bool:
        return state[0] == 3 and state[1] != _NONE


class _Mac:
    """Six pairs of hexadecimal digits with colons. A state is (character, 0)."""

    longest = 17
    start: State = (0, 0)

    def step(self, state: State) -> list[tuple[frozenset[int], State]]:
        at = state[0]
        if at >= 17:
            return []
        return [(frozenset(b":") if at % 3 == 2 else _HEX, (at + 1, 0))]

    def accepts(self, state: State) -> bool:
        return state[0] == 17


_AUTOMATA = (_Label(), _Address(), _Mac())


@lru_cache(maxsize=4096)
def can_match(name: bytes) -> bool:
    """Whether a section of this name can be some node's."""
    if len(name) > _LONGEST:
        return True  # nobody writes a name this long, and following it costs time
    if is_glob(name):
        tokens = parse_glob(name)
        if tokens is None:
            return False
    else:
        tokens = [frozenset((byte,)) for byte in name]
    needed = sum(token is not None for token in tokens)
    return any(needed <= one.longest and _meet(tokens, one) for one in _AUTOMATA)


def _meet(tokens: list[Token], automaton: _Label | _Address | _Mac) -> bool:
    """Whether some text is matched by the tokens and accepted by the automaton."""
    todo = [(0, automaton.start)]
    seen = set(todo)
    while todo:
        at, state = todo.pop()
        if at == len(tokens):
            if automaton.accepts(state):
                return True
            continue
        token = tokens[at]
        following: list[tuple[int, State]] = []
        if token is None:
            following.append((at + 1, state))
            following += [(at, after) for _, after in automaton.step(state)]
        else:
            following += [(at + 1, to) for chars, to in automaton.step(state) if chars & token]
        for one in following:
            if one not in seen:
                seen.add(one)
                todo.append(one)
    return False


def explain_unreachable(name: bytes) -> tuple[str, str] | None:
    """Why no node can have a section of this name, and the remedy; None if one can.

    A name that is spelt as a MAC address elsewhere (dashes, dots, without anything) is
    told too, although a host could be called so.
    """
    text = name.decode("utf-8", "replace")
    right = _respell_mac(text)
    if right is not None:
        return "a MAC address has colons in lts.conf", f"Write [{right}]."
    mac, ip = parse_mac(text), parse_ip(text)
    if why := explain_no_card(mac) if mac else explain_no_host(ip) if ip else "":
        return f"it {why}", "Write the address of one machine, or a glob, for instance [10.9.0.*]."
    if can_match(name):
        return None
    if re.fullmatch(r"[0-9.]+/[0-9]+|[0-9]+(\.[0-9]+){3}-[0-9.]+", text):
        return "networks and ranges of addresses are not understood", (
            "Write a glob, for instance [10.9.0.*]."
        )
    for sign, words in (("|", "alternatives with |"), (",", "lists with ,"), ("/", "a /")):
        if sign in text:
            return f"no host name, IP or MAC has {words}", (
                "Write a section for each, and LIKE in them where they share their lines."
            )
    if re.search(r"\s", text):
        return "no host name, IP or MAC has a blank, and no LIKE names it", (
            "Correct the name, add a LIKE, or remove the section."
        )
    if re.fullmatch(r"[0-9.*?]+", text):
        return "an IPv4 address has four numbers from 0 to 255", "Correct the name."
    if re.fullmatch(r"[0-9A-Fa-f:*?]+", text) and ":" in text:
        return "a MAC address has six pairs of hexadecimal digits", "Correct the name."
    if is_glob(name):
        return "no host name, IP or MAC looks so", (
            "Correct the name: * stands for any characters, ? for one, [ab] for one of them."
        )
    if "." in text and re.fullmatch(r"[A-Za-z0-9_.-]+", text):
        return "the server knows host names without their domain", (
            f"Write [{text.partition('.')[0]}], or LIKE it where it is meant."
        )
    return "no node has such a name, and no LIKE names it", (
        "Correct the name, add a LIKE, or remove the section."
    )


def _respell_mac(text: str) -> str | None:
    """A MAC address, or the first three pairs of one and a *, in another spelling, put right."""
    pair = "[0-9A-Fa-f]{2}"
    if match := re.fullmatch(rf"(?:01-)?({pair}(?:-{pair}){{5}})", text):
        return match[1].replace("-", ":").lower()
    if match := re.fullmatch(r"([0-9A-Fa-f]{4})[.:-]([0-9A-Fa-f]{4})[.:-]([0-9A-Fa-f]{4})", text):
        return _pair_up("".join(match.groups()))
    if re.fullmatch(r"[0-9A-Fa-f]{12}", text):
        return _pair_up(text)
    if match := re.fullmatch(rf"(?:01-)?((?:{pair}-){{3,5}})([0-9A-Fa-f?*-]*)", text):
        if "*" in match[2] or "?" in match[2]:
            return (match[1] + match[2]).replace("-", ":").lower()
        return None
    if match := re.fullmatch(r"((?:[0-9A-Fa-f]{4}\.){1,2})[0-9A-Fa-f]{0,3}\*", text):
        plain = match[1].replace(".", "")
        # 5254.00* names three pairs; the * stands for a half pair, too.
        rest = text[len(match[1]) : -1]
        plain += rest[: len(rest) // 2 * 2]
        return _pair_up(plain) + ":*"
    match = re.fullmatch(r"((?:[0-9A-Fa-f]{2}){3,5})\*", text)
    return _pair_up(match[1]) + ":*" if match and not match[1].isdigit() else None


def _pair_up(plain: str) -> str:
    plain = plain.lower()
    return ":".join(plain[i : i + 2] for i in range(0, len(plain), 2))
