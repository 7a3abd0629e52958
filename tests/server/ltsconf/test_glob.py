"""Globs against glibc's own fnmatch, in the C locale with FNM_CASEFOLD."""

import ctypes
import locale
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.ltsconf.glob import is_glob, match_glob

FNM_CASEFOLD = 16
LIBC = ctypes.CDLL(None)


@pytest.fixture(autouse=True, scope="module")
def _c_locale() -> Iterator[None]:
    before = locale.setlocale(locale.LC_ALL)
    locale.setlocale(locale.LC_ALL, "C")
    yield
    locale.setlocale(locale.LC_ALL, before)


def libc_matches(pattern: bytes, text: bytes) -> bool:
    return bool(LIBC.fnmatch(pattern, text, FNM_CASEFOLD) == 0)


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        (b"pc*", b"pc7", True),
        (b"PC?", b"pc7", True),
        (b"pc??", b"pc7", False),
        (b"*", b"", True),
        (b"?*", b"", False),
        (b"pc[0-9]", b"pc7", True),
        (b"pc[!0-9]", b"pc7", False),
        (b"pc[^a-z]", b"pc7", True),
        (b"[[:alpha:]]c7", b"pc7", True),
        (b"[[:upper:]]c7", b"pc7", False),
        (b"[A-C]x", b"bx", True),
        (b"[]a]", b"]", True),
        (b"[a-]", b"-", True),
        (b"pc[7", b"pc[7", True),
        (b"pc\\*", b"pc*", True),
        (b"pc\\*", b"pc7", False),
        (b"pc\\", b"pc", False),
        (b"*.example.org", b".example.org", True),
        (b"a/*", b"a/b/c", True),
        (b"[[.a.]]", b"a", True),
        (b"[[=b=]]", b"b", True),
        (b"[[:nosuch:]]", b"a", False),
        (b"\xe9*", b"\xe9x", True),
    ],
)
def test_known(pattern: bytes, text: bytes, matches: bool) -> None:
    assert match_glob(pattern, text) is matches
    assert libc_matches(pattern, text) is matches


PIECES = [b"a", b"B", b"c", b"7", b"-", b"!", b"^", b"*", b"?", b"\\", b".", b"[", b"]", b"\xe9"]
WHOLE = [b"[a-c]", b"[!B]", b"[[:alpha:]]", b"[[:digit:]x]", b"[]-a]", b"[[=b=]]", b"[[.c.]]"]
LETTERS = [b"a", b"A", b"b", b"C", b"7", b"-", b"]", b"[", b"\\", b".", b"\xe9", b"!"]


@settings(max_examples=1500, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES + WHOLE), max_size=9).map(b"".join),
    st.lists(st.sampled_from(LETTERS), max_size=5).map(b"".join),
)
def test_like_glibc(pattern: bytes, text: bytes) -> None:
    assert match_glob(pattern, text) == libc_matches(pattern, text)


@given(st.binary(max_size=20).filter(lambda name: not is_glob(name)), st.binary(max_size=20))
def test_what_is_no_glob_matches_only_itself(name: bytes, text: bytes) -> None:
    assert match_glob(name, text) == (name.lower() == text.lower())
