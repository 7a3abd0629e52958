"""Amounts in words, as pages, terminal and diagnosis say them."""

from typing import Final

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
