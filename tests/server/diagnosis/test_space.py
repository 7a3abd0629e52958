"""Findings on file systems that fill: which one, since when, and until when."""

from pathlib import Path

from server.diagnosis import diagnose
from server.nodes.timelines import Nodes
from tests.server.diagnosis.story import FARM, Story


def test_it_names_the_fullest_of_its_kind_and_how_large_it_is() -> None:
    finding = Story().to_ready().space("/srv/a:91:0:4096 /srv/b:10:97:2048 /:79:0:650").finding()
    assert finding is not None
    assert (finding.rule, finding.severity, finding.phase) == ("disk-full", "error", "ready")
    assert "/srv/b is all but full: in use are 97 % of its files (inodes; 10 % of 2 GiB)" in (
        finding.headline
    )
    assert "`du -xh --max-depth=3 /srv/b | sort -h | tail`" in finding.check[0]


def test_it_holds_while_the_machine_boots_and_ends_with_it() -> None:
    story = Story().to_systemd().space("/:96:0:650")
    told = story.now
    story.wait(30).beacon("rcfile", "RCFILE_1", status="start")
    finding = story.finding()
    assert finding is not None
    assert (finding.rule, finding.phase, finding.since) == ("overlay-full", "rcfile", told)
    assert story.space("/:40:0:650").rule() is None
    assert story.space("/:96:0:650").beacon("shutdown").rule() is None


def test_the_next_boot_begins_without_it_and_late_words_are_the_last_ones() -> None:
    story = Story().to_ready().space("/:96:0:650")
    assert story.rule() == "overlay-full"
    story.see("beacon", "initramfs", status="ok", boot="two")
    assert story.rule() is None
    assert story.space("/:96:0:650").rule() is None, "a beacon of boot one, late"


def test_it_is_no_step_of_a_boot_and_stands_in_no_list() -> None:
    story = Story().to_ready()
    before = list(story.node.events)
    for percent in range(100):
        story.space(f"/:{percent}:0:650")
    assert list(story.node.events) == before
    assert story.node.boot is not None
    assert story.node.boot.last_phase() == "ready"
    assert story.node.last_seen == story.now


def test_a_machine_that_was_never_seen_booting_has_no_finding() -> None:
    story = Story().space("/:96:0:650")
    assert story.node.boot is None
    assert story.rule() is None


def test_it_outlives_a_restart_of_the_server(tmp_path: Path) -> None:
    story = Story().to_ready().space("/:96:0:650")
    story.nodes.save(tmp_path)
    again = Nodes()
    again.load(tmp_path)
    (node,) = again.nodes()
    finding = diagnose(node, story.now, FARM)
    assert finding is not None
    assert finding.rule == "overlay-full"


def test_nonsense_that_was_kept_harms_nobody() -> None:
    for text in ("/", "/:x:0:1", "/:96:0:650 " * 9, "", "relative:1:1:1"):
        assert Story().to_ready().space(text).rule() is None
