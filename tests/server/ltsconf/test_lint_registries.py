"""REGISTRY_MIRRORS as the linter sees it: what it lets pass, the node takes."""

import pytest

from server.ltsconf.files import read_nothing
from server.ltsconf.lint import lint
from server.ltsconf.scan import Included


def find(value: str) -> list[tuple[str, str, str]]:
    text = f'[default]\nREGISTRY_MIRRORS = "{value}"\n'
    problems = lint(Included("main", "lts.conf", text.encode()), read_nothing)
    return [(one.severity, one.code, one.message) for one in problems]


@pytest.mark.parametrize(
    "value",
    [
        "docker.io=https://mirror.example",
        "docker.io=https://mirror.example registry.k8s.io=http://10.9.0.1:5000",
        "*=https://m.example:8443/v2/all,ca=/etc/ssl/own.crt",
        "10.9.0.1:5000=http://10.9.0.1:5000/",
        "",
        "NONE",
    ],
)
def test_what_is_right_passes(value: str) -> None:
    assert find(value) == []


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("docker.io", "names no registry"),
        ("https://mirror.example", "names no registry"),
        ("docker.io/library=https://m", "names no registry"),
        ("docker.io=mirror.example", "has no URL after the ="),
        ("docker.io=ftp://mirror.example", "has no URL after the ="),
        ("docker.io=https://", "has no URL after the ="),
        ("docker.io=https://m,ca=own.crt", "'ca=own.crt' is none of its settings"),
        ("docker.io=https://m,insecure", "'insecure' is none of its settings"),
    ],
)
def test_what_is_wrong_is_an_error(value: str, says: str) -> None:
    [(severity, code, message)] = find(f"quay.io=https://good.example {value}")
    assert (severity, code) == ("error", "bad-value")
    assert says in message


def test_plain_http_has_no_ca() -> None:
    [(severity, _, message)] = find("docker.io=http://m,ca=/x.crt")
    assert severity == "warning"
    assert "plain http" in message


def test_a_long_word_is_cut() -> None:
    [(_, _, message)] = find("x" * 5000)
    assert len(message) < 200
