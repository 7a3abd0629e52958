"""The linter: everything that is wrong or surprising in an lts.conf, in one go.

Errors are what loses something: what LTSP 5 stops or crashes at, reads
otherwise than it looks, or what a node must not do. Warnings are the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from difflib import get_close_matches

from server.ltsconf.conf import decode
from server.ltsconf.glob import is_glob, match_glob
from server.ltsconf.grammar import Document, Entry, Section, parse_document
from server.ltsconf.lint_order import check_order
from server.ltsconf.lint_values import check_entry, redact
from server.ltsconf.lookup import DEFAULT, LIKE, Index
from server.ltsconf.problem import Finding, Outcome, Problem
from server.ltsconf.scan import Included, ReadInclude

MAX_FINDINGS = 1000


Check = Callable[[Document], Iterator[Finding]]

_HOSTNAME = re.compile(rb"[A-Za-z0-9_()]([A-Za-z0-9_.()-]*[A-Za-z0-9_()])?")
_MAC_DASHES = re.compile(rb"([0-9A-Fa-f]{2}-){5}[0-9A-Fa-f]{2}")
_MAC_BARE = re.compile(rb"[0-9A-Fa-f]{12}")
_MAC = re.compile(rb"([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")
_CIDR = re.compile(rb"[0-9.]+/[0-9]+")
_RANGE = re.compile(rb"[0-9]+(\.[0-9]+){3}-[0-9.]+")


def lint(main: Included, read_include: ReadInclude) -> list[Problem]:
    """All problems of a text and its includes, in the order of their places."""
    document = parse_document(main, read_include, recover=True)
    found = {*document.problems, *lint_document(document)}
    return sorted(
        (replace(one, message=redact(one.message), excerpt=redact(one.excerpt)) for one in found),
        key=lambda p: (p.path != main.path, p.path, p.line, p.column, p.code),
    )


def lint_document(document: Document) -> list[Problem]:
    """What is wrong with a text beyond its grammar (which `document.problems` has)."""
    problems = []
    for check in (_check_sections, _check_likes, _check_entries, check_order):
        for severity, code, offset, message, hint in check(document):
            source, line, column = document.locate(offset)
            problems.append(
                Problem(
                    code,
                    severity,
                    Outcome.FINE,
                    source.path,
                    line,
                    column,
                    message,
                    hint,
                    source.excerpt(line),
                )
            )
            if len(problems) >= MAX_FINDINGS:
                return problems
    return problems


def _show(name: bytes) -> str:
    text = decode(name).encode("utf-8", "replace").decode()
    return text if len(text) <= 60 else text[:59] + "…"


def _check_sections(document: Document) -> Iterator[Finding]:
    """Sections that nothing can reach, or not as meant."""
    first: dict[bytes, Section] = {}
    globs: list[Section] = []
    liked = {
        entry.value.lower()
        for section in document.sections
        for entry in section.entries
        if entry.key.lower() == LIKE
    }
    for section in document.sections:
        name = section.name.lower()
        earlier = first.setdefault(name, section)
        if earlier is not section:
            _, line, _ = document.locate(earlier.offset)
            yield Finding(
                "error",
                "duplicate-section",
                section.offset,
                f"the section [{_show(section.name)}] stands here a second time: only the first"
                f" (line {line}) counts",
                "Join the two.",
            )
            continue
        if is_glob(section.name):
            cover = next((one for one in globs if _covers(one.name, section.name)), None)
            if cover is not None and name not in liked:
                _, line, _ = document.locate(cover.offset)
                yield Finding(
                    "warning",
                    "shadowed-section",
                    section.offset,
                    f"[{_show(section.name)}] never applies: whatever it matches is matched by"
                    f" [{_show(cover.name)}] (line {line}) before, and only the first glob counts",
                    "Put the narrower section first, and LIKE the wider one in it.",
                )
            if len(globs) < 200:
                globs.append(section)
        elif name not in liked and name != DEFAULT:
            yield from _check_unreachable(section)


def _check_unreachable(section: Section) -> Iterator[Finding]:
    name = section.name
    shown = _show(name)
    if _MAC_DASHES.fullmatch(name) or (_MAC_BARE.fullmatch(name) and not name.isdigit()):
        plain = re.sub(rb"[^0-9A-Fa-f]", b"", name).lower().decode()
        right = ":".join(plain[i : i + 2] for i in range(0, 12, 2))
        reason, hint = "a MAC address has colons in lts.conf", f"Write [{right}]."
    elif _CIDR.fullmatch(name) or _RANGE.fullmatch(name):
        reason = "networks and ranges of addresses are not understood"
        hint = "Write a glob, for instance [10.9.0.*]."
    elif _HOSTNAME.fullmatch(name) or _MAC.fullmatch(name):
        return
    else:
        reason = "no node has such a name, and no LIKE names it"
        hint = "Correct the name, add a LIKE, or remove the section."
    yield Finding(
        "warning",
        "unreachable-section",
        section.offset,
        f"[{shown}] never applies: {reason}",
        hint,
    )


def _covers(wide: bytes, narrow: bytes) -> bool:
    """Whether all that `narrow` matches is matched by `wide`; only for plain * and ?."""
    if b"[" in narrow or b"\\" in narrow or len(narrow) > 255 or len(wide) > 255:
        return False
    short = narrow.replace(b"?", b"\x01").replace(b"*", b"")
    long = narrow.replace(b"?", b"\x01").replace(b"*", b"\x01\x02\x03")
    return wide != narrow and match_glob(wide, short) and match_glob(wide, long)


def _check_likes(document: Document) -> Iterator[Finding]:
    index = Index(document.sections)
    names = [section.name for section in document.sections]
    for section in document.sections:
        if index.find_exact(section.name) is not section:
            continue
        is_default = section.name.lower() == DEFAULT
        for entry in section.entries:
            if entry.key.lower() != LIKE:
                continue
            if is_default and entry.value.lower() != DEFAULT:
                yield Finding(
                    "warning",
                    "like-in-default",
                    entry.offset,
                    "LIKE in [default] is not followed (but for a host called default)",
                    f"Write LIKE = {_show(entry.value)} in the sections that need it, or put the"
                    " lines into [default].",
                )
            elif index.find_exact(entry.value) is None:
                yield Finding(
                    "warning",
                    "like-unknown",
                    entry.offset,
                    f"LIKE names a section [{_show(entry.value)}] that does not exist, and is"
                    " ignored",
                    _suggest_section(entry.value, names),
                )
    yield from _check_cycles(index)


def _suggest_section(value: bytes, names: list[bytes]) -> str:
    if len(value) > 255:
        return "A LIKE takes one name."
    if value.lower() == b"none":
        return "LIKE is not unset by NONE: remove the line."
    candidates = [_show(name) for name in names[:2000] if len(name) <= 255]
    close = get_close_matches(_show(value), candidates, 1)
    if close:
        return f"Did you mean [{close[0]}]?"
    if b"," in value:
        return "Write one LIKE line for each section."
    return "Correct the name or remove the line."


def _check_cycles(index: Index) -> Iterator[Finding]:
    """LIKE cycles, also those that no node reaches yet. One finding a section on a cycle's way."""
    sections = [s for s in index.sections if index.find_exact(s.name) is s]
    missing = {section.index: 0 for section in sections}
    for section in sections:
        for target in index.list_likes(section):
            missing[target.index] += 1
    ready = [section for section in sections if missing[section.index] == 0]
    while ready:
        section = ready.pop()
        for target in index.list_likes(section):
            missing[target.index] -= 1
            if missing[target.index] == 0:
                ready.append(target)
    left = {section.index for section in sections if missing[section.index] > 0}
    # What is left also holds what cycles include; only those that lead back are told.
    includers: dict[int, int] = dict.fromkeys(left, 0)
    for section in sections:
        if section.index in left:
            includers[section.index] = sum(
                target.index in left for target in index.list_likes(section)
            )
    back: dict[int, list[int]] = {number: [] for number in left}
    for section in sections:
        if section.index in left:
            for target in index.list_likes(section):
                if target.index in left:
                    back[target.index].append(section.index)
    ends = [number for number in left if includers[number] == 0]
    while ends:
        number = ends.pop()
        left.discard(number)
        for before in back[number]:
            includers[before] -= 1
            if includers[before] == 0:
                ends.append(before)
    for section in sections:
        if section.index in left:
            yield Finding(
                "error",
                "like-cycle",
                section.offset,
                f"[{_show(section.name)}] includes itself by LIKE, directly or by way of others:"
                " LTSP 5 crashes on a node that meets it",
                "Remove one LIKE of the circle.",
            )


def _check_entries(document: Document) -> Iterator[Finding]:
    for section in document.sections:
        last: dict[bytes, Entry] = {}
        for entry in section.entries:
            key = entry.key.upper()
            if key != LIKE.upper() and key in last:
                _, line, _ = document.locate(entry.offset)
                yield Finding(
                    "warning",
                    "key-twice",
                    last[key].offset,
                    f"this value of {_show(key)} never applies: the same section sets it again"
                    f" (line {line})",
                    "Remove one of the two; give numbered keys a number each.",
                )
            last[key] = entry
            for severity, code, message, hint in check_entry(document, section, entry):
                yield Finding(severity, code, entry.offset, message, hint)
