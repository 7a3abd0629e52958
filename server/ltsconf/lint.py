"""The linter: everything that is wrong or surprising in an lts.conf, in one go.

Errors are what loses something: what LTSP 5 stops or crashes at, reads
otherwise than it looks, or what a node must not do. Warnings are the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from typing import Any

from server.ltsconf.conf import decode
from server.ltsconf.glob import is_glob, match_glob
from server.ltsconf.grammar import Document, Entry, Section, parse_document
from server.ltsconf.interface import Conf
from server.ltsconf.lint_order import check_order, check_twice
from server.ltsconf.lint_shell import check_shell
from server.ltsconf.lint_values import check_entry, find_braces, redact
from server.ltsconf.lookup import DEFAULT, LIKE, Index
from server.ltsconf.problem import Finding, Problem
from server.ltsconf.reach import explain_unreachable
from server.ltsconf.scan import Included, ReadInclude
from server.ltsconf.template import Facts

MAX_FINDINGS = 1000
"""Of one text: nobody reads more."""
_LONGEST = 16384  # bytes of a value that are searched: bounds the time of a check

Check = Callable[[Document], Iterator[Finding]]

# A line that would have made the file a template, had it been the first.
_LATE = re.compile(rb"^[ \t]{0,40}#[ \t]{0,9}jinja2?[ \t]{0,40}\r?$", re.IGNORECASE | re.MULTILINE)
# Braces as Jinja2 has them, not as Go templates (docker --format) and shells do.


def lint(main: Included, read_include: ReadInclude, *, rendered: bool = False) -> list[Problem]:
    """All problems of a text and its includes, in the order of their places.

    rendered: the text is a template's rendering with placeholders, whose values may be
    anything.
    """
    document = parse_document(main, read_include, recover=True)
    broken = {(one.path, one.line) for one in document.problems if one.severity == "error"}
    found = {
        one
        for one in lint_document(document, rendered=rendered)
        # The value of a broken line is not the one that its author meant.
        if one.code != "bad-value" or (one.path, one.line) not in broken
    }
    found.update(document.tell(finding) for finding in check_shell(document))
    found.update(document.problems)
    return sorted(
        (replace(one, message=redact(one.message), excerpt=redact(one.excerpt)) for one in found),
        key=lambda p: (p.path != main.path, p.path, p.line, p.column, p.code),
    )


def lint_conf(
    conf: Conf,
    facts: Facts,
    *,
    farm: Mapping[str, Any] | None = None,
    secrets: Mapping[str, Any] | None = None,
) -> list[Problem]:
    """What `lts check` says of a text that could be parsed.

    facts: of some node, for a template's sake. farm, secrets: as for `find_unknown`.
    Raises LtsConfError as `draft`.
    """
    unknown = conf.find_unknown(farm, secrets)
    draft = conf.draft(facts)
    rest = lint_document(draft.document, rendered=conf.needs_rendering)
    return [*unknown, *draft.problems, *rest]


def lint_document(document: Document, *, rendered: bool = False) -> list[Problem]:
    """What is wrong with a text beyond its grammar (which `document.problems` has)."""
    problems = []
    checks: list[Check] = [_check_sections, _check_likes, check_order, check_twice]
    checks.append(_check_shares)
    checks.append(partial(_check_entries, rendered=rendered))
    if not rendered:
        checks += [_check_empty, _check_braces]
    for check in checks:
        for finding in check(document):
            problems.append(document.tell(finding))
            if len(problems) >= MAX_FINDINGS:
                return problems
    return problems


def _show(name: bytes) -> str:
    text = decode(name).encode("utf-8", "replace").decode()
    return text if len(text) <= 60 else text[:59] + "…"


def _check_sections(document: Document) -> Iterator[Finding]:
    """Sections that no node can reach, or not in the way that they look."""
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
                continue
            if len(globs) < 200:
                globs.append(section)
        if name not in liked and name != DEFAULT:
            yield from _check_unreachable(section)


def _check_unreachable(section: Section) -> Iterator[Finding]:
    found = explain_unreachable(section.name)
    if found is not None:
        reason, hint = found
        yield Finding(
            "warning",
            "unreachable-section",
            section.offset,
            f"[{_show(section.name)}] never applies: {reason}",
            hint,
        )


def _check_empty(document: Document) -> Iterator[Finding]:
    """A file without a section, as `> lts.conf` leaves it."""
    if not document.sections and not document.problems:
        yield Finding(
            "warning",
            "empty-text",
            0,
            "there is no section in it: every node gets the defaults of its image and nothing else",
            "Write [default] and what all nodes get; or leave lts_conf out of farm.yaml.",
        )


def _check_braces(document: Document) -> Iterator[Finding]:
    """Jinja2's braces in a text that is no template: nodes get them as they are."""
    buffer = bytes(document.get_buffer())
    late = _LATE.search(buffer)
    if late is not None:
        yield Finding(
            "error",
            "braces-no-template",
            late.start(),
            "# jinja2 does not stand in the first line, so the file is no template and its braces"
            " are plain text",
            "Make it the first line of the file, with nothing before it.",
        )
        return
    for section in document.sections:
        for entry in section.entries:
            value = entry.value[:_LONGEST]
            found = find_braces(value)
            if found is not None:
                yield Finding(
                    "warning",
                    "braces-no-template",
                    entry.offset,
                    f"nodes get {_show(found)} as it stands there: the file is no template",
                    "Make `# jinja2` the first line of the file, or write the value in its place.",
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
    # What is left also holds sections that a cycle includes; only those in a cycle are reported.
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


_SHARES = (b"MEMORY_RESERVE", b"OVERLAY_SIZE", b"CONTAINERS_SIZE", b"SHM_SIZE", b"JOURNAL_SIZE")
_SHARE = re.compile(rb"0*([0-9]{1,3})%")


def _check_shares(document: Document) -> Iterator[Finding]:
    """Shares of the memory, in percent, that add up to more than there is in one section."""
    for section in document.sections:
        given: dict[bytes, tuple[int, Entry]] = {}
        for entry in section.entries:
            key = entry.key.upper()
            share = _SHARE.fullmatch(entry.value) if key in _SHARES else None
            if share is not None:
                given[key] = (int(share[1]), entry)
        total = sum(percent for percent, _ in given.values())
        if len(given) > 1 and total > 100 and all(percent <= 100 for percent, _ in given.values()):
            yield Finding(
                "warning",
                "memory-twice",
                max(entry.offset for _, entry in given.values()),
                f"{', '.join(_show(key) for key in given)} are {total}% of the memory together: the"
                " node cuts what overlay and containers get",
                "Write sizes that leave something: a quarter is in reserve, where MEMORY_RESERVE"
                " does not say otherwise.",
            )


def _check_entries(document: Document, *, rendered: bool = False) -> Iterator[Finding]:
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
            for severity, code, message, hint in check_entry(
                document, section, entry, rendered=rendered
            ):
                yield Finding(severity, code, entry.offset, message, hint)
