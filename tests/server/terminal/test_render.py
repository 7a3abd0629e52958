from typing import Any

import pytest

from server.nodes.node import describe
from server.nodes.phases import PHASES
from server.quantities import name_age
from server.terminal.render import (
    count_nodes,
    render_bar,
    render_event,
    render_log,
    render_node,
    render_nodes,
    render_progress,
    render_screen,
    render_table,
)
from server.terminal.words import make_table, name_amount, name_rate, name_seconds
from tests.server.diagnosis.story import START, Story

SAID = "try 1: token refused: the cluster has no token abcdef (expired, or never made)"
REFUSED = {"cause": "join_token", "said": "", "bootstrap": "abcdef"}


def answer(story: Story) -> dict[str, Any]:
    """What /api/nodes/KEY says of it."""
    found = story.finding()
    return {**describe(story.node), "finding": found.to_json() if found else None}


@pytest.mark.parametrize(
    ("phase", "severity", "bar"),
    [
        (None, None, ".............."),
        ("dhcp", None, ">............."),
        ("root", "error", "########!....."),
        ("initrd", "stalled", "####?........."),
        ("join", "note", "############>."),
        ("ready", None, "##############"),
        ("ready", "note", "##############"),
        ("ready", "error", "#############!"),
        ("shutdown", None, "--------------"),
        ("another", None, ".............."),
    ],
)
def test_bar(phase: str | None, severity: str | None, bar: str) -> None:
    finding = {"severity": severity} if severity else None
    assert render_bar(phase, finding, unicode=False) == bar
    assert len(bar) == len(PHASES) - 1


def test_nodes_are_a_table_and_a_count() -> None:
    bad = Story().to_join().beacon("join", SAID, "error", **REFUSED)
    good = Story().to_ready()
    seen = {"mac": None, "ip": "10.9.0.99", "hostname": None, "phase": None, "finding": None}
    lines = render_nodes([answer(bad), answer(good), seen], bad.now + 90, unicode=False)
    head, first, second, third, empty, count = lines
    assert " ".join(head.split()) == "NODE IP BOOT PHASE SINCE IMAGE WHAT IS THE MATTER"
    assert first.startswith("node-1     10.9.0.11  ############!.  join   1 min")
    assert first.endswith("amd64 aaaaaaaaaaaa  ! kubeadm join: token expired or never made.")
    assert "##############  ready" in second
    assert third.split() == ["10.9.0.99", "10.9.0.99", "..............", "seen"]
    assert (empty, count) == ("", "3 nodes, 1 ready, 1 with an error or stalled")


def test_a_narrow_terminal_cuts_lines() -> None:
    bad = answer(Story().to_join().beacon("join", SAID, "error", **REFUSED))
    lines = render_nodes([bad], START, width=60)
    assert len(lines[1]) == 60
    assert lines[1].endswith("…")


def many(count: int) -> list[dict[str, Any]]:
    bad = answer(Story().to_join().beacon("join", SAID, "error", **REFUSED))
    return [
        {**bad, "hostname": f"rack-1-node-{n:03}", "state": "look", "tags": ["current"]}
        for n in range(count)
    ]


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_what_is_the_matter_can_be_read_however_narrow_it_is(width: int) -> None:
    lines = render_table(many(3), START, width=width)
    assert max(map(len, lines)) <= width
    assert "! kubeadm join: token expired or" in lines[1]
    assert ("10.9.0.11" in lines[1]) == (width >= 120)
    assert "rack-1-node-000" in lines[1]
    assert "join" in lines[1]


