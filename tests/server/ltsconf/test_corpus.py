"""Every observed case of LTSP 5's own resolver (corpus/README.md)."""

import json
from pathlib import Path
from typing import Any

import pytest

from server.ltsconf import LtsConf, LtsConfError, NodeId
from server.ltsconf.problem import Outcome
from server.ltsconf.scan import Included

CORPUS = Path(__file__).parent / "corpus"
CASES: list[dict[str, Any]] = json.loads((CORPUS / "cases-public.json").read_text())
# LTSP 5 on its client reads this file; an include may name it.
MAIN = "/etc/lts.conf"


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def read_conf(case: dict[str, Any], *, ltsp5: bool) -> LtsConf:
    files: dict[str, str] = {MAIN: case["conf"], **case.get("includes", {})}
    directories = {str(Path(path).parent) for path in files}

    def read_include(path: bytes) -> Included | None:
        name = path.decode("utf-8", "surrogateescape")
        if name in directories:
            return Included(name, name, None)
        if name not in files:
            return None
        identity = "main" if name == MAIN else name
        return Included(identity, name, encode(files[name]))

    return LtsConf.parse(encode(case["conf"]), read_include, path=MAIN, ltsp5=ltsp5)


def resolve(case: dict[str, Any], *, ltsp5: bool) -> dict[str, str]:
    return read_conf(case, ltsp5=ltsp5).resolve(NodeId(**case["node"]))


def parametrize(cases: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case["slug"] for case in cases])


def test_the_corpus_is_whole() -> None:
    assert len(CASES) == 406


@parametrize([case for case in CASES if not case["crashes"]])
def test_ltsp5_mode_gives_what_the_original_printed_in_its_order(case: dict[str, Any]) -> None:
    assert list(resolve(case, ltsp5=True).items()) == list(case["expect"].items())


@parametrize([case for case in CASES if case["crashes"]])
def test_what_crashes_the_original_is_an_error_in_both_modes(case: dict[str, Any]) -> None:
    for ltsp5 in (True, False):
        with pytest.raises(LtsConfError) as caught:
            resolve(case, ltsp5=ltsp5)
        assert caught.value.line > 0
        assert caught.value.hint


@parametrize([case for case in CASES if case["stopped"]])
def test_what_stops_the_original_is_told_with_place_and_remedy(case: dict[str, Any]) -> None:
    with pytest.raises(LtsConfError) as caught:
        read_conf(case, ltsp5=False)
    assert caught.value.line > 0
    assert caught.value.column > 0
    assert caught.value.hint
    assert any(p.outcome is Outcome.STOPS for p in read_conf(case, ltsp5=True).problems)


@parametrize([case for case in CASES if not case["crashes"] and not case["stopped"]])
def test_what_the_original_parses_whole_gives_the_same_values(case: dict[str, Any]) -> None:
    assert list(resolve(case, ltsp5=False).items()) == list(case["expect"].items())


@parametrize([case for case in CASES if case.get("echoed")])
def test_echoed_bytes_are_told(case: dict[str, Any]) -> None:
    codes = [problem.code for problem in read_conf(case, ltsp5=True).problems]
    told = codes.count("stray-quote") + codes.count("comment-without-newline")
    assert told == len(case["echoed"])
    assert told > 0


@parametrize([case for case in CASES if not case.get("echoed") and not case["crashes"]])
def test_nothing_is_said_to_be_echoed_that_was_not(case: dict[str, Any]) -> None:
    codes = {problem.code for problem in read_conf(case, ltsp5=True).problems}
    assert not codes & {"stray-quote", "comment-without-newline"}


@parametrize([case for case in CASES if "warning" in case])
def test_a_file_included_twice_is_told(case: dict[str, Any]) -> None:
    codes = [problem.code for problem in read_conf(case, ltsp5=True).problems]
    assert "include-again" in codes
