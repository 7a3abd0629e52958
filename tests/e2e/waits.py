"""Waiting for what the server says of a machine."""

import json
import re
import time
from typing import Any

from rack.node import Node
from rack.rack import Rack

BOOT = 600.0
"""Seconds that a boot to Ready may take on a loaded machine (FACTS: 160)."""


def read_node(farm: Rack, node: Node) -> dict[str, object]:
    """The Node object as the API server has it."""
    return dict(json.loads(farm.kubectl("get", "node", node.name, "-o", "json")))


def read_boot_id(node: Node) -> str:
    """Linux's id of the boot that runs now."""
    return node.ssh("cat /proc/sys/kernel/random/boot_id").strip()


def wait_joined_again(farm: Rack, node: Node, timeout: float = BOOT) -> None:
    """Wait until this boot's kubelet is Ready: the Node alone may say so from the last boot."""
    node.wait_ssh(timeout)
    running = read_boot_id(node)
    end = time.monotonic() + timeout
    known = ""
    while known != running:
        node.check()
        assert time.monotonic() < end, f"the Node's boot is still {known}: {farm.timeline(node)}"
        time.sleep(2)
        status = read_node(farm, node)["status"]
        assert isinstance(status, dict)
        known = status["nodeInfo"]["bootID"]
    farm.wait_ready(node, timeout=timeout)


def wait_phase(rack: Rack, node: Node, phase: str, timeout: float = 300.0) -> dict[str, Any]:
    """Wait until the server has seen `phase` of the node; what it saw of it."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        node.check()
        boot = rack.timeline_or_nothing(node).get("boot") or {"phases": {}}
        if phase in boot["phases"]:
            return dict(boot["phases"][phase])
        time.sleep(1)
    raise AssertionError(f"the server saw no {phase} of {node.name}: {rack.timeline(node)}")


def list_transfers(rack: Rack, node: Node) -> set[tuple[str, str]]:
    """What the node fetched to its end: (tftp or http, the path's last part)."""
    return {
        (event["source"], str(detail.get("path") or detail.get("file")).rpartition("/")[2])
        for event in rack.timeline(node)["events"]
        if (detail := event["detail"]).get("status") == "ok" and event["source"] in ("tftp", "http")
    }


def wait_finding(rack: Rack, node: Node, rule: str, timeout: float = 300.0) -> dict[str, Any]:
    """Wait until the server's diagnosis of the node is `rule`; the finding."""
    end = time.monotonic() + timeout
    found: dict[str, Any] = {}
    while time.monotonic() < end:
        node.check()
        found = rack.timeline_or_nothing(node).get("finding") or {}
        if found.get("rule") == rule:
            return found
        time.sleep(1)
    raise AssertionError(f"no finding {rule} of {node.name}, but {found}: {rack.timeline(node)}")


def wait_line(
    rack: Rack, node: Node, source: str, pattern: str, timeout: float = 90.0
) -> dict[str, Any]:
    """Wait until a line that matches is in the node's log at the server; the line."""
    assert rack.server is not None
    end = time.monotonic() + timeout
    while True:
        log = rack.server.get_json(f"/api/nodes/{node.mac}/log")
        lines = [line for boot in log["boots"] for line in boot["lines"]]
        for line in lines:
            if line["source"] == source and re.search(pattern, line["text"]):
                return dict(line)
        assert time.monotonic() < end, f"no line {pattern!r} of {source} in {lines[-20:]}"
        time.sleep(0.5)
