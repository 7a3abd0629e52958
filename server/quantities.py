"""Amounts and lists of names in words, as pages, terminal and diagnosis say them; and an amount
that is typed."""

import math
import re
from collections.abc import Iterable
from typing import Any, Final

import click

_DIGITS: Final = re.compile(r"[0-9]+")
_UNITS: Final = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def name_age(seconds: float) -> str:
    """A time span in two words at most, as people read it from afar: `3 min`, `2 h 5 min`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def name_span(seconds: float) -> str:
    """A time span as one round number: `40 s`, `3 min`, `3 h`, `2 days`."""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (unit != "days" and seconds >= size):
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def name_size(amount: float) -> str:
    """Bytes in words: `512 B`, `2.1 GiB`, `2 GiB`, `240 MiB`."""
    for size, unit in _UNITS:
        if amount >= size:
            number = amount / size
            text = f"{number:.0f}" if number >= 100 else f"{number:.1f}".removesuffix(".0")
            return f"{text} {unit}"
    return f"{amount:.0f} B"


def sort_naturally(name: str) -> str:
    """A sort key for names: `n2` before `n10`, upper and lower case alike."""
    return _DIGITS.sub(lambda found: found[0].zfill(10), name.lower())


def compress_names(names: Iterable[str], most: int = 6) -> str:
    """Names in order, runs of numbers as r1-n[001-040]; the rest as a count."""
    runs: list[tuple[str, int, int, int]] = []
    for name in names:
        stem = name.rstrip("0123456789")
        digits = name[len(stem) :]
        if not digits or len(digits) > 9:
            runs.append((name, 0, -1, -1))
            continue
        number, width = int(digits), len(digits)
        last = runs[-1] if runs else None
        if last is not None and last[:2] == (stem, width) and last[3] + 1 == number:
            runs[-1] = (stem, width, last[2], number)
        else:
            runs.append((stem, width, number, number))
    words = []
    for stem, width, first, end in runs[:most]:
        if first < 0:
            words.append(stem)
        elif first == end:
            words.append(f"{stem}{first:0{width}}")
        else:
            words.append(f"{stem}[{first:0{width}}-{end:0{width}}]")
    if len(runs) > most:
        words.append("…")
    return ", ".join(words)


class Seconds(click.FloatRange):
    """A number within bounds; no NaN, which lies within any."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """See click.ParamType.convert."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number