@pytest.mark.parametrize("height", [5, 10, 24, 50])
def test_a_screen_fits_the_window(height: int) -> None:
    causes = [
        {"count": 300 - n, "words": f"cause {n}", "names": [f"n{one}" for one in range(50)]}
        for n in range(20)
    ]
    overview = {"total": 295, "states": {"look": 295, "off": 0}, "causes": causes}
    lines = render_screen(many(60), overview, START, width=80, height=height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("  300  cause 0  n[0-9], n[10-49]") == (height >= 10)
    assert "rack-1-node-000" in "\n".join(lines)
    assert lines[-1] == "295 nodes, 295 need a look"
    assert lines[-2].startswith("… ")
    left = int(lines[-2].split()[1])
    assert left + sum("rack-1-node" in line for line in lines) == 295


def test_a_machine_that_was_never_seen() -> None:
    node: dict[str, Any] = {"mac": "52:54:00:00:00:09", "hostname": "n9", "state": "unseen"}
    node |= {"labels": {"rack": "r1"}, "bmc": "https://10.0.0.9/", "serial": "SN-9"}
    row = render_nodes([node], START, unicode=False)[1]
    assert row.split() == ["n9", "..............", "unseen"]
    text = "\n".join(render_node(node, START))
    assert "serial SN-9" in text
    assert "rack r1, management controller https://10.0.0.9/" in text
    assert "never seen: switch it on" in text
    assert count_nodes([node]).endswith("1 not seen yet")


def test_one_node_with_its_timeline() -> None:
    story = Story().dhcp(firmware="x86 BIOS", address="10.9.0.11", dhcp_server="10.9.0.3")
    story.tftp("/ltsp/amd64/@x/initrd.img", bytes=14 << 20, seconds=7.0, retries=3)
    story.beacon("initramfs", "6.1.0", memory=2048, serial="SN1").beacon(
        "join", SAID, "error", **REFUSED
    )
    lines = render_node(answer(story), story.now + 5, unicode=False, events=2)
    text = "\n".join(lines)
    assert lines[0] == "node-1  52:54:00:00:00:01  10.9.0.11"
    assert lines[1] == "machine: x86 BIOS, 2 GiB of memory, serial SN1"
    assert lines[2] == "network: address 10.9.0.11, given by the DHCP server 10.9.0.3"
    assert "############!.  join: error, since 5 s" in text
    assert "! kubeadm join: token expired or never made.\n  error in phase join, for 5 s\n" in text
    assert "    1. make a new one where admin.conf is: `kubeadm token create" in text
    assert "(rule token-expired, docs/diagnosis.md)" in text
    row = next(line for line in lines if line.startswith("initrd "))
    assert " ".join(row.split()) == "initrd ok +0.0 s 7.0 s 14 MiB 2 MiB/s 3"
    assert "Its last 2 events:" in text
    assert lines[-1].endswith(f"beacon  join  error  {SAID}  cause=join_token bootstrap=abcdef")


def test_one_node_says_how_full_its_file_systems_are() -> None:
    story = Story().to_ready().space("/:63:2:650 /run:1:1:64")
    lines = render_node(answer(story), story.now)
    assert "in use:  / 63 % of 650 MiB, /run 1 % of 64 MiB" in lines
    assert not any("in use" in line for line in render_node(answer(Story().to_ready()), START))


def test_what_a_terminal_would_obey_is_not_shown() -> None:
    node = {
        "hostname": "a\x1b[2Jb",
        "phase": "join",
        "finding": {"severity": "error", "headline": "x\x07y\nz", "check": ["\x1b]0;t\x07"]},
        "boot": {"phases": {"join\x1b": {"detail": "\x9b1m"}}},
        "events": [{"detail": {"\x1b": "\x1b"}}],
    }
    text = "\n".join([*render_nodes([node], 0.0), *render_node(node, 0.0, events=1)])
    assert "x?y?z" in text
    assert all(char.isprintable() or char == "\n" for char in text)


def test_a_node_that_was_only_seen() -> None:
    lines = render_node({"mac": None, "ip": "10.9.0.9", "hostname": None, "boot": None}, 0.0)
    assert lines == ["10.9.0.9", "", "no boot of it was seen", "", "no phase of a boot was seen"]


def test_an_event_is_a_line() -> None:
    event = {
        "time": 1_700_000_000.25,
        "node": "52:54:00:00:00:01",
        "source": "tftp",
        "phase": "initrd",
        "what": "transfer",
        "detail": {
            "path": "/ltsp/amd64/initrd.img",
            "bytes": 2 << 20,
            "size": 2 << 20,
            "seconds": 0.5,
            "retries": 4,
            "status": "ok",
            "options": "blksize=1468",
        },
        "count": 2,
    }
    words = render_event(event).split("  ")
    assert words[0].endswith(".250")
    assert words[1:] == [
        *("52:54:00:00:00:01", "tftp", "initrd", "ok", "/ltsp/amd64/initrd.img"),
        *("2 MiB", "in 0.50 s", "retries=4", "(2 times)"),
    ]
    assert render_event({"time": 0, "source": "nbd", "what": "attach"}).endswith("nbd  attach")


def test_words() -> None:
    assert [name_age(s) for s in (-1, 59, 60, 7500, 200_000)] == [
        *("0 s", "59 s", "1 min", "2 h 5 min", "2 d 7 h"),
    ]
    assert [name_amount(n) for n in (0, 17, 1536, 240 << 20)] == ["", "17 B", "1.5 KiB", "240 MiB"]
    assert (name_rate(1 << 20, 2.0), name_rate(5, 0), name_rate(0, 5)) == ("512 KiB/s", "", "")
    assert (name_seconds(1.25), name_seconds(180)) == ("1.2 s", "3 min")
    assert make_table(("A", "B"), [("long", ""), ("x", "y")]) == ["A     B", "long", "x     y"]


def test_the_kernels_lines_by_boot() -> None:
    def boot(number: int, *texts: str) -> dict[str, Any]:
        lines = [{"time": 0.0, "source": "netconsole", "severity": 0, "text": t} for t in texts]
        return {"boot": number, "lines": lines}

    log = {"present": 3, "boots": [boot(1, "a"), boot(2, "b", "panic\x1b[2J"), boot(3, "c")]}
    lines = render_log(log, 3)
    assert [line.split("  ")[-1] for line in lines] == [
        "",
        "Kernel and syslog, the boot before:",
        *("b", "panic?[2J"),
        "Kernel and syslog, this boot:",
        "c",
    ]
    assert "Kernel and syslog, 2 boots ago:" in render_log(log, 9)
    nothings: list[object] = [None, {}, {"boots": []}, {"boots": [3, {"lines": 4}]}]
    for nothing in nothings:
        assert "No line of its kernel came" in render_log(nothing, 9)[1]


def test_how_the_farm_boots() -> None:
    booting = {
        "now": 60,
        "ready_in_10_min": 80,
        "ready_in_1_min": 12,
        "median_seconds": 52.4,
        "slowest_phase": "initrd",
        "slowest_phase_seconds": 21.0,
    }
    words = "12 became ready in the last minute, median 52 s, slowest phase initrd (21 s)"
    assert render_progress({"booting": booting}) == words
    screen = render_screen([], {"booting": booting, "total": 0}, 0.0, width=200, height=24)
    assert screen[-1] == f"0 nodes, {words}"
    assert render_progress({"booting": {**booting, "ready_in_10_min": 0}}) == ""
    assert render_progress({}) == ""
