"""Words as the shell has them: dash is asked."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.ltsconf.ltsp23.words import CodeError, OpenError, Word, split_words


def ask_shell(line: str) -> list[str] | None:
    """The words of a line without anything computed; None where dash does not take it."""
    script = f"set -f\nfor word in {line}\ndo printf '%s\\0' \"$word\"\ndone"
    done = subprocess.run(["sh"], input=script.encode(), capture_output=True, check=False)
    if done.returncode or done.stderr:
        return None
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("A=1", ["A=1"]),
        ('A="a b"  B=c # no', ["A=a b", "B=c"]),
        ("A=a#b", ["A=a#b"]),
        ('A=\'"1024x768" "800x600"\'', ['A="1024x768" "800x600"']),
        (r'A="\$x \" \\ \a"', [r'A=$x " \ \a']),
        (r"A=\$x\ y", ["A=$x y"]),
        ("A='$x `y`'", ["A=$x `y`"]),
        ('A="a\nb"', ["A=a\nb"]),
        ("A=a\\\nb", ["A=ab"]),
        ('A=""', ["A="]),
        ("", []),
        ("# all", []),
        ('A="100%" B=%{IP} C=$', ["A=100%", "B=%{IP}", "C=$"]),
    ],
)
def test_plain_words_are_the_shells(line: str, words: list[str]) -> None:
    assert split_words(line) == [Word(word) for word in words]
    if line.partition("#")[0].strip():
        assert ask_shell(line.partition(" #")[0]) == words


@pytest.mark.parametrize(
    ("line", "computed"),
    [
        ("A=$SERVER", "$SERVER"),
        ('A="x ${SERVER:-y} z"', "${SERVER:-y}"),
        ('A="`date +%s`"', "`date +%s`"),
        ('A="$(echo "a b")"', '$(echo "a b")'),
        ("A=$(date +%s)", "$(date +%s)"),
        ("A=~/x", "~"),
        ("A=$1", "$1"),
    ],
)
def test_what_the_shell_computes_is_found(line: str, computed: str) -> None:
    assert split_words(line)[0].computed == computed


@pytest.mark.parametrize("line", ["A=1; B=2", "a | b", "a && b", "a >b", "f() {", "(a)"])
def test_more_than_words(line: str) -> None:
    with pytest.raises(CodeError):
        split_words(line)


@pytest.mark.parametrize("line", ["A='x", 'A="x', "A=x\\", "A=\"x'"])
def test_an_open_end(line: str) -> None:
    with pytest.raises(OpenError):
        split_words(line)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab= '\"\\#%", min_size=1, max_size=14))
def test_any_text_without_anything_computed(line: str) -> None:
    told = ask_shell(line)
    try:
        words = [word.text for word in split_words(line)]
    except OpenError:
        return  # dash may see its end further down, in what the test writes behind it
    assert told is None or told == words
