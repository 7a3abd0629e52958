"""What the linter has to say about one line: its key, its value, and how it is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import lru_cache

from server.ltsconf.cmdline import OTHER_WAY, check_cmdline, explain_ipxe
from server.ltsconf.flat import is_flat_key
from server.ltsconf.glob import is_glob
from server.ltsconf.grammar import Document, Entry, Section
from server.ltsconf.joinline import check_kubeadm
from server.ltsconf.lint_nodes import check_labels, check_taints
from server.ltsconf.lint_registries import Remark, check_registries
from server.ltsconf.lookup import DEFAULT, LIKE
from server.ltsconf.shapes import (
    PLACEHOLDER,
    Wrong,
    check_crontab_line,
    check_fstab_line,
    check_host,
    check_hostname,
    check_hosts_line,
    check_name,
    check_required_disk,
    check_seconds,
    check_server_address,
    check_size,
    check_timezone,
    check_words,
)
from server.ltsconf.shell import check_quotes, turns_swap_on
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

_LONGEST = 16384  # bytes of a value that are searched: bounds the time of a check
_QUOTES = re.compile("[\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u00ab\u00bb\u2033]")
_ODD = re.compile("[\u00a0\u00ad\u1680\u2000-\u200f\u2028\u2029\u202f\u205f-\u2064\u3000\ufeff]")
_BRACES = re.compile(
    rb"\{\{-?[ \t]{0,40}[A-Za-z_][\w.]*[^{}\n]{0,400}\}\}|\{%-?[ \t]{0,40}[a-z]+[^%\n]{0,400}%\}"
)
_GO = re.compile(rb"\{\{-?[ \t]*([a-z]+[ \t]+)?[.$]|[ \t(][.$][A-Za-z]|[ \t][.][ \t]*\}\}")
_DASHES = re.compile("(^|\\s)[\u2013\u2014\u2212]\\w")
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?<![a-z0-9.])[a-z0-9]{6}\.[a-z0-9]{16}(?![a-z0-9.])"), "a kubeadm token"),
    (re.compile(r"--certificate-key[ =][0-9a-f]{64}"), "a kubeadm certificate key"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"), "a private key"),
    (re.compile(r"(?i)\b(password|passwd|secret|api_?key)\s*[=:]\s*[^\s$]{4}"), "a password"),
    (re.compile(r"\bAKIA[0-9A-Z]{16}\b"), "an AWS key"),
    (re.compile(r"://[^/\s:@]{1,64}:[^/\s:@$]{1,64}@"), "a password in a URL"),
)
_IMAGE = re.compile(r"([a-z0-9][a-z0-9._-]{0,62})?(:[A-Za-z0-9._-]+|@[0-9a-f]{12,64})?")
_TIME_OPTIONS = frozenset(("iburst", "burst", "prefer", "minpoll", "maxpoll", "server", "pool"))
_UNITS = ("service", "timer", "socket", "target", "mount", "automount", "path", "slice", "swap")
_IDENTITY = re.compile(r"(?:^|\s)(systemd\.machine_id|systemd\.hostname)=(?!firmware)")
_KO = re.compile(r"\.ko(\.(gz|xz|zst))?$")


def redact(text: str) -> str:
    """The text without anything that looks like a secret: reports are kept in logs of CI."""
    for pattern, _ in _SECRETS:
        text = pattern.sub("…", text)
    return text


def check_entry(
    document: Document, section: Section, entry: Entry, *, rendered: bool = False
) -> Iterator[Remark]:
    """All remarks on one line. rendered: values may be placeholders."""
    key = entry.key.upper().decode("utf-8", "replace")
    value = entry.value.decode("utf-8", "replace")
    if entry.key.lower() == LIKE:
        return
    yield from _check_key(key)
    odd = list(_check_writing(document, entry, key, value))
    yield from odd
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
    computed = _is_computed(document, entry, value, rendered=rendered)
    variable = find_variable(key)
    # A value that reads otherwise than it looks gets one remark, not two.
    if variable is not None and not computed and not odd:
        yield from check_value(variable, key, head)
    if variable is not None and variable.kind in ("command", "crontab"):
        yield from _check_command(key, head, is_crontab=variable.kind == "crontab")
    wide = section.name.lower() == DEFAULT or is_glob(section.name)
    if key == "HOSTNAME" and wide and not computed:
        yield (
            "warning",
            "hostname-for-many",
            "HOSTNAME in a section for many nodes gives all of them the same name",
            "Put it into the sections of single nodes, or use HOSTNAME_BASE.",
        )
    if key == "KERNEL_CMDLINE" and wide and not computed and (shared := _IDENTITY.search(head)):
        yield (
            "warning",
            "identity-for-many",
            f"{shared[1]}= in a section for many nodes gives all of them the same identity",
            "Put it into the sections of single nodes; without it each machine has its own.",
        )


def _check_command(key: str, command: str, *, is_crontab: bool = False) -> Iterator[Remark]:
    """Remarks on what a shell runs."""
    if not is_crontab:
        for wrong, remedy in check_kubeadm(command):
            yield "error", "bad-value", f"{key}: {wrong}", remedy
    if turns_swap_on(command):
        yield (
            "error",
            "swap-variable",
            f"{key} turns swap on, and kubelet refuses to start with swap",
            "Remove swapon from the line.",
        )
    if (open_quote := check_quotes(command)) is not None:
        yield "error", "bad-value", f"{key}: {open_quote[0]}", open_quote[1]


def _is_computed(document: Document, entry: Entry, value: str, *, rendered: bool) -> bool:
    """Whether the value is, in part, what an expression of a template gives."""
    if not rendered:
        return "{{" in value
    source, line, _ = document.locate(entry.value_offset)
    return "{{" in source.excerpt(line) or PLACEHOLDER in value


def check_setting(key: str, value: str) -> Iterator[Remark]:
    """All remarks on a variable and its value, wherever they stand: a recipe's `lts_defaults`.

    Raises nothing; the messages name the key. NONE means not set.
    """
    key = key.upper()
    yield from _check_key(key)
    if value.upper() == "NONE":
        return
    variable = find_variable(key)
    if variable is not None:
        yield from check_value(variable, key, value[:_LONGEST])
        if variable.kind == "command":
            yield from _check_command(key, value[:_LONGEST])


def find_braces(value: bytes) -> bytes | None:
    """The first expression or statement of Jinja2 in a value; those of Go's templates are none."""
    found = (one[0] for one in _BRACES.finditer(value))
    return next((one for one in found if not _GO.search(one)), None)


