"""Any bytes: no crash, no hang, and work that grows with the text, not faster."""

# ruff: noqa: PT017 - whether there is an error is up to the fuzzer

import os
import random
import sys
from collections.abc import Callable
from types import FrameType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from server.ltsconf import LtsConf, LtsConfError, NodeId, render_flat
from server.ltsconf.files import read_nothing
from server.ltsconf.lint import lint
from server.ltsconf.report import FORMATS, render_report
from server.ltsconf.scan import Included

NODE = NodeId("pc7", "10.9.0.7", "02:1b:44:11:3a:b7")
TEN_MB = 10 * 2**20

WORDS = [b"[default]\n", b"[pc7]\n", b"[pc*]\n", b"LIKE=", b"pc7", b"A", b"NONE", b"include "]
LINES = [b"A=1\n", b'B="2"\n', b"RCFILE_1=", b"\n\n", b"\f", "ä“".encode()]
pieces = st.sampled_from(
    [
        *WORDS,
        *LINES,
        b"[",
        b"]",
        b"=",
        b'"',
        b"'",
        b"#",
        b"\n",
        b"\r\n",
        b" ",
        b"\t",
        b"\0",
        b"\xef\xbb\xbf",
        b"\xff",
    ]
)
texts = st.one_of(st.binary(max_size=200), st.lists(pieces, max_size=40).map(b"".join))


def parse(text: bytes, *, ltsp5: bool) -> LtsConf | None:
    try:
        return LtsConf.parse(text, ltsp5=ltsp5)
    except LtsConfError as error:
        assert error.line > 0
        assert error.hint
        return None


@settings(max_examples=1500, deadline=None)
@given(texts)
@example(b"")
@example(b'[default]\nA="')
@example(b"include ")
@example(b"[\ninclude \n]")
def test_any_bytes(text: bytes) -> None:
    strict, ltsp5 = parse(text, ltsp5=False), parse(text, ltsp5=True)
    for conf in (strict, ltsp5):
        if conf is not None:
            try:
                render_flat(conf.resolve(NODE))
            except LtsConfError as error:
                assert "cycle" in str(error)
    if strict is not None:
        # What is no error has in our mode the meaning that it has in LTSP 5.
        assert ltsp5 is not None
        assert ltsp5.document.sections != [] or strict.document.sections == []
        assert [s.entries for s in strict.document.sections] == [
            s.entries for s in ltsp5.document.sections
        ]


@settings(max_examples=800, deadline=None)
@given(texts)
def test_the_linter_finds_an_error_wherever_the_parser_does(text: bytes) -> None:
    problems = lint(Included("main", "lts.conf", text), read_nothing)
    for form in FORMATS:
        render_report(problems, form)
    assert all(problem.line > 0 and problem.column > 0 and problem.hint for problem in problems)
    if parse(text, ltsp5=False) is None:
        assert any(problem.severity == "error" for problem in problems)


def run_all(text: bytes) -> None:
    for ltsp5 in (False, True):
        conf = parse(text, ltsp5=ltsp5)
        if conf is not None:
            try:
                conf.resolve(NODE)
            except LtsConfError as error:
                assert "cycle" in str(error)
    render_report(lint(Included("main", "lts.conf", text), read_nothing), "text")


def scatter(size: int) -> bytes:
    marks = b"[]=\"'#\n\nA \t"
    spread = bytes(marks[number % len(marks)] for number in range(256))
    return random.Random(1).randbytes(size).translate(spread)


