"""The promises of fuzz/, without the fuzzer: its seeds, hypothesis, and what it once found."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.campaign import BEGIN, CORES, END, record
from fuzz.tftp import check_error_text

CHECKS: dict[str, Callable[[bytes], None]] = {
    core: importlib.import_module(f"fuzz.{core}").check for core in CORES
}
SEEDS: dict[str, tuple[bytes, ...]] = {
    core: importlib.import_module(f"fuzz.{core}").SEEDS for core in CORES
}

FOUND = {
    # A level and nothing after it was an empty line.
    "logs-empty-line": ("logs", b"\1<4>"),
    # A label of 76 bytes: dnslib reads it, and raised when the answer was packed.
    "dns-long-label": (
        "dns",
        b"\0\0\5\1\0\0\1\0\0\0\0\0\0\x4c" + b"x" * 76 + b"\0\0\1\0\1",
    ),
    # A success would have made a tunnel of the connection, and raised on its own body.
    "http-connect": ("http", b"\xc8CONNECT /ltsp HTTP/1.1\r\nHost: a\r\n\r\n"),
}


@pytest.mark.parametrize("core", CORES)
def test_seeds(core: str) -> None:
    for seed in SEEDS[core]:
        CHECKS[core](seed)


@pytest.mark.parametrize("case", FOUND)
def test_what_was_found_once(case: str) -> None:
    core, data = FOUND[case]
    CHECKS[core](data)


@st.composite
def mutated(draw: st.DrawFn, core: str) -> bytes:
    """A seed with some bytes replaced, cut out or put in."""
    data = bytearray(draw(st.sampled_from(SEEDS[core])))
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from((0, 1, 1, 2, 4, 30)))
        data[place : place + length] = draw(st.binary(max_size=8))
    return bytes(data)


@pytest.mark.parametrize("core", CORES)
def test_any_bytes(core: str) -> None:
    @settings(max_examples=150, deadline=None)
    @given(st.one_of(mutated(core), st.binary(max_size=300)))
    def run(data: bytes) -> None:
        CHECKS[core](data)

    run()


@given(st.binary(max_size=300))
def test_an_error_text_is_fit_for_a_log(packet: bytes) -> None:
    check_error_text(packet)


def test_the_record(tmp_path: Path) -> None:
    rounds = [
        {"core": "nbd", "date": "2026-01-02", "executions": 3_000, "seconds": 2.0, "edges": 7},
        {"core": "nbd", "date": "2026-01-03", "executions": 1_000, "seconds": 2.0, "edges": 9},
    ]
    lines = [json.dumps({**one, "finding": number == 1}) for number, one in enumerate(rounds)]
    (tmp_path / "results.jsonl").write_text("\n".join(lines) + "\n")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        record(tmp_path, page)
        text = page.read_text()
        assert "| nbd | 4,000 | 2026-01-02, 2026-01-03 | 1,000 | 9 | 1 |" in text
        assert text.startswith("before\n")
        assert text.endswith(f"{END}\nafter\n")
        assert "old" not in text
