"""The rule for a machine that was up and whose root is not attached any more."""

from typing import Final

from server.diagnosis.case import Case
from server.diagnosis.rule import Rule, Values
from server.nodes.node import LIVE_ROOT
from server.nodes.phases import ORDER
from server.quantities import name_span

LOST_SECONDS: Final = 90.0
"""A node whose server or switch was away is back within some seconds: it tries every 5 s."""


def _root_lost(case: Case) -> Values | None:
    """By what the NBD service has now: no event tells that a connection does not come again."""
    if not ORDER["preinit"] <= ORDER[case.last] < ORDER["shutdown"]:
        return None
    if not case.boot.facts.get(LIVE_ROOT):
        return None  # its root is in memory
    told = case.phase("root")
    if told is not None and told.cause == "root_elsewhere":
        return None  # another server of the farm has it
    attached = case.farm.attached_at(case.node.key)
    if attached is None or case.now - attached <= LOST_SECONDS:
        return None
    for entry in case.find(source="nbd"):
        attached = max(attached, float(entry.get("until", entry["time"])))
        break
    if (root := case.phase("root")) is not None:
        attached = max(attached, root.last)
    gone = case.now - attached
    return {"span": name_span(gone), "since": attached} if gone > LOST_SECONDS else None


RULES: Final = (
    Rule(
        id="root-lost",
        phase="ready",
        severity="error",
        when=f"It runs on its root over NBD, and has had no connection for {LOST_SECONDS:.0f} s;"
        " it has not said that it shuts down. Told by a server process that serves NBD, of"
        " machines that have not their root in memory (LTSP_NBD_TO_RAM), and that did not say that"
        " another of the farm's servers has it.",
        headline="Its root has not been attached for {span}: it is off, hangs, or cannot reach"
        " {server}",
        expected="an open connection to TCP {nbd_port} of {server} for as long as it runs",
        seen="none for {span}",
        check=(
            "is it on? its console, its BMC",
            "`ping {ip}` from {server}: cable, switch port, VLAN",
            "if it answers: a firewall or router between that drops TCP {nbd_port}; the node tries"
            " again every few seconds and goes on where it stood",
            "if it hangs: switch it off and on",
        ),
        match=_root_lost,
    ),
)
