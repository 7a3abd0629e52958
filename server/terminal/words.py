"""Numbers and texts as a terminal shows them. What nodes say is data: no control characters."""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from server.quantities import name_age, name_size

_DIGEST: Final = re.compile(r"\b[0-9a-f]{64}\b")


def clean(value: object) -> str:
    """A text without anything that a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in str(value))


def cut(text: str, width: int | None) -> str:
    """At most `width` characters, its end marked; None: as long as it is."""
    if width is None or len(text) <= width:
        return text
    return text[: max(0, width - 1)] + "…"


def name_amount(amount: float) -> str:
    """Bytes in words, "" for none."""
    return name_size(amount) if amount > 0 else ""


def name_rate(amount: float, seconds: float) -> str:
    """Bytes in so many seconds as a rate, "" where there is none."""
    return f"{name_size(amount / seconds)}/s" if amount > 0 and seconds > 0 else ""


def name_seconds(seconds: float) -> str:
    """`0.3 s`, `12.0 s`, `3 min`."""
    return f"{max(0.0, seconds):.1f} s" if seconds < 120 else name_age(seconds)


def name_time(moment: float) -> str:
    """The local time of day, with milliseconds."""
    stamp = time.strftime("%H:%M:%S", time.localtime(moment))
    return f"{stamp}.{int(moment * 1000) % 1000:03d}"


def name_date(moment: float) -> str:
    """Local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def number_of(fields: Mapping[str, Any], key: str) -> float:
    """A number of an answer, 0 where it is none."""
    value = fields.get(key)
    return float(value) if isinstance(value, int | float) else 0.0


def text_of(fields: Mapping[str, Any], key: str) -> str:
    """A text of an answer, "" where it is none."""
    value = fields.get(key)
    return clean(value) if isinstance(value, str | int | float) else ""


def shorten(text: str) -> str:
    """A text with digests of 64 digits cut to 12, as people compare them."""
    return _DIGEST.sub(lambda found: found[0][:12], text)


def make_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None
) -> list[str]:
    """Columns as wide as they need; the last one has what is left of `width`."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        cells = [cell.ljust(size) for cell, size in zip(row[:-1], widths[:-1], strict=True)]
        line = "  ".join([*cells, row[-1]]).rstrip()
        lines.append(cut(line, width))
    return lines


def fit_columns(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int | None,
    spare: Sequence[int],
    least: int,
) -> tuple[list[str], list[list[str]]]:
    """The same without the columns that leave the last one less room than it needs.

    spare: which to leave out, in this order. least: what the last column gets at least, if
    it has so much to say.
    """
    kept = list(range(len(head)))
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    need = min(widths[-1], least)
    for column in spare:
        if width is None or sum(widths[one] + 2 for one in kept[:-1]) + need <= width:
            break
        kept.remove(column)
    return [head[one] for one in kept], [[row[one] for one in kept] for row in rows]
