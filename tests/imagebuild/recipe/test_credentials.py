"""Keys and hashes that were cut on their way into a recipe, against ssh-keygen's and openssl's."""

import subprocess
from pathlib import Path

import pytest

from imagebuild.recipe.credentials import find_hash_fault, find_key_fault


def make_key(directory: Path, kind: str) -> str:
    """A line of an id_*.pub file."""
    command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "me at home", "-f", "key"]
    subprocess.run(command, cwd=directory, check=True)
    return (directory / "key.pub").read_text().rstrip("\n")


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_key_whole_and_cut(tmp_path: Path, kind: str) -> None:
    line = make_key(tmp_path, kind)
    name, text, comment = line.split(" ", 2)
    assert find_key_fault(line) is None
    assert find_key_fault(f"{name} {text}") is None
    for length in (1, 4, 20, len(text) - 4):
        assert find_key_fault(f"{name} {text[:length]} {comment}") is not None, length
    fault = find_key_fault(f"ssh-dss {text}")
    assert fault is not None
    assert fault.startswith(f"it says ssh-dss, and the key is '{name}'")


@pytest.mark.parametrize("method", ["-5", "-6"])
def test_a_hash_of_openssl_whole_and_cut(method: str) -> None:
    command = ["openssl", "passwd", method, "-salt", "pinch", "secret"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    assert find_hash_fault(text) is None
    assert find_hash_fault(text.replace("$pinch", "$rounds=5000$pinch")) is None
    for wrong in (text[:-1], text + "x", f"${method[1]}$pinch", text.rsplit("$", 1)[0] + "$"):
        assert find_hash_fault(wrong) is not None, wrong


@pytest.mark.parametrize(
    ("text", "is_whole"),
    [
        # crypt(5)'s own examples of shapes: yescrypt of mkpasswd, bcrypt of htpasswd.
        ("$y$j9T$" + "a" * 22 + "$" + "b" * 43, True),
        ("$y$j9T$" + "a" * 22 + "$" + "b" * 42, False),
        ("$2b$12$" + "c" * 53, True),
        ("$2b$12$" + "c" * 52, False),
        ("$y$", False),
    ],
)
def test_shapes_of_other_hashes(text: str, is_whole: bool) -> None:
    assert (find_hash_fault(text) is None) is is_whole
