"""A table that is drawn again in place on a terminal, else told line by line."""

import sys
from collections.abc import Sequence

from rack.timeline import Row, name_bytes, render_rows


class LiveTable:
    """Shows the phases of a boot while it runs."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._tty = sys.stdout.isatty()
        self._drawn = 0
        self._told: dict[str, str] = {}

    def update(self, rows: Sequence[Row], waiting_for: str, seconds: float) -> None:
        """Show the phases so far and what is being waited for."""
        if self._tty:
            self._draw([*render_rows(rows).splitlines(), f"… {waiting_for}, {seconds:.0f} s"])
            return
        for row in rows:
            said = f"{row.status} {row.detail}" if row.phase in ("join", "rcfile") else row.status
            if self._told.get(row.phase) == said:
                continue
            self._told[row.phase] = said
            words = (row.phase, row.status, name_bytes(row), row.detail)
            print(f"  {row.end:6.1f} s  {' '.join(word for word in words if word)}", flush=True)

    def close(self) -> None:
        """Wipe the table: the final table follows."""
        if self._tty and self._drawn:
            print(f"\033[{self._drawn}A\033[J", end="", flush=True)
            self._drawn = 0

    def _draw(self, lines: Sequence[str]) -> None:
        up = f"\033[{self._drawn}A\r" if self._drawn else ""
        body = "".join(f"\033[K{line[:110]}\n" for line in (self._title, *lines))
        print(f"{up}{body}\033[J", end="", flush=True)
        self._drawn = len(lines) + 1
