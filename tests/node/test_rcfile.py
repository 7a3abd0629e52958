"""RCFILE_*: order, logs, what the server hears, what stops."""

from __future__ import annotations

import secrets
import urllib.parse
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
    assert server.beacons[-1]["cause"] == "all_lines"


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
    causes = [b["cause"] for b in server.beacons if b["status"] == "error"]
    assert causes == ["exit", "lines_failed"]
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
    facts = ("rcfile=RCFILE_01", "exit=255", "last=" + "é" * 5000)
    node.script("report", "root", "error", "é" * 5000, "exit", *facts)
    (beacon,) = server.beacons
    assert len(beacon["detail"].encode(errors="replace")) <= 1000
    assert len(beacon["last"].encode(errors="replace")) <= 300
    assert len(urllib.parse.urlencode(beacon)) <= 4096


def test_report_carries_a_cause_and_its_facts(node: Any, served: Callable[[], Any]) -> None:
    server = served()
    last = "a&b=c %41 $(id)\nsecond line"
    node.script("report", "rcfile", "error", "words", "exit", "rcfile=RCFILE_1", f"last={last}")
    (beacon,) = server.beacons
    assert (beacon["cause"], beacon["rcfile"], beacon["last"]) == ("exit", "RCFILE_1", last)
    node.script("report", "root", "error", "words", "")
    assert "cause" not in server.beacons[1]


def test_a_server_that_does_not_know_a_fact_gets_the_report_without(
    node: Any, served: Callable[[], Any]
) -> None:
    server = served()
    server.unknown.add("said")
    node.script("report", "join", "error", "words", "join_token", "said=x", "bootstrap=y")
    node.script("report", "rcfile", "error", "words", "exit", "exit=1")
    first, second = server.beacons
    assert (first["detail"], first["cause"]) == ("words", "join_token")
    assert not {"said", "bootstrap"} & set(first)
    assert second["exit"] == "1"


def test_report_never_fails(node: Any) -> None:
    node.state(server="127.0.0.1", http="1")
    assert node.script("report", "root", "ok").returncode == 0
    assert node.script("report", "root", check=False).returncode == 2


def test_lines_are_in_no_process_arguments_and_logs_are_roots(
    node: Any, served: Callable[[], Any]
) -> None:
    served()
    see = 'cat /proc/[0-9]*/cmdline 2>/dev/null | tr "\\000" " "'
    word = secrets.token_hex(8)  # in no other test's arguments
    node.flat(
        RCFILE_01=f'{see} >"$BOOTFARM_ROOT/seen"; : {word}',
        RCFILE_02='umask >"$BOOTFARM_ROOT/umask"; cat; echo "stdin ended"',
    )
    (node.root / "var/log/bootfarm").mkdir()
    node.write("var/log/bootfarm/RCFILE_01.log", "of before", mode=0o644)
    assert node.script("rcfile", check=False).returncode == 0
    assert "sh -e -s" in node.read("seen")
    assert word not in node.read("seen")
    assert (node.root / "var/log/bootfarm").stat().st_mode & 0o777 == 0o700
    assert (node.root / "var/log/bootfarm/RCFILE_01.log").stat().st_mode & 0o777 == 0o600
    assert node.read("var/log/bootfarm/RCFILE_02.log") == "stdin ended\n"
    assert node.read("umask").strip() in ("0022", "022"), "what a line makes is as it was"


def test_a_line_that_runs_ends_with_the_service(node: Any, served: Callable[[], Any]) -> None:
    served()
    below = 'trap "touch $BOOTFARM_ROOT/told; exit 1" TERM; touch $BOOTFARM_ROOT/begun'
    node.flat(RCFILE_01=f"({below}; while :; do sleep 0.1; done); echo went on")
    script = (
        'rcfile=$BOOTFARM_ROOT/usr/lib/bootfarm/rcfile; "$@" "$rcfile" & '
        'while [ ! -e "$BOOTFARM_ROOT/begun" ]; do sleep 0.1; done; kill $!; wait $!; ended=$?; '
        'while [ ! -e "$BOOTFARM_ROOT/told" ]; do sleep 0.1; done; exit $ended'
    )
    assert node.run(script, *node.shell, check=False).returncode == 143
    assert "went on" not in node.read("var/log/bootfarm/RCFILE_01.log")


def test_the_secret_half_of_a_token_is_not_told(node: Any, served: Callable[[], Any]) -> None:
    server = served()
    node.flat(RCFILE_01="echo bad token abcdef.0123456789abcdef; exit 3")
    node.script("rcfile", check=False)
    assert server.beacons[-1]["detail"] == "RCFILE_01: exit 3: bad token abcdef.(secret)"


def test_on_error_reboots_where_a_line_stops_the_rest(node: Any, served: Callable[[], Any]) -> None:
    server = served()
    node.write("proc/cmdline", "quiet bootfarm.on_error=reboot\n")
    node.stub("sleep", 'echo "sleep $1" >>"$BOOTFARM_ROOT/calls"')
    node.stub("systemctl", 'echo "systemctl $*" >>"$BOOTFARM_ROOT/calls"')
    node.flat(RCFILE_01_A="echo so; echo and so; exit 7", RCFILE_02_B="true")
    done = node.script("rcfile", check=False)
    assert done.returncode == 1
    assert node.read("calls") == "sleep 60\nsystemctl reboot\n"
    assert "rebooting in 60 seconds (bootfarm.on_error=reboot)" in done.stdout + done.stderr
    last = server.beacons[-1]
    assert (last["rcfile"], last["exit"], last["cause"]) == ("RCFILE_01_A", "7", "exit")
    assert last["last"].splitlines()[-1] == "and so"


def on_error(node: Any, **values: str) -> None:
    node.stub("sleep", 'echo "sleep $1" >>"$BOOTFARM_ROOT/calls"')
    node.stub("systemctl", 'echo "systemctl $*" >>"$BOOTFARM_ROOT/calls"')
    node.flat(**values)
    node.script("rcfile", check=False)
    assert not (node.root / "calls").exists()


def test_on_error_does_not_count_where_lines_go_on_or_the_machine_has_joined(node: Any) -> None:
    node.write("proc/cmdline", "bootfarm.on_error=shell\n")
    on_error(node, RCFILE_01="false")
    node.write("proc/cmdline", "bootfarm.on_error=reboot\n")
    on_error(node, RCFILE_01="true")
    on_error(node, RCFILE_01="false", RCFILE_ON_ERROR="continue")
    node.write("etc/kubernetes/kubelet.conf", "")
    on_error(node, RCFILE_01="false")


def test_who_stops_the_service_keeps_the_machine_up(node: Any) -> None:
    node.write("proc/cmdline", "bootfarm.on_error=reboot\n")
    node.stub("sleep", 'touch "$BOOTFARM_ROOT/begun"; exec tail -f /dev/null')
    node.stub("systemctl", 'echo "systemctl $*" >>"$BOOTFARM_ROOT/calls"')
    node.flat(RCFILE_01="false")
    script = (
        'rcfile=$BOOTFARM_ROOT/usr/lib/bootfarm/rcfile; "$@" "$rcfile" & '
        'while [ ! -e "$BOOTFARM_ROOT/begun" ]; do /bin/sleep 0.1; done; kill $!; wait $!'
    )
    assert node.run(script, *node.shell, check=False).returncode == 143
    assert not (node.root / "calls").exists()
