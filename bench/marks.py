"""Tables that are written into pages of docs/, between two marks."""

from pathlib import Path

from bench.place import BenchError


def write_beside(path: Path, text: str) -> None:
    """Write beside, then rename."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text)
    beside.replace(path)


def write_between(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what is between two marks. Raises BenchError where they are missing."""
    head, found, rest = page.read_text().partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise BenchError(f"{page}: the marks {begin} and {end} are missing")
    write_beside(page, f"{head}{begin}\n{text}\n{end}{tail}")
