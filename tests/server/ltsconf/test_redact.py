import pytest

from server.ltsconf.redact import redact

TOKEN = "abcdef.0123456789abcdef"
SECRETS = {"token": TOKEN, "k8s": {"pin": "2718"}, "short": "ab", "ca": "line one\nline two"}


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("nothing to hide: abacus", "nothing to hide: abacus"),
        (f"'dict object' has no attribute '{TOKEN}'", "'dict object' has no attribute '(secret)'"),
        ("cut off: 'abcdef.01234", "cut off: '(secret)"),
        (f"{TOKEN}{TOKEN}", "(secret)"),
        ("pin=2718!", "pin=(secret)!"),
        ("said:line two.", "said:(secret)."),
        ("", ""),
    ],
)
def test_no_piece_of_a_secret_is_left(text: str, safe: str) -> None:
    assert redact(text, SECRETS) == safe


def test_without_secrets_nothing_changes() -> None:
    assert redact("as it is", {}) == "as it is"
