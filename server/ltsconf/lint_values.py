"""What the linter has to say about one line: its key, its value, and how it is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import lru_cache

from server.ltsconf.flat import is_flat_key
from server.ltsconf.glob import is_glob
from server.ltsconf.grammar import Document, Entry, Section
from server.ltsconf.lookup import DEFAULT, LIKE
from server.ltsconf.variables import (
    DESKTOP,
    FALSE_WORDS,
    REPLACED,
    SWAP,
    TRUE_WORDS,
    VARIABLES,
    Variable,
    find_variable,
    is_listed,
)

# Severity, code, message, remedy.
Remark = tuple[str, str, str, str]

_LONGEST = 16384  # of a value, for what is searched in it
_QUOTES = re.compile("[\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u00ab\u00bb\u2033]")
_DASHES = re.compile("(^|\\s)[\u2013\u2014\u2212]\\w")
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?<![a-z0-9.])[a-z0-9]{6}\.[a-z0-9]{16}(?![a-z0-9.])"), "a kubeadm token"),
    (re.compile(r"--certificate-key[ =][0-9a-f]{64}"), "a kubeadm certificate key"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"), "a private key"),
    (re.compile(r"(?i)\b(password|passwd|secret|api_?key)\s*[=:]\s*[^\s$]{4}"), "a password"),
    (re.compile(r"\bAKIA[0-9A-Z]{16}\b"), "an AWS key"),
    (re.compile(r"://[^/\s:@]{1,64}:[^/\s:@$]{1,64}@"), "a password in a URL"),
)
_IMAGE = re.compile(r"([a-z0-9][a-z0-9._-]{0,62})?([:@][A-Za-z0-9._-]+)?")


def redact(text: str) -> str:
    """The text without what looks like a secret: reports stand in logs of CI."""
    for pattern, _ in _SECRETS:
        text = pattern.sub("…", text)
    return text


def check_entry(document: Document, section: Section, entry: Entry) -> Iterator[Remark]:
    """All remarks on one line."""
    key = entry.key.upper().decode("utf-8", "replace")
    value = entry.value.decode("utf-8", "replace")
    if entry.key.lower() == LIKE:
        return
    yield from _check_key(key)
    yield from _check_writing(document, entry, key, value)
    if value.upper() == "NONE":
        return
    head = value[:_LONGEST]
    for pattern, name in _SECRETS:
        if pattern.search(head):
            yield (
                "warning",
                "secret",
                f"{key} holds {name} in plain text: whoever reads this file has it",
                "Make the file a template (first line # jinja2) and write"
                " {{ secrets.NAME }}, with NAME from a mounted Secret.",
            )
            break
    variable = find_variable(key)
    if variable is not None:
        yield from _check_value(variable, key, head)
    wide = section.name.lower() == DEFAULT or is_glob(section.name)
    if key == "HOSTNAME" and wide and "{{" not in value:
        yield (
            "warning",
            "hostname-for-many",
            "HOSTNAME in a section for many nodes gives all of them the same name",
            "Put it into the sections of single nodes, or use HOSTNAME_BASE.",
        )


def _check_key(key: str) -> Iterator[Remark]:
    if is_listed(key, SWAP):
        yield (
            "error",
            "swap-variable",
            f"{key} turns swap on, and kubelet refuses to start with swap",
            "Remove the line.",
        )
    elif find_variable(key) is not None:
        if not is_flat_key(key):
            yield _remark_bad_key(key)
    elif is_listed(key, DESKTOP):
        yield (
            "warning",
            "desktop-variable",
            f"{key} is for desktops with a screen and users; a Kubernetes node has no use for it",
            "Remove the line.",
        )
    elif key in REPLACED:
        yield (
            "warning",
            "replaced-variable",
            f"{key} is not used: {REPLACED[key]}",
            "Change the line.",
        )
    elif not is_flat_key(key):
        yield _remark_bad_key(key)
    else:
        near = suggest(key)
        yield (
            "warning",
            "unknown-variable",
            f"{_cut(key)} is no variable that bootfarm knows",
            (f"Did you mean {near}? " if near else "")
            + "As it is, only PREINIT_* and INIT_COMMAND_* see it, in their environment.",
        )


def _remark_bad_key(key: str) -> Remark:
    return (
        "error",
        "bad-key",
        f"{_cut(key)!r} cannot be a variable's name: no node gets it",
        "A name has letters, digits and underscores, and begins with no digit."
        if key
        else "Write a name before the =.",
    )


@lru_cache(maxsize=4096)
def suggest(key: str) -> str:
    """The known name that `key` most resembles, or "". Families as with their number."""
    if len(key) > 64:
        return ""
    names = [v.name for v in VARIABLES if not v.is_family and v.name != "LIKE"]
    match = get_close_matches(key, names, 1, 0.8)
    if match:
        return match[0]
    split = re.match(r"([A-Z_]*?)_?([0-9].*)", key)
    if split:
        prefixes = [v.prefix.rstrip("_") for v in VARIABLES if v.is_family]
        match = get_close_matches(split[1], prefixes, 1, 0.75)
        if match:
            return f"{match[0]}_{split[2]}"
    return ""


def _check_writing(document: Document, entry: Entry, key: str, value: str) -> Iterator[Remark]:
    """How the value is written: lines, quotes, dashes."""
    buffer = document.get_buffer()
    shown = _cut(key)
    if buffer.find(b"\n", entry.offset, entry.value_offset) >= 0:
        yield (
            "warning",
            "value-on-next-line",
            f"the value of {shown} stands on a later line: an = takes the next text, wherever it"
            " stands",
            f'For an empty value write {shown} = "".',
        )
    if _QUOTES.search(value[:_LONGEST]) and (not entry.quoted or _QUOTES.match(value)):
        yield (
            "error",
            "typographic-quotes",
            f"{shown} holds typographic quotes, as a web page pastes them: they are letters like"
            " others and do not quote",
            "Write ASCII quotes: \" and '.",
        )
    elif _QUOTES.search(value[:_LONGEST]):
        yield (
            "warning",
            "typographic-quotes",
            f"{shown} holds typographic quotes, as a web page pastes them",
            "Write ASCII quotes if a command is to see quotes.",
        )
    if _DASHES.search(value[:_LONGEST]):
        yield (
            "warning",
            "typographic-dash",
            f"{shown} holds a typographic dash where an option begins",
            "Write -- (a web page makes one long dash of two short ones).",
        )
    end = entry.value_offset + len(entry.value)
    if not entry.quoted and buffer[end : end + 1] == b"#" and entry.value:
        yield (
            "warning",
            "value-cut",
            f"the value of {shown} is cut at #, which begins a comment",
            "Put the value between double quotes, or a blank before the comment.",
        )
    if entry.quoted and re.search(rb"\"[ \t]*#", entry.value[:_LONGEST]):
        yield (
            "warning",
            "comment-in-value",
            f"the value of {shown} runs to the last double quote of the line, so a part of the"
            " comment belongs to it",
            "Remove the double quote from the comment, or put the comment on a line of its own.",
        )


def _check_value(variable: Variable, key: str, value: str) -> Iterator[Remark]:
    word = value.strip().lower()
    if variable.kind == "boolean" and word not in TRUE_WORDS | FALSE_WORDS:
        yield (
            "error",
            "bad-value",
            f"{key} is {_cut(value)!r}, neither yes nor no",
            "Write true or false.",
        )
    elif variable.choices and word not in variable.choices:
        choices = " or ".join(variable.choices)
        yield "error", "bad-value", f"{key} is {_cut(value)!r}", f"Write {choices}."
    elif key == "IMAGE" and not (value and _IMAGE.fullmatch(value)):
        yield (
            "error",
            "bad-value",
            f"IMAGE is {_cut(value)!r}",
            "Write name:tag, name, name@digest or :tag.",
        )
    elif variable.kind == "fstab":
        fields = value.split()
        if fields and not fields[0].startswith("#") and not 3 <= len(fields) <= 6:
            yield (
                "error",
                "bad-value",
                f"{key} has {len(fields)} fields",
                "A line of fstab has device, mount point, type, options, dump and pass.",
            )
        elif len(fields) > 2 and fields[2] == "swap":
            yield (
                "error",
                "swap-variable",
                f"{key} is a swap line, and kubelet refuses to start with swap",
                "Remove the line.",
            )
    elif variable.kind == "crontab" and not value.startswith("@") and len(value.split()) < 6:
        yield (
            "error",
            "bad-value",
            f"{key} has fewer than six fields",
            "Write minute, hour, day, month, weekday and the command.",
        )
    elif variable.kind == "hosts" and len(value.split()) < 2:
        yield "error", "bad-value", f"{key} has fewer than two words", "Write an address and names."


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