def check_default(key: str, value: str) -> tuple[str, str] | None:
    """What is wrong with a default of an image (a recipe's `lts_defaults`), and the remedy.

    An error of `lts check`, a name that is nearly a variable's, one that nodes have no use
    for, or a name that all nodes of the image would share; None where nothing is.
    """
    for severity, code, message, hint in check_setting(key, value):
        if severity == "error" or code in ("desktop-variable", "replaced-variable"):
            return message, hint
        if code == "unknown-variable" and (near := suggest(key)):
            return message, f"did you mean {near}?"
    if (braces := find_braces(value[:_LONGEST].encode("utf-8", "surrogateescape"))) is not None:
        shown = _cut(braces.decode("utf-8", "replace"))
        return (
            f"{key}: nodes get {shown} as it stands there: an image's defaults are no template",
            "write the value in its place, or the line into an lts.conf that is a template",
        )
    if key == "LIKE":
        return "LIKE names a section, and an image has none", "remove the line"
    if key == "HOSTNAME" and value.upper() != "NONE":
        return "HOSTNAME gives all nodes of the image the same name", "use HOSTNAME_BASE"
    return None


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
    if f"{key}_" in (v.prefix for v in VARIABLES if v.is_family):
        return f"{key}_01"  # of a family, without its number
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
    if (odd := _ODD.search(value[:_LONGEST])) is not None:
        yield (
            "error" if find_variable(key) is not None else "warning",
            "odd-blank",
            f"{shown} holds a character that no eye sees or that looks like a blank and is none"
            f" (U+{ord(odd[0]):04X}), as a web page pastes them: it is a letter like others",
            "Delete it, or type a blank in its place.",
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


def check_value(variable: Variable, key: str, value: str) -> Iterator[Remark]:
    """Remarks on a value that is known as a whole."""
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
    elif variable.kind == "fstab" and value.split()[2:3] == ["swap"]:
        yield (
            "error",
            "swap-variable",
            f"{key} is a swap line, and kubelet refuses to start with swap",
            "Remove the line.",
        )
    elif variable.kind in _WORDS:
        yield from _WORDS[variable.kind](key, value)
    else:
        wrong = _check_shape(variable, key, value)
        if wrong is not None:
            yield "error", "bad-value", f"{key}: {redact(wrong[0])}", wrong[1]
        elif key == "KERNEL_CMDLINE" and (why := explain_ipxe(value)) is not None:
            yield "error", "ipxe-word", f"{key}: {redact(why)}", f"{OTHER_WAY}."
        elif variable.kind == "fstab" and (risk := check_required_disk(value)) is not None:
            yield "warning", "disk-required", f"{key}: {redact(risk[0])}", risk[1]


def _check_shape(variable: Variable, key: str, value: str) -> Wrong | None:
    if variable.kind in _LINES:
        return _LINES[variable.kind](value)
    if variable.kind == "size":
        return check_size(value)
    if variable.kind == "seconds":
        return check_seconds(value)
    if not value.strip():
        return None
    if key == "TIMEZONE":
        return check_timezone(value.strip())
    if key == "DNS_SERVER":
        return check_words(value, check_server_address)
    if key == "SEARCH_DOMAIN":
        return check_words(value.replace("~", ""), check_name)
    if key == "TIMESERVER":
        if value.strip().lower() == "auto":
            return "auto is LTSP 5's", "Leave TIMESERVER out: DHCP's time servers count then."
        return check_words(value, _check_time_server)
    if key == "SYSLOG_HOST":
        words = value.split()
        if len(words) > 1 or "," in value:
            return "it names several hosts", "Write one host name or address."
        return check_host(words[0])
    if key in ("HOSTNAME", "HOSTNAME_BASE"):
        return check_hostname(value)
    if key == "KERNEL_CMDLINE":
        return check_cmdline(value)
    if variable.prefix == "MODULE_":
        return _check_module(value.split()[0])
    if key.endswith("_SYSTEM_SERVICES"):
        return check_words(value, _check_unit)
    return None


def _check_time_server(word: str) -> Wrong | None:
    if word in _TIME_OPTIONS:
        return f"{word!r} is a word of chrony's settings", "Write names of servers and no more."
    return check_host(word)


def _check_module(word: str) -> Wrong | None:
    if word in ("modprobe", "insmod", "load"):
        return f"{word!r} is a command", "Write the module's name, then its parameters."
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", word) or _KO.search(word):
        return f"{word!r} is no kernel module", "Write its name, then its parameters."
    return None


def _check_unit(word: str) -> Wrong | None:
    kind = word.rpartition(".")[2] if "." in word else ""
    close = get_close_matches(kind, _UNITS, 1, 0.75) if kind and kind not in _UNITS else []
    if close:
        return f"{word!r} is no unit of systemd's", f"Did you mean .{close[0]}?"
    if re.fullmatch(r"[A-Za-z0-9:_.@\\-]+", word):
        return None
    return f"{word!r} is no unit of systemd's", "Write names of services with blanks between."


_WORDS: dict[str, Callable[[str, str], Iterator[Remark]]] = {
    "registries": check_registries,
    "labels": check_labels,
    "taints": check_taints,
}
_LINES: dict[str, Callable[[str], Wrong | None]] = {
    "fstab": check_fstab_line,
    "crontab": check_crontab_line,
    "hosts": check_hosts_line,
}


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
