"""What machines get of an ltsp.conf by LTSP 23, beside what they get of the lts.conf made of it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from server.addresses import parse_ip
from server.ltsconf.conf import LtsConf, NodeId
from server.ltsconf.ltsp23.evaluate import MENU, SPECIAL, evaluate, evaluate_menu, is_mac
from server.ltsconf.ltsp23.note import CHECK, Note, show
from server.ltsconf.ltsp23.read import Include, Section, Setting
from server.ltsconf.ltsp23.table import REMOVED, Left, map_parameter
from server.ltsconf.order import sort_numbered

ORDERED: Final = {"FSTAB_": "FSTAB_", "POST_INIT_": "PREINIT_"}
"""Families whose order counts: in ltsp.conf, and here."""
MOST_COMPARED: Final = 500
"""Machines that are compared: each costs a walk over all sections."""
_BASE: Final = ("HOSTNAME_BASE", "HOSTNAME_EXTRA")


def compare(sections: Sequence[Section], conf: LtsConf, owned: Collection[str]) -> list[Note]:
    """A note for each difference, of each machine that a section names.

    owned: sections by name of machines that have one by MAC, too, where they are looked at.
    """
    notes: list[Note] = []
    count = 0
    for section in sections:
        if section.name in SPECIAL or "/" in section.name:
            continue
        for pattern in section.patterns:
            node = _imagine(sections, pattern)
            if node is None or pattern in owned:
                continue
            count += 1
            if count > MOST_COMPARED:
                why = f"this machine and those below it are not compared: {MOST_COMPARED} were"
                hint = "bootfarm lts explain FILE --mac … shows what one of them gets"
                return [*notes, Note(section.line, CHECK, f"[{section.name}]", why, hint)]
            notes += _compare_node(sections, section, node, conf)
    return notes


def _imagine(sections: Sequence[Section], pattern: str) -> NodeId | None:
    """A machine that a section is meant for; None for a group that is only included."""
    name = pattern.replace("*", "00" if ":" in pattern else "1").replace("?", "1")
    if is_mac(name):
        named = evaluate(sections, NodeId(mac=name)).get("HOSTNAME")
        fits = named is not None and not named.computed and "%" not in named.value
        return NodeId(named.value if fits and named is not None else None, None, name)
    if parse_ip(name) is not None:
        return NodeId(ip=name)
    is_included = any(
        isinstance(part, Include) and part.name == pattern
        for section in sections
        for part in section.parts
    )
    return None if is_included or ":" in name or not name else NodeId(hostname=name)


def _compare_node(
    sections: Sequence[Section], section: Section, node: NodeId, conf: LtsConf
) -> list[Note]:
    values = evaluate(sections, node)
    menu = evaluate_menu(sections, node)
    wanted, unsure = _convert(
        {key: one for key, one in values.items() if key not in MENU}
        | {key: one for key, one in menu.items() if key in MENU}
    )
    given = _drop_base(dict(conf.resolve(node)))
    who = " ".join(one for one in (node.mac, node.ip, node.hostname) if one)
    found = []
    for key in sorted((wanted.keys() | given.keys()) - unsure):
        if wanted.get(key) != given.get(key):
            theirs, ours = _quote(wanted.get(key)), _quote(given.get(key))
            why = (
                f"{who} has {key} {theirs} in LTSP 23, and {ours} here, where sections count in"
                " another order"
            )
            found.append((why, f"write {key} into [{node.hostname or node.ip or node.mac}]"))
    for theirs, ours in ORDERED.items():
        keys = [
            ours + name.removeprefix(theirs).upper()
            for name in sorted(values)
            if name.startswith(theirs)
        ]
        before = ", ".join(key for key in keys if key in given)
        after = ", ".join(key for key, _ in sort_numbered(given, ours))
        if before != after:
            why = f"{ours}* come in another order: {after}; there {before}"
            found.append((why, "give their names numbers of one width: 01, 02"))
    return [Note(section.line, CHECK, f"[{section.name}]", why, hint) for why, hint in found]


def _convert(values: Mapping[str, Setting]) -> tuple[dict[str, str], set[str]]:
    """What a machine should have here; and keys of which nobody can say, for they are computed."""
    wanted: dict[str, str] = {}
    unsure: set[str] = set()
    removed: list[str] = []
    for name, part in sorted(values.items()):
        outcome = map_parameter(name, part.value)
        if isinstance(outcome, Left):
            # It becomes nothing, but what it overrode may stand further down.
            unsure |= {name.upper(), "PREINIT_" + name.removeprefix("POST_INIT_").upper()}
            unsure |= set(_BASE) if name == "HOSTNAME" else set()
            unsure |= {"IMAGE"} if name == "DEFAULT_IMAGE" else set()
            continue
        keys = {key for key, _ in outcome.values}
        if part.computed:
            unsure |= keys
        elif REMOVED in keys:
            removed += part.value.split()
        else:
            wanted |= dict(outcome.values)
    if removed:
        wanted[REMOVED] = " ".join(dict.fromkeys(removed))
    return _drop_base(wanted), unsure


def _drop_base(values: dict[str, str]) -> dict[str, str]:
    """Without what a HOSTNAME makes useless."""
    if "HOSTNAME" not in values:
        return values
    return {key: value for key, value in values.items() if key not in _BASE}


def _quote(value: str | None) -> str:
    return "not set" if value is None else f'"{show(value)}"'
