"""What a person should know of one line of an ltsp.conf."""

from dataclasses import dataclass
from typing import Final

LEFT: Final = "left out"
CHECK: Final = "to check"


@dataclass(frozen=True)
class Note:
    """What a person should know of a line. kind: LEFT or CHECK. name: the parameter or section."""

    line: int
    kind: str
    name: str
    why: str
    hint: str


def show(text: str) -> str:
    """A text on one line, without what a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)
