import re
from pathlib import Path
from string import Formatter

import pytest

from server.diagnosis import EXPECTATIONS, RULES, FarmFacts, Finding, diagnose
from server.diagnosis.reference import render_reference
from server.nodes.node import Node
from server.nodes.phases import PHASES
from tests.server.diagnosis.story import MAC, Story

DOCS = Path(__file__).parents[3] / "docs" / "diagnosis.md"


def test_a_node_that_was_only_seen_has_no_finding() -> None:
    assert diagnose(Node(MAC, MAC), 0.0, FarmFacts()) is None


def test_a_boot_without_trouble_has_no_finding_at_any_time() -> None:
    story = Story()
    found: list[Finding | None] = []
    record = story.nodes.record

    def look(event):  # type: ignore[no-untyped-def]
        record(event)
        found.append(story.finding())

    story.nodes.record = look  # type: ignore[method-assign]
    story.to_ready()
    assert len(found) > 20
    assert set(found) == {None}
    assert story.wait(1e7).rule() is None


def test_after_a_clean_shutdown_nothing_is_missing() -> None:
    assert Story().to_ready().beacon("shutdown").wait(1e7).rule() is None


def test_a_machine_that_joins_nothing_is_done_when_its_rcfiles_are() -> None:
    story = Story().to_systemd()
    assert story.all_lines().wait(1e7).rule() is None


def test_every_rule_has_an_id_of_its_own_and_stands_in_a_phase() -> None:
    ids = [rule.id for rule in RULES]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", word) for word in ids)
    assert {rule.phase for rule in RULES} <= set(PHASES)
    assert {"wrong-loader", "tftp-no-ack", "image-too-large"} <= set(ids)
    assert {"nbd-unreachable", "token-expired", "api-unreachable"} <= set(ids)


def test_every_phase_has_a_rule_and_an_expectation() -> None:
    assert set(EXPECTATIONS) == set(PHASES)
    judged = {rule.phase for rule in RULES}
    assert judged >= set(PHASES) - {"shutdown"}


def test_the_page_has_each_rule_as_it_is() -> None:
    assert DOCS.read_text() == render_reference()
    for rule in RULES:
        assert f"\n### {rule.id}\n" in DOCS.read_text()


def test_templates_name_values_and_nothing_inside_of_them() -> None:
    for rule in RULES:
        for text in (rule.headline, rule.expected, rule.seen, *rule.check):
            names = [name for _, name, _, _ in Formatter().parse(text) if name is not None]
            assert all(name.isidentifier() for name in names), text


def test_what_a_node_says_is_never_a_template() -> None:
    story = Story().to_join().beacon("join", "try 1: {server.__class__} {0} %s", "error")
    found = story.finding()
    assert found is not None
    assert "{server.__class__} {0} %s" in found.headline


def test_a_finding_ends_with_the_next_boot() -> None:
    story = Story().to_join().failed_join("join_away")
    assert story.rule() == "api-unreachable"
    story.to_menu()
    assert story.rule() is None


@pytest.mark.parametrize("phase", [name for name in PHASES if EXPECTATIONS[name].seconds])
def test_a_phase_is_stalled_after_its_time_and_not_before(phase: str) -> None:
    story = Story(FarmFacts())
    story.see("beacon" if phase != "dhcp" else "dhcp", phase, status="ok", firmware="x")
    seconds = EXPECTATIONS[phase].seconds
    assert seconds is not None
    story.wait(seconds)
    assert story.rule() is None
    story.wait(1)
    found = story.finding()
    assert found is not None
    assert found.severity == "stalled"
    assert found.since == pytest.approx(story.now - seconds - 1)
    assert found.check


def test_a_large_file_on_its_way_over_http_is_no_stall() -> None:
    file = "/ltsp/amd64/@x/vmlinuz"
    story = Story().to_menu().see("http", "transfer", file=file, status="start", size=9)
    assert story.wait(600).rule() is None
    story.see("http", "transfer", file=file, status="ok", bytes=9)
    assert story.wait(61).rule() == "kernel-stalled"


def test_a_file_on_its_way_is_no_stall() -> None:
    story = Story().to_menu().tftp("/ltsp/amd64/@x/initrd.img", status="start", bytes=0)
    assert story.wait(600).rule() is None
    assert story.wait(1800).rule() == "initrd-stalled"
