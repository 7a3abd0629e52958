"""The bounds that docs/security.md states, in bytes and packets; no time, no sockets."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.amplification import (
    PATH,
    TFTP_CASES,
    Case,
    measure,
    measure_forged_ack,
    measure_tftp,
    render,
)
from server.protocols.tftp_wire import pack_request

DOCS = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
DATA = 516


def test_tftp_without_options_is_one_block_and_two_retransmissions() -> None:
    case = measure_tftp({})
    assert case.answers == (DATA, DATA, DATA)
    assert case.sent == len(b"\0\1" + PATH.encode() + b"\0octet\0")
    assert f"| {case.sent} | 3 | 1548 | {case.factor:.1f} |" in DOCS


@given(st.dictionaries(st.sampled_from(["x", "blksize", "tsize", "timeout"]), st.text("0z")))
def test_whatever_the_options_three_packets_leave(options: dict[str, str]) -> None:
    case = measure_tftp(options)
    assert len(case.answers) == 3
    # What is not an OACK is the first block, never more of the window.
    assert all(size == DATA or size <= len(pack_request(PATH, options)) for size in case.answers)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "blksize": st.integers(8, 65464).map(str),
            "windowsize": st.integers(1, 65535).map(str),
            "timeout": st.integers(1, 255).map(str),
            "tsize": st.just("0"),
        },
    ).filter(bool)
)
def test_with_options_the_answer_is_about_as_long_as_the_question(options: dict[str, str]) -> None:
    case = measure_tftp(options)
    assert len(case.answers) == 3
    assert case.factor < 2.5


def test_a_small_file_is_no_more() -> None:
    assert measure_tftp({}, size=10).answers == (14, 14, 14)


@pytest.mark.parametrize(
    ("service", "packets", "factor"), [("TFTP", 3, 65.0), ("DHCP", 1, 1.5), ("DNS", 1, 8.0)]
)
def test_bounds_by_service(service: str, packets: int, factor: float) -> None:
    cases = [case for case in measure() if case.service == service]
    assert len(cases) >= 5
    for case in cases:
        assert len(case.answers) <= packets, case
        assert case.factor <= factor, case
        assert case.answers, f"{case.name}: this request is not answered: it measures nothing"


def test_every_tftp_case_is_measured_under_its_name() -> None:
    assert [case.name for case in measure()[: len(TFTP_CASES)]] == list(TFTP_CASES)


def test_forged_acks_are_told_of() -> None:
    case = measure_forged_ack()
    assert sum(case.answers) == 130_936
    assert "131 kB for 4 bytes" in DOCS


def test_the_table_is_markdown() -> None:
    table = render([Case("TFTP", "x", 10, (100, 50))])
    assert table.splitlines()[-1] == "| TFTP | x | 10 | 2 | 150 | 15.0 | 5.4 |"
