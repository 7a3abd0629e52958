from typing import Any

import pytest

from server.nodes import PHASES, describe
from server.quantities import name_age
from server.terminal.render import (
    render_bar,
    render_event,
    render_log,
    render_node,
    render_nodes,
)
from server.terminal.words import make_table, name_amount, name_rate, name_seconds
from tests.server.diagnosis.story import START, Story

SAID = "try 1: token refused: the cluster has no token abcdef (expired, or never made)"


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
    bad = Story().to_join().beacon("join", SAID, "error")
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
    bad = answer(Story().to_join().beacon("join", SAID, "error"))
    lines = render_nodes([bad], START, width=60)
    assert len(lines[1]) == 60
    assert lines[1].endswith("…")


def test_one_node_with_its_timeline() -> None:
    story = Story().dhcp(firmware="x86 BIOS", address="10.9.0.11", dhcp_server="10.9.0.3")
    story.tftp("/ltsp/amd64/@x/initrd.img", bytes=14 << 20, seconds=7.0, retries=3)
    story.beacon("initramfs", "6.1.0", memory=2048, serial="SN1").beacon("join", SAID, "error")
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
    assert " ".join(row.split()) == "initrd ok +1.0 s 0.0 s 14 MiB 2 MiB/s 3"
    assert "Its last 2 events:" in text
    assert lines[-1].endswith(f"beacon  join  error  {SAID}")


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
