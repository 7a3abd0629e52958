"""Each cause is given somewhere, and each sentence of ours has one beside it."""

import re
from pathlib import Path

import pytest

from server.causes import CAUSES
from server.diagnosis import RULES
from tests.server.metrics.test_causes import words_of

HOUSE = Path(__file__).parents[2]
NODE = HOUSE / "imagebuild/rootfs/usr"
# Those that Kubernetes' own words, or the server's, are the facts of: server/diagnosis/join.py.
_WITHOUT = ("join",)


def scripts() -> dict[str, str]:
    """The node's shell, by file; a line that goes on is one line."""
    paths = [*(NODE / "lib/bootfarm").rglob("*"), NODE / "sbin/init-ltsp"]
    paths += (NODE / "share/initramfs-tools/scripts").rglob("*")
    texts = {str(path.relative_to(NODE)): path.read_bytes() for path in paths if path.is_file()}
    return {
        name: data.decode().replace("\\\n", " ")
        for name, data in texts.items()
        if b"/bin/sh" in data[:20] or b"shellcheck shell=sh" in data[:30]
    }


def test_plans_have_each_cause_of_theirs() -> None:
    server = HOUSE / "server"
    places = [*server.glob("boot/*.py"), server / "site.py", server / "background.py"]
    places += [server / "machines/identity.py", server / "ltsconf/errors.py"]
    said = set().union(*map(words_of, places))
    assert set(CAUSES["plan"]) <= said


def test_the_node_gives_each_cause_and_no_other() -> None:
    given: set[str] = set()
    for name, text in scripts().items():
        given |= set(re.findall(r"(?:^|[ ;\n])fail ([a-z_]+) [\"']", text))
        given |= (
            set(re.findall(r"[0-9*]\) echo ([a-z_]+) ;;", text))
            if re.search("nbd|verity", name)
            else set()
        )
        given |= set(re.findall(r"state_put root-cause \"?([a-z_]+)", text))
        given |= set(re.findall(r"FAILED_CAUSE=([a-z_]+)", text))
        for words in re.findall(
            r"report\"? [a-z]+ (?:ok|start|error) \"(?:[^\"]|\$\([^)]*\))*\"(.*)", text
        ):
            if match := re.match(r" +([a-z_]+)", words):
                given.add(match[1])
        given |= set(re.findall(r"\bblame \"\$[0-9]\" ([a-z_]+)", text))
    for source in (NODE / "src/bootfarm").rglob("*.c"):
        given |= set(re.findall(r'"cause", "([a-z_]+)"', source.read_text()))
    given |= set(CAUSES["join"])  # it says again what the server has answered
    assert given == set(CAUSES["beacon"])


@pytest.mark.parametrize("name", sorted(scripts()))
def test_each_error_that_the_node_reports_has_a_cause(name: str) -> None:
    for line in scripts()[name].splitlines():
        if match := re.search(r"report\"? ([a-z]+) error (.*)", line):
            if match[1] in _WITHOUT:
                continue
            assert re.search(r"\" +(\"\$\w+\"|[a-z_]+)( |$)", match[2]), f"{name}: {line}"
        if match := re.match(r"\s*(?:\S+ \|\| )?fail (\S+)", line):
            assert re.fullmatch(r"[a-z_]+|\"\$\w+\"", match[1]), f"{name}: {line}"


def test_no_rule_searches_a_sentence_but_those_of_kubernetes() -> None:
    folder = HOUSE / "server/diagnosis"
    for path in folder.glob("*.py"):
        if path.name not in ("join.py", "case.py"):
            text = path.read_text()
            assert not re.search(r"\bsearch\(|\bre\.|startswith\(|removeprefix\(", text), path.name
    assert RULES
