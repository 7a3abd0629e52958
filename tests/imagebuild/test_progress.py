import io

import pytest

from imagebuild.pipeline import Event
from imagebuild.progress import Progress, format_seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


EVENTS = [
    Event("cache", "waiting", detail="another build (process 12) to end"),
    Event("ltsp-base", "cached"),
    Event("basesystem", "start"),
    Event("basesystem", "step", 1.25, "packages"),
    Event("basesystem", "done", 83.4),
]


def test_a_log_gets_a_line_for_each_step() -> None:
    stream = io.StringIO()
    with Progress(stream) as progress:
        for event in EVENTS:
            progress.event(event)
    assert stream.getvalue().splitlines() == [
        "waiting for another build (process 12) to end",
        "ltsp-base    unchanged, from the cache",
        "basesystem ...",
        "  basesystem: packages (1.2 s)",
        "basesystem   1 min 23 s",
    ]


def test_a_terminal_keeps_one_line_for_each_stage() -> None:
    stream = Terminal()
    with Progress(stream) as progress:
        for event in EVENTS:
            progress.event(event)
            progress.line("Unpacking something")
    lines = [line.rsplit("\r\x1b[K", 1)[-1] for line in stream.getvalue().split("\n")]
    assert lines == [
        "waiting for another build (process 12) to end",
        "ltsp-base    unchanged, from the cache",
        "basesystem   1 min 23 s",
        "",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (3601, "60 min 01 s")],
)
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
