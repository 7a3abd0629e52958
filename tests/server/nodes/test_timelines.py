import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from server.events import Event
from server.nodes.node import describe, summarize
from server.nodes.phases import PHASES, digest_of, phase_of_path
from server.nodes.timelines import Nodes

MAC, IP = "52:54:00:00:00:01", "10.9.0.11"
DIGEST = "a" * 64


def identify(ip: str) -> tuple[str | None, str | None]:
    return (MAC, "node-1") if ip == IP else (None, None)


class Clock:
    """Makes events, each a second after the one before."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self.now = 1000.0

    def see(self, source: str, phase: str, node: str = IP, **detail: Any) -> None:
        self.now += 1
        self.nodes.record(Event(self.now, node, source, phase, detail))

    def tftp(self, path: str, **detail: Any) -> None:
        self.see("tftp", "transfer", path=path, **({"status": "ok"} | detail))

    def fetch(self, path: str) -> None:
        self.tftp(path, status="start")
        self.tftp(path)

    def boot(self, boot_id: str) -> None:
        self.fetch("/ltsp/amd64/grub/i386-pc/core.0")
        self.tftp("/ltsp/amd64/grub/i386-pc/normal.mod")
        self.tftp("/ltsp/amd64/grub/grub.cfg")
        self.tftp(f"/ltsp/amd64/@{DIGEST}/vmlinuz", bytes=1000)
        self.tftp(f"/ltsp/amd64/@{DIGEST}/initrd.img")
        for phase in ("initramfs", "network"):
            self.see("beacon", phase, MAC, status="ok", boot=boot_id)
        self.see("http", "transfer", file="/ltsp/amd64/lts.conf", status="ok")
        self.see("nbd", "attach", export=f"/opt/ltsp/amd64@{DIGEST}", digest=DIGEST)
        for phase in ("preinit", "systemd", "join", "ready"):
            self.see("beacon", phase, MAC, status="ok", boot=boot_id)


@pytest.mark.parametrize(
    ("path", "phase"),
    [
        ("/ltsp/amd64/grub/i386-pc/core.0", "loader"),
        ("/ltsp/amd64/grub/x86_64-efi/normal.mod", "loader"),
        ("/ltsp/amd64/ipxe/snponly.efi", "loader"),
        ("/ltsp/amd64/grub/grub.cfg", "menu"),
        ("/ltsp/amd64/grub/grub.cfg-01-52-54-00-00-00-01", "menu"),
        ("/ltsp/amd64/boot.ipxe", "menu"),
        ("/ltsp/amd64/vmlinuz", "kernel"),
        (f"/ltsp/amd64/@{DIGEST}/initrd.img", "initrd"),
        ("/ltsp/amd64/lts.conf", "ltsconf"),
        (f"/ltsp/amd64/@{DIGEST}/rootfs.squashfs", "root"),
        ("/ltsp/amd64/other", None),
        ("", None),
    ],
)
def test_phase_of_path(path: str, phase: str | None) -> None:
    assert phase_of_path(path) == phase
    assert phase is None or phase in PHASES


def test_digest_of() -> None:
    assert digest_of(f"/ltsp/amd64/@{DIGEST}/vmlinuz") == DIGEST
    assert digest_of(f"opt/ltsp/amd64@{DIGEST}") == DIGEST
    assert digest_of("/ltsp/amd64/vmlinuz") == ""


def test_one_boot_from_loader_to_ready() -> None:
    nodes = Nodes(identify)
    Clock(nodes).boot("one")
    (node,) = nodes.nodes()
    summary = summarize(node)
    assert summary["mac"] == MAC
    assert summary["ip"] == IP
    assert summary["hostname"] == "node-1"
    assert (summary["phase"], summary["status"]) == ("ready", "ok")
    assert (summary["image"], summary["digest"]) == ("amd64", DIGEST)
    assert summary["boots"] == 1
    assert summary["error"] == ""
    assert node.boot is not None
    times = [node.boot.phases[phase].first for phase in PHASES if phase in node.boot.phases]
    assert times == sorted(times)
    assert len(times) == 12
    assert node.boot.phases["kernel"].bytes == 1000
    assert node.boot.phases["loader"].count == 3


def test_the_next_boot_is_another_one() -> None:
    nodes = Nodes(identify)
    clock = Clock(nodes)
    for number in range(6):
        clock.boot(str(number))
    (node,) = nodes.nodes()
    assert node.boots == 6
    assert node.boot is not None
    assert node.boot.boot_id == "5"
    assert [boot.boot_id for boot in node.past] == ["2", "3", "4"]


@pytest.mark.parametrize("loader", ["core.efi", "undionly.kpxe", "snponly.efi"])
def test_a_loader_fetched_again_is_another_boot(loader: str) -> None:
    nodes = Nodes(identify)
    clock = Clock(nodes)
    for _ in range(2):
        clock.fetch(f"/ltsp/amd64/ipxe/{loader}")
        clock.tftp("/ltsp/amd64/boot.ipxe")
    assert nodes.nodes()[0].boots == 2


def test_a_connection_that_ends_late_is_no_step_of_the_next_boot() -> None:
    nodes = Nodes(identify)
    clock = Clock(nodes)
    clock.boot("one")
    clock.fetch("/ltsp/amd64/grub/i386-pc/core.0")
    clock.see("nbd", "detach", export=f"/opt/ltsp/amd64@{DIGEST}", digest=DIGEST, bytes=5)
    node = nodes.nodes()[0]
    assert node.boot is not None
    assert list(node.boot.phases) == ["loader"]
    assert node.events[-1]["what"] == "detach"


def test_another_boot_id_is_another_boot_even_when_nothing_else_was_seen() -> None:
    nodes = Nodes(identify)
    clock = Clock(nodes)
    clock.see("beacon", "initramfs", MAC, boot="one")
    clock.see("beacon", "network", MAC, boot="one")
    clock.see("beacon", "initramfs", MAC, boot="two")
    assert nodes.nodes()[0].boots == 2


def test_errors_stand_until_mended() -> None:
    nodes = Nodes(identify)
    clock = Clock(nodes)
    clock.see("beacon", "join", MAC, status="error", detail="token expired")
    node = nodes.nodes()[0]
    assert summarize(node)["error"] == "join: token expired"
    clock.see("beacon", "join", MAC, status="ok")
    assert summarize(node)["error"] == ""
    clock.see("nbd", "error", export="/opt/ltsp/x", status="error", message="no such export")
    assert summarize(node)["error"] == "root: no such export"


def test_modules_that_grub_asks_for_in_vain_are_no_error() -> None:
    nodes = Nodes(identify)
    clock = Clock(nodes)
    clock.tftp("/ltsp/amd64/grub/fonts/unicode.pf2", status="error", message="no such file")
    (node,) = nodes.nodes()
    assert summarize(node)["error"] == ""
    assert not node.events
    clock.tftp("/ltsp/amd64/grub/i386-pc/core.0", status="error", message="gave up")
    assert summarize(nodes.nodes()[0])["error"] == "loader: gave up"


def test_a_menu_that_only_says_what_is_wrong_is_an_error_though_it_was_sent() -> None:
    nodes = Nodes(identify)
    clock = Clock(nodes)
    menu = "/ltsp/amd64/grub/grub.cfg"
    clock.see("plan", "menu", status="error", path=menu, message="no tag 'x'")
    clock.tftp(menu)
    assert summarize(nodes.nodes()[0])["error"] == "menu: no tag 'x'"
    clock.see("plan", "menu", status="ok", path=menu, image="amd64", digest=DIGEST)
    clock.tftp(menu)
    summary = summarize(nodes.nodes()[0])
    assert (summary["error"], summary["image"], summary["digest"]) == ("", "amd64", DIGEST)
    assert summary["boots"] == 1


def test_what_was_seen_of_an_address_goes_to_its_mac() -> None:
    known: dict[str, str] = {}
    nodes = Nodes(lambda ip: (known.get(ip), None))
    clock = Clock(nodes)
    clock.tftp("/ltsp/amd64/grub/i386-pc/core.0")
    assert nodes.nodes()[0].key == IP
    known[IP] = MAC
    clock.tftp("/ltsp/amd64/grub/grub.cfg")
    (node,) = nodes.nodes()
    assert node.key == MAC
    assert node.boot is not None
    assert set(node.boot.phases) == {"loader", "menu"}
    assert nodes.get("52-54-00-00-00-01") is node


def test_bounded() -> None:
    nodes = Nodes(lambda ip: (None, None), limit=10, events=8)
    clock = Clock(nodes)
    clock.see("beacon", "join", MAC, detail="x" * 100_000)
    for number in range(50):
        clock.see("tftp", "transfer", f"10.0.0.{number}", path="/ltsp/a/vmlinuz")
    assert len(nodes) == 10
    # Whom nobody could name goes first.
    node = nodes.get(MAC)
    assert node is not None
    for number in range(50):
        clock.see(
            "beacon", "join", MAC, detail=f"try {number}", **{f"k{i}": "v" for i in range(99)}
        )
    assert len(node.events) == 8
    assert len(json.dumps(describe(node))) < 20_000


def test_the_same_again_and_again_is_one_event() -> None:
    nodes = Nodes(identify)
    clock = Clock(nodes)
    for _ in range(5):
        clock.see("beacon", "join", MAC, status="error", detail="refused")
    (event,) = nodes.nodes()[0].events
    assert event["count"] == 5
    assert event["until"] - event["time"] == 4


def test_a_transfer_is_one_event_once_it_is_over() -> None:
    nodes = Nodes(identify)
    clock = Clock(nodes)
    clock.tftp("/ltsp/amd64/vmlinuz", status="start")
    assert [event["detail"]["status"] for event in nodes.nodes()[0].events] == ["start"]
    clock.tftp("/ltsp/amd64/vmlinuz", status="ok", bytes=5)
    clock.tftp("/ltsp/amd64/initrd.img", status="start")
    clock.tftp("/ltsp/amd64/vmlinuz", status="error", message="late")
    statuses = [event["detail"]["status"] for event in nodes.nodes()[0].events]
    assert statuses == ["ok", "start", "error"]


def test_kept_over_a_restart(tmp_path: Path) -> None:
    nodes = Nodes(identify)
    clock = Clock(nodes)
    clock.boot("one")
    clock.boot("two")
    assert nodes.save(tmp_path) == 0
    again = Nodes(identify)
    assert again.load(tmp_path) == 1
    assert [describe(node) for node in again.nodes()] == [describe(node) for node in nodes.nodes()]
    Clock(again).see("beacon", "shutdown", MAC, boot="two")
    assert again.nodes()[0].boots == 2


def test_a_damaged_file_costs_its_node_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = Nodes(identify)
    Clock(nodes).boot("one")
    nodes.save(tmp_path)
    for name, text in {"a": "", "b": "[]", "c": '{"format": 9}', "d": '{"format": 1}'}.items():
        (tmp_path / f"{name}.json").write_text(text)
    again = Nodes(identify)
    assert again.load(tmp_path) == 1
    assert caplog.text.count("left aside") == 4
    assert Nodes(identify).load(tmp_path / "nothing") == 0


def test_saving_goes_in_portions_and_forgets_who_is_gone(tmp_path: Path) -> None:
    nodes = Nodes(lambda ip: (None, None), limit=5)
    clock = Clock(nodes)
    for number in range(5):
        clock.see("tftp", "transfer", f"10.0.0.{number}", path="/ltsp/a/vmlinuz")
    assert nodes.save(tmp_path, 2) == 3
    assert len(list(tmp_path.iterdir())) == 2
    assert nodes.save(tmp_path, 10) == 0
    clock.see("tftp", "transfer", "10.0.0.99", path="/ltsp/a/vmlinuz")
    assert nodes.save(tmp_path) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) == 5
    assert "10.0.0.99.json" in names
    assert "10.0.0.0.json" not in names


@pytest.mark.parametrize(
    "event",
    [
        Event(1.0, "", "nbd", "error", {}),
        Event(1.0, IP, "tftp", "transfer", {}),
        Event(1.0, IP, "tftp", "transfer", {"path": "/etc/passwd"}),
        Event(1.0, "not an address", "x" * 999, "kernel", {"bytes": float("inf")}),
    ],
)
def test_odd_events_harm_nobody(event: Event) -> None:
    nodes = Nodes(identify)
    nodes.record(event)
    json.dumps([summarize(node) for node in nodes.nodes()])


def test_the_end_of_a_loaders_transfer_that_comes_late_is_no_other_boot() -> None:
    """Its last ACK was lost: the server hears of the end when the menu was long asked for."""
    nodes = Nodes(identify)
    clock = Clock(nodes)
    clock.tftp("/ltsp/amd64/grub/i386-pc/core.0", status="start")
    clock.tftp("/ltsp/amd64/grub/grub.cfg")
    clock.tftp("/ltsp/amd64/grub/i386-pc/core.0", status="error", message="no answer for 30 s")
    (node,) = nodes.nodes()
    assert node.boots == 1
    assert summarize(node)["phase"] == "menu"
    assert summarize(node)["error"] == ""


def test_a_large_file_over_http_is_one_event_and_no_second_boot() -> None:
    nodes = Nodes(identify)
    clock = Clock(nodes)
    loader, kernel = "/ltsp/amd64/grub/x86_64-efi/core.efi", f"/ltsp/amd64/@{DIGEST}/vmlinuz"
    for file in (loader, "/ltsp/amd64/grub/grub.cfg", kernel):
        clock.see("http", "transfer", file=file, status="start", bytes=0, size=9)
        clock.see("http", "transfer", file=file, status="ok", bytes=9, seconds=1.0)
    clock.see("http", "transfer", file=loader, status="error", message="hung up")
    (node,) = nodes.nodes()
    assert node.boots == 1
    assert [event["detail"]["status"] for event in node.events] == ["ok", "ok", "ok", "error"]


def test_a_size_probe_and_the_loader_itself_are_one_boot() -> None:
    nodes = Nodes(identify)
    clock = Clock(nodes)
    for status in ("start", "stop", "start", "ok"):
        clock.tftp("/ltsp/amd64/grub/x86_64-efi/core.efi", status=status)
    clock.tftp("/ltsp/amd64/grub/grub.cfg")
    assert nodes.nodes()[0].boots == 1


def dhcp(clock: Clock, request: str = "discover", **detail: Any) -> None:
    clock.see("dhcp", "dhcp", MAC, request=request, **({"status": "ok"} | detail))


def test_dhcp_of_firmware_begins_a_boot_once() -> None:
    nodes = Nodes(identify)
    clock = Clock(nodes)
    for _ in range(2):
        dhcp(clock, firmware="UEFI x64", architecture=7)
        dhcp(clock, "request", firmware="UEFI x64", architecture=7, address=IP)
        clock.fetch("/ltsp/amd64/ipxe/snponly.efi")
        dhcp(clock, firmware="UEFI x64 (iPXE)", architecture=7)
        dhcp(clock, "request", firmware="UEFI x64 (iPXE)", architecture=7, dhcp_server="10.9.0.3")
        clock.see("http", "transfer", file="/ltsp/amd64/boot.ipxe", status="ok")
        dhcp(clock, address=IP)  # the initramfs
    (node,) = nodes.nodes()
    assert node.boots == 2
    assert node.boot is not None
    assert node.boot.facts == {
        "firmware": "UEFI x64 (iPXE)",
        "architecture": 7,
        "address": IP,
        "dhcp_server": "10.9.0.3",
    }
    assert list(node.boot.phases) == ["dhcp", "loader", "menu"]


def test_a_machine_behind_a_router_has_one_timeline(tmp_path: Path) -> None:
    """No neighbour table knows it; DHCP through the relay showed whose address it is."""
    far = "10.77.0.5"
    nodes = Nodes(identify)
    clock = Clock(nodes)
    clock.see("tftp", "transfer", far, path="/ltsp/amd64/grub/i386-pc/core.0", status="start")
    dhcp(clock, "request", firmware="x86 BIOS", relay="10.77.0.1", address=far)
    clock.see("beacon", "initramfs", far, status="ok")
    (node,) = nodes.nodes()
    assert (node.key, node.ip) == (MAC, far)
    assert node.boot is not None
    assert set(node.boot.phases) == {"dhcp", "initramfs"}
    assert nodes.get(far) is node
    nodes.save(tmp_path)
    again = Nodes(identify)
    again.load(tmp_path)
    Clock(again).see("beacon", "join", far, status="ok")
    assert len(again) == 1
    other = "52:54:00:00:00:02"
    again.record(Event(2000.0, other, "dhcp", "dhcp", {"status": "ok", "address": far}))
    Clock(again).see("beacon", "ready", far, status="ok")
    found = again.get(other)
    assert found is not None
    assert found.ip == far


def test_who_the_neighbour_table_knows_is_nobody_else_whatever_dhcp_showed() -> None:
    nodes = Nodes(identify)
    clock = Clock(nodes)
    liar = "52:54:00:00:00:66"
    nodes.record(Event(1.0, liar, "dhcp", "dhcp", {"status": "ok", "address": IP}))
    clock.see("beacon", "join", IP, status="ok")
    found = nodes.get(liar)
    assert found is not None
    assert found.boot is None
    assert nodes.nodes()[0].mac == MAC


def test_a_machine_that_fell_silent_keeps_its_timeline(tmp_path: Path) -> None:
    """The neighbour table forgets it in seconds, often before a transfer is given up."""
    known: dict[str, tuple[str | None, str | None]] = {IP: (MAC, "node-1")}
    nodes = Nodes(lambda ip: known.get(ip, (None, None)))
    clock = Clock(nodes)
    clock.tftp("/ltsp/amd64/grub/i386-pc/core.0", status="start")
    known.clear()
    clock.tftp("/ltsp/amd64/grub/i386-pc/core.0", status="error", message="never answered")
    (node,) = nodes.nodes()
    assert node.mac == MAC
    assert node.boot is not None
    assert node.boot.phases["loader"].error == "never answered"
    nodes.save(tmp_path)
    again = Nodes()
    again.load(tmp_path)
    Clock(again).see("nbd", "detach", reason="gone")
    assert [one.key for one in again.nodes()] == [MAC]
    # The address is another machine's now.
    known[IP] = ("52:54:00:00:00:02", None)
    clock.tftp("/ltsp/amd64/grub/i386-pc/core.0", status="start")
    assert len(nodes) == 2
    known.clear()
    clock.see("beacon", "initramfs", status="ok")
    assert nodes.nodes()[0].mac == "52:54:00:00:00:02"


def test_leases_are_bounded() -> None:
    nodes = Nodes(limit=3)
    for number in range(9):
        mac = f"52:54:00:00:00:{number:02x}"
        detail = {"status": "ok", "address": f"10.77.0.{number}"}
        nodes.record(Event(float(number), mac, "dhcp", "dhcp", detail))
    assert [nodes.get(f"10.77.0.{number}") is not None for number in range(9)] == [False] * 6 + [
        True
    ] * 3


def test_a_lease_that_is_renewed_is_no_boot_and_no_step_of_one() -> None:
    nodes = Nodes(identify)
    clock = Clock(nodes)
    clock.boot("one")
    before = nodes.nodes()[0].boot
    for _ in range(3):
        dhcp(clock, "request", reply="ack", address=IP)
    (node,) = nodes.nodes()
    assert node.boot is before
    assert node.boots == 1
    assert node.last_seen == clock.now
    assert node.events[-1]["count"] == 3


def test_a_machine_with_a_disk_that_only_asks_for_an_address_has_no_boot() -> None:
    nodes = Nodes(identify)
    dhcp(Clock(nodes), address=IP)
    (node,) = nodes.nodes()
    assert node.boot is None
    assert len(node.events) == 1
    dhcp(Clock(nodes), "decline", status="error", message="is used by another machine")
    assert summarize(node)["error"] == "dhcp: is used by another machine"


def test_facts_amounts_and_errors_outlive_a_restart(tmp_path: Path) -> None:
    nodes = Nodes(identify)
    clock = Clock(nodes)
    dhcp(clock, firmware="UEFI x64", architecture=7)
    clock.tftp(f"/ltsp/amd64/@{DIGEST}/initrd.img", bytes=6000, seconds=1.5, retries=2)
    clock.see("beacon", "join", MAC, status="error", detail="try 1: no")
    nodes.save(tmp_path)
    again = Nodes(identify)
    assert again.load(tmp_path) == 1
    assert describe(again.nodes()[0]) == describe(nodes.nodes()[0])
    (node,) = again.nodes()
    assert node.boot is not None
    assert node.boot.facts == {"firmware": "UEFI x64", "architecture": 7}
    assert node.boot.phases["join"].errors == 1
    assert node.boot.phases["initrd"].retries == 2


def test_a_timeline_of_the_version_before_is_read(tmp_path: Path) -> None:
    old = {"first": 1.0, "last": 2.0, "status": "ok", "count": 3, "bytes": 4, "detail": "x"}
    boot = {"started": 1.0, "boot_id": "b", "image": "", "digest": "", "phases": {"join": old}}
    node = {"format": 1, "key": MAC, "mac": MAC, "ip": IP, "hostname": None, "first_seen": 1.0}
    node |= {"last_seen": 2.0, "boots": 1, "boot": boot, "past": [boot], "events": []}
    (tmp_path / f"{MAC.replace(':', '-')}.json").write_text(json.dumps(node))
    nodes = Nodes()
    assert nodes.load(tmp_path) == 1
    found = nodes.nodes()[0].boot
    assert found is not None
    assert (found.facts, found.phases["join"].errors) == ({}, 0)


def test_amounts_of_each_phase() -> None:
    nodes = Nodes(identify)
    clock = Clock(nodes)
    path = f"/ltsp/amd64/@{DIGEST}/initrd.img"
    clock.tftp(path, status="start", bytes=0, seconds=0.0, retries=0)
    clock.tftp(path, bytes=6000, seconds=1.5, retries=2)
    clock.tftp(path, bytes=3000, seconds=0.5, retries=1)
    clock.tftp("/ltsp/amd64/boot.ipxe")
    phases = describe(nodes.nodes()[0])["boot"]["phases"]
    initrd = {key: phases["initrd"][key] for key in ("bytes", "seconds", "retries", "rate")}
    assert initrd == {"bytes": 9000, "seconds": 2.0, "retries": 3, "rate": 4500}
    assert phases["menu"]["rate"] is None


def test_a_phase_remembers_its_errors() -> None:
    nodes = Nodes(identify)
    clock = Clock(nodes)
    for number in (1, 2):
        clock.see("beacon", "join", MAC, status="start")
        clock.see("beacon", "join", MAC, status="error", detail=f"try {number}")
    clock.see("beacon", "join", MAC, status="start")
    (node,) = nodes.nodes()
    assert node.boot is not None
    join = node.boot.phases["join"]
    assert (join.status, join.errors, join.error, join.error_at) == ("start", 2, "try 2", 1004.0)
    clock.see("beacon", "join", MAC, status="ok")
    assert (join.errors, join.error) == (0, "try 2")


def test_what_a_node_costs_is_bounded() -> None:
    """Ten thousand nodes: half a gigabyte as they are, some more if all send what is longest."""
    count = 10

    def fill(detail: dict[str, str]) -> float:
        nodes = Nodes(lambda ip: (f"52:54:00:00:00:{int(ip[7:]):02x}", "node"))
        tracemalloc.start()
        try:
            for number in range(count):
                clock = Clock(nodes)
                for boot in range(5):
                    for phase in PHASES:
                        for step in range(6):
                            words = {key: f"{step % 2}{text}" for key, text in detail.items()}
                            clock.see("x", phase, f"10.9.0.{number}", boot=str(boot), **words)
            return tracemalloc.get_traced_memory()[0] / count
        finally:
            tracemalloc.stop()

    assert fill({"path": f"/ltsp/amd64/@{DIGEST}/vmlinuz", "message": "x" * 60}) < 60_000
    assert fill({"path": "x" * 5000, "message": "y" * 5000, "options": "z" * 80}) < 160_000


def test_macs_that_only_dhcp_has_shown_go_first_also_after_a_restart(tmp_path: Path) -> None:
    nodes = Nodes(lambda ip: (MAC, None) if ip == IP else (None, None), limit=5)
    clock = Clock(nodes)
    clock.see("tftp", "transfer", path="/ltsp/amd64/grub/grub.cfg", status="ok")
    for number in range(20):
        clock.see("dhcp", "dhcp", f"52:54:00:00:01:{number:02x}", firmware="x86 BIOS")
    assert len(nodes) == 5
    assert nodes.get(MAC) is not None
    nodes.save(tmp_path)
    again = Nodes(limit=5)
    again.load(tmp_path)
    clock = Clock(again)
    for number in range(20):
        clock.see("dhcp", "dhcp", f"52:54:00:00:02:{number:02x}", firmware="x86 BIOS")
    assert again.get(MAC) is not None


def test_a_machine_that_is_played_is_told_apart() -> None:
    nodes = Nodes(lambda ip: ("52:54:00:00:00:07", None) if ip == "127.64.0.7" else (None, None))
    for node, player in (
        ("127.64.0.1", "simulate"),
        ("127.64.0.7", ""),  # the inventory's
        ("02:bf:00:00:00:01", "doctor"),
        ("127.0.0.1", ""),
        ("10.9.0.1", ""),
    ):
        found = nodes.record(Event(1.0, node, "dhcp", "dhcp", {"status": "ok"}))
        assert found is not None
        assert (found.ip, found.played) == ("" if ":" in node else node, player)
    nodes.play("10.9.0.1", "doctor")
    nodes.play("nobody", "doctor")
    told = nodes.get("10.9.0.1")
    assert told is not None
    assert told.played == "doctor"
    nodes.record(Event(2.0, "10.9.0.1", "beacon", "initramfs", {"boot": "b"}))
    assert told.played == "", "it speaks for itself"
    nodes.play("10.9.0.1", "doctor")
    assert told.played == ""


def test_what_is_forgotten_is_gone_from_disk_too(tmp_path: Path) -> None:
    nodes = Nodes(lambda ip: ("52:54:00:00:00:07", "node-7"))
    told: list[tuple[str, bool]] = []
    nodes.record(Event(1.0, "10.9.0.7", "beacon", "ready", {}))
    nodes.watch(lambda key, node: told.append((key, node is not None)))
    nodes.save(tmp_path)
    assert nodes.forget("52:54:00:00:00:07")
    assert not nodes.forget("52:54:00:00:00:07")
    assert told == [("52:54:00:00:00:07", False)]
    assert nodes.get("10.9.0.7") is None
    nodes.save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    nodes.record(Event(9.0, "10.9.0.7", "beacon", "ready", {}))
    assert nodes.nodes()[0].first_seen == 9.0


def test_a_file_of_wrong_types_costs_its_node_only(tmp_path: Path) -> None:
    nodes = Nodes(lambda ip: (f"52:54:00:00:00:{int(ip.rpartition('.')[2]):02x}", None))
    for number in (1, 2):
        event = Event(5.0, f"10.9.0.{number}", "beacon", "root", {"status": "error", "boot": "a"})
        nodes.record(event)
    nodes.save(tmp_path)
    file = tmp_path / "52-54-00-00-00-01.json"
    good = json.loads(file.read_bytes())
    boot = good["boot"]
    phase = boot["phases"]["root"]
    event = good["events"][0]
    values: dict[str, list[Any]] = {
        "hostname": [5, [], {"a": 1}, True],
        "mac": ["52-54-00-00-00-01", "xx", 7],
        "last_seen": [float("nan"), float("inf"), 1e300, -1.0, "5", None],
        "boots": [10**30, "1", None],
        "events": ["x", {}, {"time": 1.0}, None, 7, {**event, "detail": {"a": {}}}],
        "past": [[{}], 7, [None], {"a": 1}],
        "boot": [7, {**boot, "image": 7}],
        "note": [7],
        "played": [[1]],
    }
    values["events"] = [[one] for one in values["events"]]
    values["events"] += [[{**event, "time": time}] for time in ("x", 1e300, None)]
    facts: list[Any] = [7, {"a": []}, {"a": 1e300}]
    phases: list[Any] = [7, {"root": 7}, {"root": {}}]
    for name, value in (("first", "x"), ("bytes", None), ("detail", 5), ("last", 1e300)):
        phases.append({"root": {**phase, name: value}})
    values["boot"] += [{**boot, "facts": one} for one in facts]
    values["boot"] += [{**boot, "phases": one} for one in phases]
    wrong = [{name: value} for name, some in values.items() for value in some]
    texts = [json.dumps({**good, **change}) for change in wrong] + ["[" * 100_000, "7", "[]"]
    for text in texts:
        file.write_text(text)
        kept = Nodes()
        assert kept.load(tmp_path) == 1, text[:300]
        assert kept.get("52:54:00:00:00:02") is not None
        for node in kept.nodes():
            json.dumps(describe(node))
    file.write_text(json.dumps(good))
    assert Nodes().load(tmp_path) == 2


def test_a_clock_that_was_ahead(tmp_path: Path) -> None:
    nodes = Nodes(lambda ip: ("52:54:00:00:00:01", None))
    wrong = 2_000_000_000.0
    for second, phase in enumerate(("initramfs", "network")):
        detail = {"status": "error" if second else "ok", "boot": "a"}
        nodes.record(Event(wrong + second, "10.9.0.1", "beacon", phase, detail))
    nodes.save(tmp_path)
    seen: list[str] = []
    nodes.watch(lambda key, node: seen.append(key))
    nodes.mind_clock(wrong + 2, 50.0)
    nodes.mind_clock(wrong + 3, 51.0)
    assert seen == []
    nodes.mind_clock(1_000.0, 52.0)
    assert seen == ["52:54:00:00:00:01"]
    nodes.mind_clock(1_001.0, 53.0)
    assert len(seen) == 1
    kept = Nodes()
    kept.load(tmp_path, now=1_000.0)
    for found in (nodes, kept):
        node = found.get("52:54:00:00:00:01")
        assert node is not None
        assert node.boot is not None
        assert node.last_seen == 1_000.0
        assert node.boot.started == 999.0
        assert node.boot.phases["network"].first == node.boot.phases["network"].error_at == 1_000.0
        assert [entry["time"] for entry in node.events][:2] == [999.0, 1_000.0]
    assert Nodes().load(tmp_path, now=wrong) == 1