@pytest.mark.timeout(300)
@pytest.mark.integration
@pytest.mark.parametrize(
    "text",
    [
        b'[default]\nA="' + b'"' * TEN_MB,
        b"[default]\nA=1\n" + b"#" * (TEN_MB // 4),
        b"[default]\nA=" + b"\0" * TEN_MB,
        b"[default]\nA=1\n" + b"'" * (TEN_MB // 4),
        b" " * TEN_MB,
        b"\r\n" * (TEN_MB // 2),
        b"=" * TEN_MB,
        b"[" * TEN_MB,
        b'["' + b"*a" * (TEN_MB // 2) + b'"]\nA=1\n',
        b'["' + b"[" * TEN_MB + b'"]\nA=1\n',
        b'["' + b"[\\]" * (TEN_MB // 3) + b'"]\nA=1\n',
        b'["' + b"[!" * (TEN_MB // 2) + b']"]\nA=1\n',
        b'[default]\nA="' + b"x" * TEN_MB + b'"\n',
        b"x" * TEN_MB,
        b"include " + b"x" * TEN_MB + b"\n",
        b'[default]\nA=1\ninclude "' + b"x" * TEN_MB,
        os.urandom(TEN_MB),
        scatter(TEN_MB),
    ],
    ids=[
        "quotes",
        "hashes",
        "nuls",
        "apostrophes",
        "blanks",
        "crlf",
        "equals",
        "brackets",
        "stars",
        "open-brackets",
        "escaped-brackets",
        "negated-brackets",
        "value",
        "word",
        "include",
        "include-quote",
        "random",
        "scatter",
    ],
)
def test_ten_megabytes_of_anything_come_to_an_end(text: bytes) -> None:
    run_all(text)


def count_calls(work: Callable[[], None]) -> int:
    """Calls of functions, C's too: the measure of work that no other load on the machine moves."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def chain(length: int) -> bytes:
    links = (b"[s%d]\nLIKE=s%d\nA%d=1\n" % (n, n + 1, n) for n in range(length))
    return b"[pc7]\nLIKE=s0\n" + b"".join(links)


def ladder(length: int) -> bytes:
    """Each rung includes both sides of the next: 2**length ways down."""
    rungs = (
        b"[a%d]\nLIKE=a%d\nLIKE=b%d\n[b%d]\nLIKE=a%d\nLIKE=b%d\nX%d=1\n"
        % (n, n + 1, n + 1, n, n + 1, n + 1, n)
        for n in range(length)
    )
    return b"[pc7]\nLIKE=a0\nLIKE=b0\n" + b"".join(rungs)


def circle(length: int) -> bytes:
    links = (b"[s%d]\nLIKE=s%d\n" % (n, (n + 1) % length) for n in range(length))
    return b"[pc7]\nLIKE=s0\n" + b"".join(links)


@pytest.mark.parametrize(
    "make",
    [
        chain,
        ladder,
        circle,
        lambda n: b"[default]\n" + b"".join(b"K%d = %d\n" % (i, i) for i in range(n)),
        lambda n: b"[default]\n" + b"A=1\n" * n,
        lambda n: b"".join(b"[s%d]\nA=1\n" % i for i in range(n)),
        lambda n: b"".join(b"[*%d*]\nA=1\n" % i for i in range(n)),
        lambda n: b"[default]\nA=1\n" + b"'\n" * n,
        lambda n: b"[default]\nA=1\n" + b"# x\n" * n,
        lambda n: b"[pc7]\nB=1\n" + b"LIKE=pc8\n" * n + b"[pc8]\nA=1\n",
    ],
    ids=[
        "chain",
        "ladder",
        "circle",
        "keys",
        "one-key",
        "sections",
        "globs",
        "quotes",
        "comments",
        "likes",
    ],
)
def test_work_grows_no_faster_than_the_text(make: Callable[[int], bytes]) -> None:
    run_all(make(10))  # what is made once is made now
    once, thrice = make(1000), make(3000)
    assert count_calls(lambda: run_all(thrice)) < 3.5 * count_calls(lambda: run_all(once)) + 2000


def test_a_chain_of_a_thousand_likes_gives_all_its_values() -> None:
    assert len(LtsConf.parse(chain(1000)).resolve(NODE)) == 1000
    assert len(LtsConf.parse(ladder(1000)).resolve(NODE)) == 1000
