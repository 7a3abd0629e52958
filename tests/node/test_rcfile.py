"""RCFILE_*: order, logs, what the server hears, what stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_lines_in_order_each_with_log_and_report(node: Any, served: Callable[[], Any]) -> None:
    server = served()
    node.flat(
        RCFILE_01_A='echo a >> "$BOOTFARM_ROOT/order"; echo said a',
        RCFILE_02_B='echo b >> "$BOOTFARM_ROOT/order"; echo "$PATH"',
    )
    assert node.script("rcfile").returncode == 0
    assert node.read("order") == "a\nb\n"
    assert node.read("var/log/bootfarm/RCFILE_01_A.log") == "said a\n"
    path = node.read("var/log/bootfarm/RCFILE_02_B.log")
    assert path.startswith(f"{node.root}/usr/lib/bootfarm/bin:")
    heard = [(b["phase"], b["status"], b["detail"]) for b in server.beacons]
    assert heard == [
        ("systemd", "ok", ""),
        ("rcfile", "start", "RCFILE_01_A"),
        ("rcfile", "ok", "RCFILE_01_A: exit 0"),
        ("rcfile", "start", "RCFILE_02_B"),
        ("rcfile", "ok", "RCFILE_02_B: exit 0"),
        ("rcfile", "ok", "all 2 lines"),
    ]


def test_first_failure_stops_and_is_heard(node: Any, served: Callable[[], Any]) -> None:
    server = served()
    node.flat(
        RCFILE_01="false; echo not reached",
        RCFILE_02='touch "$BOOTFARM_ROOT/second"',
    )
    done = node.script("rcfile", check=False)
    assert done.returncode == 1
    assert not (node.root / "second").exists()
    assert node.read("var/log/bootfarm/RCFILE_01.log") == ""
    assert server.beacons[-1]["status"] == "error"
    assert server.beacons[-1]["detail"] == "RCFILE_01: exit 1"
    assert "stopped at RCFILE_01" in done.stderr


def test_on_error_continue(node: Any, served: Callable[[], Any]) -> None:
    server = served()
    node.flat(
        RCFILE_01="echo why; exit 3",
        RCFILE_02='touch "$BOOTFARM_ROOT/second"',
        RCFILE_ON_ERROR="continue",
    )
    assert node.script("rcfile", check=False).returncode == 1
    assert (node.root / "second").exists()
    details = [b["detail"] for b in server.beacons if b["status"] == "error"]
    assert details == ["RCFILE_01: exit 3: why", "1 of 2 lines failed: RCFILE_01"]
    last = server.beacons[-1]
    assert (last["phase"], last["status"]) == ("rcfile", "error"), "its phase stays failed"


def test_syntax_error_in_one_line_does_not_touch_another(
    node: Any, served: Callable[[], Any]
) -> None:
    served()
    node.flat(
        RCFILE_01="echo 'unterminated",
        RCFILE_02='touch "$BOOTFARM_ROOT/second"',
        RCFILE_ON_ERROR="continue",
    )
    node.script("rcfile", check=False)
    assert (node.root / "second").exists()


def test_no_server_no_delay_no_failure(node: Any) -> None:
    node.flat(RCFILE_01="true")
    assert node.script("rcfile").returncode == 0


def test_report_carries_any_detail(node: Any, served: Callable[[], Any]) -> None:
    server = served()
    node.state(boot_id="11111111-2222-3333-4444-555555555555")
    detail = "a&b=c %41 + \"q\" 'x' $(id) ž\nsecond line"
    node.script("report", "root", "error", detail)
    assert server.beacons == [
        {
            "mac": "52:54:00:00:00:01",
            "phase": "root",
            "status": "error",
            "boot": "11111111-2222-3333-4444-555555555555",
            "detail": detail,
        }
    ]


def test_report_fits_into_the_servers_4_kib(node: Any, served: Callable[[], Any]) -> None:
    server = served()
    node.script("report", "root", "error", "é" * 5000)
    assert len(server.beacons[0]["detail"].encode(errors="replace")) <= 1000


def test_report_never_fails(node: Any) -> None:
    node.state(server="127.0.0.1", http="1")
    assert node.script("report", "root", "ok").returncode == 0
    assert node.script("report", "root", check=False).returncode == 2
