"""Section names that no node can have."""

import pytest

from server.ltsconf.glob import match_glob
from server.ltsconf.reach import can_match, explain_unreachable


@pytest.mark.parametrize(
    "name",
    ["pc7", "pc*", "r?-n[0-9]*", "*", "192.168.*", "10.9.0.25?", "10.9.0.0", "*.7", "52:54:00:*",
     "52:54:00:*:*:*", "52:54:00:9C:1E:03", "(none)", "[!a-z]*", "web_1", "be-ef-*"],
)  # fmt: skip
def test_names_that_some_node_can_have(name: str) -> None:
    assert can_match(name.encode())
    assert explain_unreachable(name.encode()) is None


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("b8:27:eb:*|dc:a6:32:*", "a section for each"),
        ("192.168.67.*, 192.168.68.*", "a section for each"),
        ("192.168.67.0/*", "a section for each"),
        ("192.168.67.0/24", "Write a glob"),
        ("10.9.0.1-10.9.0.9", "Write a glob"),
        ("192.168.*.*.*", "Correct the name"),
        ("10.9.0.256", "Correct the name"),
        ("10.9.0.26?", "Correct the name"),
        ("10.09.0.1", "Correct the name"),
        ("52:54:00:*:*:*:*:*", "Correct the name"),
        ("52:54:0:1:2:3", "Correct the name"),
        ("52-54-00-*", "[52:54:00:*]"),
        ("5254.00*", "[52:54:00:*]"),
        ("5254.0012.3456", "[52:54:00:12:34:56]"),
        ("525400123456", "[52:54:00:12:34:56]"),
        ("01-52-54-00-12-34-56", "[52:54:00:12:34:56]"),
        ("52-54-00-AB-34-56", "[52:54:00:ab:34:56]"),
        ("node-1.example.org", "Write [node-1]"),
        ("room one*", "Correct the name"),
        ("x" * 64, "Correct the name"),
        ("pc\\", "Correct the name"),
    ],
)
def test_names_that_no_node_has(name: str, hint: str) -> None:
    found = explain_unreachable(name.encode())
    assert found is not None
    assert hint in found[1]


@pytest.mark.parametrize("number", range(300))
def test_an_address_is_what_its_numbers_say(number: int) -> None:
    assert can_match(f"10.9.0.{number}".encode()) is (number < 256)
    assert can_match(f"{number}.*.0.1".encode()) is (number < 256)


def test_what_can_match_agrees_with_what_matches() -> None:
    """A glob that some id matches is never called unreachable."""
    ids = [b"pc-07", b"10.9.0.255", b"52:54:00:9c:1e:03"]
    pieces = [b"*", b"?", b"[0-9]", b"5", b".", b":", b"pc", b"-0", b"[!:]"]
    for first in pieces:
        for second in pieces:
            for third in pieces:
                name = first + second + third + b"*"
                if any(match_glob(name, one) for one in ids):
                    assert can_match(name), name
