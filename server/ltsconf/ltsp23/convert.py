"""An ltsp.conf as the text of an lts.conf, with a note on each line that needs a person.

What both make of each machine that a section names is compared afterwards, so that a value
that changes on the way is told, whatever the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from server.ltsconf.conf import LtsConf, NodeId, encode
from server.ltsconf.ltsp23.compare import compare
from server.ltsconf.ltsp23.evaluate import (
    EVERYBODY,
    MENU,
    SERVER,
    SPECIAL,
    Calls,
    evaluate,
    evaluate_menu,
    is_mac,
    list_set,
)
from server.ltsconf.ltsp23.note import CHECK, LEFT, Note, show
from server.ltsconf.ltsp23.read import (
    Code,
    Comment,
    Include,
    Part,
    Section,
    Setting,
    read_sections,
)
from server.ltsconf.ltsp23.table import FILES, REMOVED, Left, Mapped, Outcome, map_parameter

_DEFAULT: Final = "default"
_RENAMED: Final = {_DEFAULT: "default_of_ltsp23"}
"""Sections whose name means something else in lts.conf."""


@dataclass(frozen=True)
class Imported:
    """text: an lts.conf. notes: by line. carried: how many lines have become something."""

    text: str
    notes: tuple[Note, ...]
    carried: int


def import_text(text: str) -> Imported:
    """An ltsp.conf's text as an lts.conf's; whatever it holds, this gives an answer."""
    return _Import(read_sections(text)).run()


class _Import:
    def __init__(self, sections: Sequence[Section]) -> None:
        self._sections = sections
        self._calls = Calls(sections)
        self._notes: dict[Note, None] = {}
        self._carried: set[int] = set()
        self._names_machines = any(
            isinstance(part, Setting) and part.name == "HOSTNAME"
            for section in sections
            for part in section.parts
        )
        self._lines: list[str] = []
        self._bodies: list[_Body] = []
        self._owned: set[str] = set()

    def run(self) -> Imported:
        self._write_default()
        for section in self._sections:
            self._write_section(section)
        for body in self._list_filled():
            self._lines += _render(body)
        text = "\n".join(
            ["# From an ltsp.conf of LTSP 23, by `bootfarm lts import`.", *self._lines]
        )
        text = text.rstrip("\n") + "\n"
        conf = LtsConf.parse(encode(text))
        self._notes |= dict.fromkeys(compare(self._sections, conf, self._owned))
        notes = sorted(self._notes, key=lambda note: note.line)
        return Imported(text, tuple(notes), len(self._carried))

    def _note(self, line: int, kind: str, name: str, why: str, hint: str) -> None:
        self._notes[Note(line, kind, name, why, hint)] = None

    # Sections

    def _write_default(self) -> None:
        """[default] of what counts for all machines, includes written out: there is no LIKE."""
        menu = evaluate_menu(self._sections, NodeId())
        parts: list[Part] = [menu[name] for name in MENU if name in menu]
        for section in self._sections:
            if section.name == SERVER and section is self._calls.find(SERVER):
                self._tell_server(section, parts)
        ran: set[str] = set()
        for name in EVERYBODY:
            section_of_all = self._calls.find(name)
            if section_of_all is not None:
                for part in self._unfold(section_of_all, ran):
                    if not (isinstance(part, Setting) and part.name in MENU):
                        parts.append(part)
                    elif part not in parts:
                        self._tell_menu(part)
        for section in self._sections:
            if section.name in SPECIAL:
                self._is_replaced(section)
        written = self._write_parts(parts, lambda name: True)
        if any(map(_is_setting, written)):
            self._lines += ["", "[default]", *written]

    def _tell_server(self, section: Section, counts: Sequence[Part]) -> None:
        for part in section.parts:
            if isinstance(part, Setting) and part not in counts:
                outcome = map_parameter(part.name, part.value)
                if isinstance(outcome, Mapped):
                    why = f"in [{SERVER}] it is about the server itself, not about machines"
                    outcome = Left(why, "move it to [clients] if machines are meant")
                self._leave(part, outcome)
            elif isinstance(part, Code):
                self._tell_code(part)

    def _unfold(self, section: Section, ran: set[str]) -> list[Part]:
        """A section's lines with those that it includes in their place, each section once."""
        if section.name in ran:
            return []
        ran.add(section.name)
        parts: list[Part] = []
        for part in section.parts:
            if not isinstance(part, Include):
                parts.append(part)
                continue
            found = self._calls.find(part.name)
            if found is None:
                self._tell_missing(part)
            else:
                self._carried.add(part.line)
                parts += self._unfold(found, ran)
        return parts

    def _write_section(self, section: Section) -> None:
        if section.name in SPECIAL:
            return
        if "/" in section.name:
            self._note(
                section.line,
                LEFT,
                f"[{section.name}]",
                "it is evaluated by one applet of LTSP only, and these do not exist here",
                "move what lts.conf can do into a section by MAC, IP or name",
            )
            return
        if not section.patterns:
            self._note(section.line, LEFT, f"[{section.name}]", "it has no name", "give it one")
            return
        if section is not self._calls.find(section.patterns[0]) and self._is_replaced(section):
            return
        is_menu = all(is_mac(name) for name in section.patterns)
        likes = [*self._find_likes(section), *self._find_owners(section)]
        parts = self._drop_dead(section)
        lines = self._write_parts(parts, lambda name: is_menu or name not in MENU)
        self._bodies.append(_Body(section, likes, lines))

    def _list_filled(self) -> list["_Body"]:
        """Those sections that give anything, themselves or by what they include."""
        likes: dict[int, list[Section]] = {}
        for body in self._bodies:
            own = likes[body.section.line] = []
            # LTSP ends a circle where it closes; a LIKE must not close one.
            own += [like for like in body.likes if not _reaches(likes, like, body.section)]
        filled = {body.section.line for body in self._bodies if any(map(_is_setting, body.lines))}
        while more := {
            line
            for line, found in likes.items()
            if line not in filled and any(like.line in filled for like in found)
        }:
            filled |= more
        return [
            _Body(
                body.section,
                [like for like in likes[body.section.line] if like.line in filled],
                body.lines,
            )
            for body in self._bodies
            if body.section.line in filled
        ]

    def _is_replaced(self, section: Section) -> bool:
        later = [one for one in self._sections if one.name == section.name]
        if later[-1] is section:
            return False
        self._note(
            section.line,
            LEFT,
            f"[{section.name}]",
            f"LTSP takes the last section of a name, which is that of line {later[-1].line}",
            "move what you need to that one",
        )
        return True

    def _find_likes(self, section: Section) -> list[Section]:
        """What it includes, the last first: in LTSP the last wins, of LIKE lines the first."""
        likes = []
        for part in section.parts:
            if not isinstance(part, Include):
                continue
            found = self._calls.find(part.name)
            if found is None:
                self._tell_missing(part)
                continue
            self._carried.add(part.line)
            if found.name not in SPECIAL and found is not section:  # those have all machines
                likes.append(found)
        return likes[::-1]

    def _find_owners(self, section: Section) -> list[Section]:
        """The section by MAC of the machine that this one names: LTSP goes through both, and here
        the one by name alone would count."""
        owners = []
        for other in self._sections:
            if not is_mac(other.name) or self._calls.find(other.name) is not other:
                continue
            named = evaluate(self._sections, NodeId(mac=other.name)).get("HOSTNAME")
            if named is None or named.computed or named.value.lower() != section.name:
                continue
            reached = Calls(self._sections)
            reached.run_one(other, {})
            if section.name not in reached.ran:
                owners.append(other)
                self._owned.add(section.name)
                self._note(
                    other.line,
                    CHECK,
                    f"[{other.name}]",
                    f"[{section.name}] counts for this machine once the server knows its name",
                    f"hostname: {section.name} in the inventory of farm.yaml, or by DHCP",
                )
        return owners

    def _drop_dead(self, section: Section) -> list[Part]:
        """Its own lines without those that an INCLUDE further down sets again."""
        parts: list[Part] = []
        for at, part in enumerate(section.parts):
            if isinstance(part, Include):
                continue
            later = [one for one in section.parts[at:] if isinstance(one, Include)]
            targets = [(one, self._calls.find(one.name)) for one in later]
            again = [
                one.line
                for one, target in targets
                if isinstance(part, Setting)
                and target is not None
                and part.name in list_set(target, self._sections, section)
            ]
            if again and isinstance(part, Setting):
                self._note(
                    part.line,
                    LEFT,
                    part.name,
                    f"the INCLUDE of line {again[-1]} sets it again, so it never counted",
                    "leave it out, or move it below the INCLUDE",
                )
                continue
            parts.append(part)
        return parts

    # Lines

    def _write_parts(self, parts: Sequence[Part], is_read: Callable[[str], bool]) -> list[str]:
        """The lines of a section; of a parameter that is set again the last one."""
        last = {part.name: part for part in parts if isinstance(part, Setting)}
        services = [
            word
            for name in ("DISABLE_SYSTEM_SERVICES", "MASK_SYSTEM_SERVICES")
            if (one := last.get(name)) is not None and not one.computed
            for word in one.value.split()
        ]
        lines: list[str] = []
        for part in parts:
            if isinstance(part, Comment):
                lines.append("".join(" " if ord(char) < 32 else char for char in part.text))
            elif isinstance(part, Code):
                self._tell_code(part)
            elif isinstance(part, Include):
                continue  # written as LIKE, or unfolded
            elif last[part.name] is not part:
                self._carried.add(part.line)  # what counts stands below
            elif not is_read(part.name):
                self._tell_menu(part)
            else:
                outcome = self._judge(part)
                if isinstance(outcome, Left):
                    self._leave(part, outcome)
                    continue
                self._carried.add(part.line)
                if outcome.check:
                    self._note(part.line, CHECK, part.name, outcome.check, outcome.hint)
                lines += self._write_values(outcome, services)
        return lines

    def _write_values(self, outcome: Mapped, services: list[str]) -> list[str]:
        lines = []
        for key, value in outcome.values:
            if key == REMOVED:
                if not services:
                    continue  # written already, with the other parameter
                value = " ".join(dict.fromkeys(services))
                services.clear()
            lines.append(f'{key} = "{value}"')
        if self._names_machines and any(key == "HOSTNAME_BASE" for key, _ in outcome.values):
            lines.append("HOSTNAME = NONE")  # of a section that counts less
        return lines

    @staticmethod
    def _judge(part: Setting) -> Outcome:
        outcome = map_parameter(part.name, part.value)
        if part.computed and isinstance(outcome, Mapped):
            return Left(
                f"the shell computes a part of it ({part.computed[:40]}), and lts.conf computes"
                " nothing",
                "write the value itself; a template (# jinja2) knows a machine's facts",
            )
        return outcome

    def _leave(self, part: Setting, left: Left) -> None:
        self._note(part.line, LEFT, part.name, left.why, left.hint)

    def _tell_code(self, part: Code) -> None:
        first = part.text.strip().partition("\n")[0]
        shown = show(first if len(first) <= 40 else first[:39] + "…")
        why = "it is a command of the shell, and lts.conf holds no code"
        self._note(part.line, LEFT, shown, why, FILES)

    def _tell_menu(self, part: Setting) -> None:
        outcome = map_parameter(part.name, part.value)
        why = "LTSP reads it in [server] and in a section by one MAC, so here it never counted"
        hint = "leave it out, or move it there"
        if isinstance(outcome, Left):
            why, hint = outcome.why, outcome.hint
        self._note(part.line, LEFT, part.name, why, hint)

    def _tell_missing(self, part: Include) -> None:
        self._note(
            part.line,
            LEFT,
            f"INCLUDE={part.name}",
            f"there is no section [{part.name}]",
            "write that section, or leave the line out",
        )


