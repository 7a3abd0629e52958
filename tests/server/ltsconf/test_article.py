"""An lts.conf with every variable of the article's ConfigMap, as a node gets it."""

from pathlib import Path

from server.ltsconf import LtsConf, NodeId, parse_flat, render_flat
from server.ltsconf.files import read_main, read_nothing
from server.ltsconf.lint import lint

GOLDENS = Path(__file__).parent / "goldens"
NODE = NodeId("node-1", "10.9.0.11", "52:54:00:00:00:01")


def test_the_flat_text() -> None:
    conf = LtsConf.load(GOLDENS / "article.conf")
    assert conf.problems == []
    flat = render_flat(conf.resolve(NODE))
    assert flat == (GOLDENS / "article.flat").read_text()
    assert len(parse_flat(flat)) == 14


def test_the_linter_has_nothing_against_it_but_the_token() -> None:
    problems = lint(read_main(GOLDENS / "article.conf"), read_nothing)
    assert [problem.code for problem in problems] == ["secret"]
    assert "504356e45fa3d365" not in problems[0].excerpt
