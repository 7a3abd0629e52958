"""Surprises in the order of numbered keys, over all sections (a node may get any of them)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from server.ltsconf.grammar import Document
from server.ltsconf.order import sort_lines
from server.ltsconf.problem import Finding
from server.ltsconf.variables import find_variable

_NUMBER = re.compile(r"0*([0-9]+)")
_LINES = {"FSTAB_": (1, 2), "HOSTS_": (1, None)}
"""Of lines of a family, the words of which none may stand in two: mount points, names."""
_MOST_KEYS = 2000
"""Keys whose order is compared: it costs their square."""


def check_order(document: Document) -> Iterator[Finding]:
    """Findings for each family: RCFILE_2 against RCFILE_10, equal numbers, missing numbers."""
    families: dict[str, dict[str, tuple[int, str]]] = {}
    for section in document.sections:
        for entry in section.entries:
            key = entry.key.upper().decode("utf-8", "replace")
            variable = find_variable(key)
            if variable is not None and variable.is_family:
                value = entry.value.decode("utf-8", "replace")
                keys = families.setdefault(variable.prefix, {})
                if len(keys) < _MOST_KEYS:
                    keys.setdefault(key, (entry.offset, value))
    for prefix, keys in families.items():
        ordered = [key for key, _ in sort_lines((key, keys[key][1]) for key in keys)]
        for code, key, message, hint in _find_surprises(prefix, ordered):
            yield Finding("warning", code, keys[key][0], message, hint)


def check_twice(document: Document) -> Iterator[Finding]:
    """Findings for lines of one section of which the second hides the first: two FSTAB_* lines
    with one mount point, two HOSTS_* lines with one name and different addresses."""
    for section in document.sections:
        first: dict[tuple[str, str], tuple[str, str]] = {}
        for entry in section.entries:
            key = entry.key.upper().decode("utf-8", "replace")
            prefix = next((one for one in _LINES if key.startswith(one)), None)
            words = entry.value.decode("utf-8", "replace").partition("#")[0].split()
            if prefix is None or len(words) < 2 or len(first) >= _MOST_KEYS:
                continue
            begin, end = _LINES[prefix]
            for word in words[begin:end]:
                other, before = first.setdefault((prefix, word.lower()), (key, words[0]))
                if other == key or word == "none" or (prefix == "HOSTS_" and before == words[0]):
                    continue
                what = "mounts on" if prefix == "FSTAB_" else "names"
                yield Finding(
                    "warning",
                    "line-twice",
                    entry.offset,
                    f"{key} {what} {word[:80]}, as {other} does: one hides the other",
                    "Remove one of the two.",
                )
                break


def _find_surprises(prefix: str, ordered: list[str]) -> Iterator[tuple[str, str, str, str]]:
    """Code, key, message and remedy for each surprise in keys that stand in their real order."""
    place = {key: number for number, key in enumerate(ordered)}
    yield from _find_mixed_widths(ordered, place)
    by_number: dict[str, str] = {}
    for key in ordered:
        plain = _NUMBER.sub(r"\1", key)
        other = by_number.setdefault(plain, key)
        if other != key:
            yield (
                "order-tie",
                key,
                f"{other} and {key} have the same number: their order depends on their values",
                "Give each a number of its own.",
            )
    if any(key[len(prefix) : len(prefix) + 1].isdigit() for key in ordered):
        for key in ordered:
            if not key[len(prefix) : len(prefix) + 1].isdigit():
                yield (
                    "order-no-number",
                    key,
                    f"{key} has no number: it runs after all of {prefix}* that have one",
                    f"Write {prefix}50_{key[len(prefix) :] or 'NAME'} with a number that fits.",
                )
    longer = sorted(ordered)
    for key, following in itertools.pairwise(longer):
        if (
            following.startswith(key)
            and following[len(key)].isalpha()
            and place[following] < place[key]
        ):
            yield (
                "order-prefix",
                key,
                f"{key} runs after {following}: letters sort before the = behind a key",
                f"Number them apart, for instance {key} and {key}_2.",
            )


def _find_mixed_widths(
    ordered: list[str], place: dict[str, int]
) -> Iterator[tuple[str, str, str, str]]:
    """The first pair of keys that reads in one order and runs in the other."""
    for later, earlier in zip(sorted(ordered), sorted(ordered)[1:], strict=False):
        if place[later] > place[earlier] and _digits_differ(later, earlier):
            yield (
                "order-width",
                earlier,
                f"{earlier} runs before {later}: numbers count as numbers, whatever their width",
                "Give all numbers of a family the same width, with leading zeros.",
            )
            return


def _digits_differ(one: str, other: str) -> bool:
    left, right = re.search(r"[0-9]+", one), re.search(r"[0-9]+", other)
    if left is None or right is None or left.start() != right.start():
        return False
    return len(left[0]) != len(right[0]) and int(left[0][:4000]) != int(right[0][:4000])