@dataclass(frozen=True)
class _Body:
    """A section of lts.conf. likes: what it includes, the first wins."""

    section: Section
    likes: list[Section]
    lines: list[str]


def _reaches(likes: Mapping[int, Sequence[Section]], one: Section, other: Section) -> bool:
    """Whether a section includes another, itself or by others. likes: by the line of the head."""
    seen = {one.line}
    waiting = [one.line]
    while waiting:
        line = waiting.pop()
        if line == other.line:
            return True
        more = [like.line for like in likes.get(line, ()) if like.line not in seen]
        seen.update(more)
        waiting += more
    return False


def _is_setting(line: str) -> bool:
    return not line.startswith("#")


def _render(body: _Body) -> list[str]:
    likes = [f'LIKE = "{_find_name(like)}"' for like in body.likes]
    patterns = body.section.patterns
    name = _find_name(body.section)
    lines = ["", f"[{name}]", *likes, *body.lines]
    if len(patterns) > 1:
        for pattern in patterns:
            lines += ["", f"[{_RENAMED.get(pattern, pattern)}]", f'LIKE = "{name}"']
    return lines


def _find_name(section: Section) -> str:
    """What a section is called here; one of several patterns is included by them."""
    if len(section.patterns) > 1:
        return f"either_{section.line}"
    return _RENAMED.get(section.patterns[0], section.patterns[0])
