"""The licences that a Debian copyright file names, as SPDX expressions.

Only files in the machine-readable format (copyright-format/1.0, "DEP-5") say them in a way
that a program can read. Debian's short names are not SPDX's: what this table does not have
becomes a LicenseRef, and is never guessed.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

_FORMAT: Final = re.compile(
    r"\s*Format:\s*https?://www\.debian\.org/doc/packaging-manuals/copyright-format/1\.0/?\s*\n"
)
_FIELD: Final = re.compile(r"^License:[ \t]*(.*)$", re.MULTILINE | re.IGNORECASE)
_FILES: Final = re.compile(r"^Files:", re.MULTILINE | re.IGNORECASE)
_GNU: Final = re.compile(r"(A?GPL|LGPL|GFDL)-(\d(?:\.\d)?)(?:\.0)?(\+|)")
REFERENCE: Final = "LicenseRef-Debian-"

_NAMES: Final[Mapping[str, str]] = {
    "afl-2.1": "AFL-2.1",
    "apache-1.1": "Apache-1.1",
    "apache-2": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "artistic-2.0": "Artistic-2.0",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd-4-clause": "BSD-4-Clause",
    "bsl-1.0": "BSL-1.0",
    "bzip2-1.0.6": "bzip2-1.0.6",
    "cc-by-3.0": "CC-BY-3.0",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-sa-3.0": "CC-BY-SA-3.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0",
    "cc0": "CC0-1.0",
    "cc0-1.0": "CC0-1.0",
    "curl": "curl",
    "expat": "MIT",
    "ftl": "FTL",
    "isc": "ISC",
    "mpl-1.1": "MPL-1.1",
    "mpl-2.0": "MPL-2.0",
    "ofl-1.1": "OFL-1.1",
    "openldap-2.8": "OLDAP-2.8",
    "unicode-dfs-2016": "Unicode-DFS-2016",
    "zlib": "Zlib",
}
"""Debian's short names (in lower case) whose text is that of one SPDX licence."""


def read_licences(text: str) -> tuple[str, ...] | None:
    """SPDX expressions of all stanzas with files, sorted, each once; None where the copyright
    file is not in the machine-readable format."""
    if _FORMAT.match(text) is None:
        return None
    found: set[str] = set()
    for stanza in re.split(r"\n[ \t]*\n", text):
        if _FILES.search(stanza) and (field := _FIELD.search(stanza)) and field[1].strip():
            found.add(convert(field[1].strip()))
    return tuple(sorted(found))


def convert(name: str) -> str:
    """One `License:` of Debian's as an SPDX expression."""
    name = " ".join(name.split())
    words = re.split(r" (and|or) ", name)
    if len(words) == 1 or "," in name or " with " in name or not _is_flat(words):
        return _convert_one(name)
    operator = words[1].upper()
    return f" {operator} ".join(dict.fromkeys(_convert_one(word) for word in words[::2]))


def _is_flat(words: list[str]) -> bool:
    """Whether all are joined by one word: `and` and `or` together want parentheses."""
    return len(set(words[1::2])) == 1


def _convert_one(name: str) -> str:
    if known := _NAMES.get(name.lower()):
        return known
    if gnu := _GNU.fullmatch(name):
        version = gnu[2] if "." in gnu[2] else f"{gnu[2]}.0"
        if version in _VERSIONS[gnu[1]]:
            return f"{gnu[1]}-{version}-{'or-later' if gnu[3] else 'only'}"
    return REFERENCE + re.sub(r"[^A-Za-z0-9.-]+", "-", name.replace("+", "-or-later")).strip("-")


_VERSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "GPL": ("1.0", "2.0", "3.0"),
    "LGPL": ("2.0", "2.1", "3.0"),
    "AGPL": ("1.0", "3.0"),
    "GFDL": ("1.1", "1.2", "1.3"),
}
"""Versions of GNU's licences that SPDX has, each as -only and -or-later."""


def join(expressions: Iterable[str]) -> str:
    """All of them together: each holds for a part of the package."""
    parts = [f"({one})" if " OR " in one else one for one in expressions]
    flat = [word for part in parts for word in ([part] if "(" in part else part.split(" AND "))]
    unique = list(dict.fromkeys(flat))
    return unique[0].strip("()") if len(unique) == 1 else " AND ".join(unique)


def list_references(expressions: Iterable[str]) -> list[str]:
    """The LicenseRefs in them, sorted."""
    words = (word.strip("()") for one in expressions for word in one.split())
    return sorted({word for word in words if word.startswith(REFERENCE)})
