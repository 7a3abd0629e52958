"""What the linter has to say about REGISTRY_MIRRORS, as init.d/registries.sh will read it."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Severity, code, message, remedy.
Remark = tuple[str, str, str, str]

_WORD = re.compile(r"(?P<registry>[^=]*)=(?P<url>[^,]*)(?:,(?P<options>.*))?", re.DOTALL)
_REGISTRY = re.compile(r"\*|[A-Za-z0-9.-]+(:[0-9]+)?")
_URL = re.compile(r"(?P<scheme>https?)://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._~/%-]*)?")
_CA = re.compile(r"ca=/[A-Za-z0-9._~/%-]+")
_SHAPE = "Write REGISTRY=https://HOST[:PORT], with http:// for one that speaks plain http."


def check_registries(key: str, value: str) -> Iterator[Remark]:
    """Each word is REGISTRY=URL[,ca=/FILE]."""
    seen: set[str] = set()
    for word in value.split():
        shown = word if len(word) <= 60 else word[:59] + "…"
        found = _WORD.fullmatch(word)
        if found is None or not _REGISTRY.fullmatch(found["registry"]):
            yield "error", "bad-value", f"{key}: {shown!r} names no registry", _SHAPE
            continue
        url = _URL.fullmatch(found["url"])
        if url is None:
            yield "error", "bad-value", f"{key}: {shown!r} has no URL after the =", _SHAPE
            continue
        ports = re.findall(r":([0-9]+)", f"{found['registry']} {found['url']}")
        if any(not 0 < int(port[:6]) <= 65535 for port in ports):
            yield "error", "bad-value", f"{key}: {shown!r} has no port of 1 to 65535", _SHAPE
            continue
        if word in seen:
            yield "warning", "bad-value", f"{key}: {shown!r} stands twice", "Remove one of the two."
        seen.add(word)
        options = found["options"]
        if options is not None and not _CA.fullmatch(options):
            yield (
                "error",
                "bad-value",
                f"{key}: {shown!r}: {options[:60]!r} is none of its settings",
                "Write ,ca=/FILE with a file of the image, or nothing.",
            )
        elif options is not None and url["scheme"] == "http":
            yield (
                "warning",
                "bad-value",
                f"{key}: {shown!r} is plain http, which has no CA",
                "Write https://, or leave ,ca= out.",
            )
