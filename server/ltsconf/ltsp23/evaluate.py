"""What LTSP 23 itself gives a machine: its sections one after the other, the last word wins."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from server.ltsconf.conf import NodeId
from server.ltsconf.ltsp23.read import UNNAMED, Include, Section, Setting

EVERYBODY: Final = (UNNAMED, "clients", "common")
"""Sections that count for all machines, in LTSP's order."""
SERVER: Final = "server"
SPECIAL: Final = (*EVERYBODY, SERVER)
MENU: Final = ("DEFAULT_IMAGE", "KERNEL_PARAMETERS", "MENU_TIMEOUT")
"""Parameters of `ltsp ipxe`, which asks [server] and sections by MAC."""
_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
Values = dict[str, Setting]


def is_mac(name: str) -> bool:
    """Whether a section is that of one machine, by its MAC."""
    return _MAC.fullmatch(name) is not None


class Calls:
    """The sections as LTSP's functions: each runs once, whoever calls it."""

    def __init__(self, sections: Sequence[Section]) -> None:
        self._sections = sections
        # A function that is defined again replaces the first.
        self._bodies = {section.name: section for section in sections}
        self.ran: set[str] = set()

    def find(self, word: str) -> Section | None:
        """The section that a call of `word` runs."""
        for section in self._sections:
            if section.matches(word):
                return self._bodies[section.name]
        return None

    def run(self, words: Iterable[str], values: Values) -> Values:
        """Call one after the other; `values` with what they set."""
        for word in words:
            section = self.find(word)
            if section is not None:
                self.run_one(section, values)
        return values

    def run_one(self, section: Section, values: Values) -> Values:
        """Run a section itself, unless it ran already."""
        if section.name in self.ran:
            return values
        self.ran.add(section.name)
        for part in section.parts:
            if isinstance(part, Setting):
                values[part.name] = part
            elif isinstance(part, Include):
                self.run([part.name], values)
        return values


def evaluate(sections: Sequence[Section], node: NodeId) -> Values:
    """Each parameter of a machine, with the line that sets it."""
    calls = Calls(sections)
    ids = [one.lower() for one in (node.mac, node.ip) if one]
    values = calls.run([*EVERYBODY, *ids], {})
    return calls.run([node.hostname.lower()] if node.hostname else [], values)


def evaluate_menu(sections: Sequence[Section], node: NodeId) -> Values:
    """The same for `ltsp ipxe`, which asks [server] and sections by one MAC only."""
    values = Calls(sections).run([UNNAMED, "common", SERVER], {})
    if node.mac and any(is_mac(section.name) and section.name == node.mac for section in sections):
        values |= Calls(sections).run([node.mac], {})
    return values


def list_set(section: Section, sections: Sequence[Section], caller: Section) -> set[str]:
    """What a section sets when another includes it, with all that it includes."""
    calls = Calls(sections)
    calls.ran.add(caller.name)
    return set(calls.run_one(section, {}))
