"""Tables that are written into pages of docs/, between two marks."""

from pathlib import Path

from bench.place import BenchError
from imagebuild.wholefile import write_whole


def write_between(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what is between two marks. Raises BenchError where they are missing."""
    head, found, rest = page.read_text().partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise BenchError(f"{page}: the marks {begin} and {end} are missing")
    write_whole(page, f"{head}{begin}\n{text}\n{end}{tail}".encode(), mode=0o644)
