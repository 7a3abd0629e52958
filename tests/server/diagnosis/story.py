"""Boots as the services tell them, through the one door (Nodes.record), for the rules' tests."""

from typing import Any

from server.diagnosis import FarmFacts, Finding, diagnose
from server.events import Event
from server.nodes.node import Node
from server.nodes.timelines import Nodes

MAC, IP = "52:54:00:00:00:01", "10.9.0.11"
DIGEST = "a" * 64
START = 1_700_000_000.0
BIOS, UEFI = "/ltsp/amd64/grub/i386-pc/core.0", "/ltsp/amd64/grub/x86_64-efi/core.efi"
FARM = FarmFacts(address="10.9.0.1", dhcp="proxy")


class Story:
    """One node's boot, step by step, each a second after the one before."""

    def __init__(self, farm: FarmFacts = FARM) -> None:
        self.farm = farm
        self.nodes = Nodes(lambda ip: (MAC, "node-1") if ip == IP else (None, None))
        self.now = START
        self.seen: list[Event] = []

    def see(self, source: str, phase: str, **detail: Any) -> "Story":
        self.now += 1
        node = MAC if source == "dhcp" else IP
        self.seen.append(Event(self.now, node, source, phase, detail))
        self.nodes.record(self.seen[-1])
        return self

    def wait(self, seconds: float) -> "Story":
        self.now += seconds
        return self

    def dhcp(self, **detail: Any) -> "Story":
        usual: dict[str, Any] = {"request": "discover", "status": "ok", "reply": "offer"}
        usual |= {"loader": BIOS, "architecture": 0, "firmware": "x86 BIOS"}
        return self.see("dhcp", "dhcp", **(usual | detail))

    def tftp(self, path: str, **detail: Any) -> "Story":
        usual: dict[str, Any] = {"path": path, "status": "ok", "bytes": 1000, "size": 1000}
        return self.see("tftp", "transfer", **(usual | {"seconds": 0.1, "retries": 0} | detail))

    def unanswered(self, path: str, **detail: Any) -> "Story":
        usual: dict[str, Any] = {"status": "error", "message": "the client never answered"}
        usual |= {"bytes": 0, "retries": 2, "answered": False, "oack": True, "asked": 1}
        return self.tftp(path, **(usual | detail))

    def beacon(self, phase: str, detail: str = "", status: str = "ok", **more: Any) -> "Story":
        words = {"detail": detail} if detail else {}
        return self.see("beacon", phase, status=status, boot="one", **words, **more)

    def space(self, text: str) -> "Story":
        """How full its file systems are."""
        return self.see("beacon", "space", status="ok", boot="one", space=text)

    def menu(self) -> "Story":
        return self.tftp("/ltsp/amd64/grub/grub.cfg").see(
            "plan", "menu", status="ok", path="/ltsp/amd64/grub/grub.cfg", digest=DIGEST
        )

    def to_loader(self) -> "Story":
        return self.dhcp().tftp(BIOS)

    def to_menu(self) -> "Story":
        return self.to_loader().menu()

    def to_initrd(self) -> "Story":
        self.to_menu().tftp(f"/ltsp/amd64/@{DIGEST}/vmlinuz")
        return self.tftp(f"/ltsp/amd64/@{DIGEST}/initrd.img")

    def to_network(self) -> "Story":
        return self.to_initrd().beacon("initramfs", "6.1.0-1").beacon("network", "eth0 10.9.0.11")

    def to_ltsconf(self) -> "Story":
        self.to_network().see("http", "transfer", file="/ltsp/amd64/lts.conf", status="ok")
        return self.beacon("ltsconf", "the server by HTTP")

    def attach(self) -> "Story":
        return self.see("nbd", "attach", export=f"/opt/ltsp/amd64@{DIGEST}", digest=DIGEST)

    def rcfile(self, name: str, status: str, last: str) -> "Story":
        """An RCFILE_* line that failed."""
        words = f"{name}: exit {status}" + (f": {last}" if last else "")
        facts = {"cause": "exit", "rcfile": name, "exit": status, "last": last}
        return self.beacon("rcfile", words, "error", **facts)

    def all_lines(self) -> "Story":
        return self.beacon("rcfile", "all 1 lines", cause="all_lines")

    def to_systemd(self, root: str = "live NBD", **facts: str) -> "Story":
        self.to_ltsconf().attach().beacon("root", root, **facts)
        self.beacon("preinit", status="start").beacon("preinit", "node-1")
        return self.beacon("systemd", status="start").beacon("systemd")

    def to_join(self, root: str = "live NBD", **facts: str) -> "Story":
        self.to_systemd(root, **facts).beacon("rcfile", "RCFILE_07_JOIN", status="start")
        return self.beacon("join", "try 1", status="start")

    def failed_join(self, cause: str = "", said: str = "", bootstrap: str = "") -> "Story":
        """A try that failed, as the wrapper tells it; said: what others said of it."""
        words = f"try 1: {said or cause or 'no reason'}; again in 5 s"
        facts = {"cause": cause, "said": said, "bootstrap": bootstrap}
        return self.beacon("join", words, "error", **facts)

    def to_ready(self, root: str = "live NBD", **facts: str) -> "Story":
        self.to_join(root, **facts).beacon("join", "try 1: joined as node-1")
        self.beacon("rcfile", "RCFILE_07_JOIN: exit 0").all_lines()
        return self.beacon("ready", "Node node-1 is Ready")

    @property
    def node(self) -> Node:
        (node,) = self.nodes.nodes()
        return node

    def finding(self) -> Finding | None:
        return diagnose(self.node, self.now, self.farm)

    def rule(self) -> str | None:
        found = self.finding()
        return found.rule if found else None
