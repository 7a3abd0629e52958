"""Rules for fetching files: loader, menu, kernel, initramfs, an image as a file."""

import errno
import os
from typing import Final

from server.diagnosis.case import Case, Entry, count_of, name_count, number_in
from server.diagnosis.rule import Rule, Values
from server.quantities import name_size, name_span

_PHASES: Final = ("loader", "menu", "kernel", "initrd")
SLOW_BYTES: Final = 256 * 1024
"""Bytes a second; slower, a kernel and an initramfs take over a minute."""
SLOW_SECONDS: Final = 20.0
"""Seconds that the files of one phase took; less is no finding, however slow the link."""
LOSSY_RETRIES: Final = 20
"""Retransmissions of one phase; fewer are no finding."""
LOSSY_BYTES: Final = 150_000
"""A retransmission in so many bytes: about one packet of a hundred."""


def _path_of(entry: Entry) -> str:
    return str(entry["detail"].get("path") or entry["detail"].get("file") or "")


def _is_unsent(entry: Entry) -> bool:
    """Whether the server's own kernel refused to send."""
    return bool(entry["detail"].get("cause") == "network")


def _is_filtered(entry: Entry) -> bool:
    """Whether a packet filter of the server refused the packet; a missing route gives another
    errno."""
    return bool(entry["detail"].get("errno") == "EPERM")


def _newest(case: Case, *, answered: bool) -> Entry | None:
    """The newest failed transfer of the last phase. None if a later transfer was whole."""
    for entry in case.find(phase=case.last):
        if entry["source"] not in ("tftp", "http"):
            continue
        detail = entry["detail"]
        status = detail.get("status", "ok")
        if status == "ok":
            return None
        if status == "error":
            return entry if (detail.get("answered") is not False) == answered else None
    return None


def _no_ack(case: Case) -> Values | None:
    if case.last not in _PHASES:
        return None
    entry = _newest(case, answered=False)
    if entry is None:
        return None
    if _is_unsent(entry) and not _is_filtered(entry):
        return None
    path = _path_of(entry)
    asked = max(int(number_in(entry, "asked")), 1) - 1
    asked += sum(
        count_of(other)
        for other in case.find(source="tftp", phase=case.last, status="error")
        if _path_of(other) == path
    )
    if _is_unsent(entry):
        ports = f"port {case.farm.tftp_port}" if case.farm.single_port else "ephemeral ports"
        why = f"a firewall on the server itself drops UDP from {ports}"
        advice = "the server's own firewall: `nft list ruleset`, `iptables -nvL OUTPUT`"
        if not case.farm.single_port:
            advice += "; or let one port do: `single_port: true` in farm.yaml"
    elif case.farm.single_port:
        why = "answers from UDP {port} do not reach it"
        advice = "the server answers from UDP {port} already (single_port): allow that port"
    else:
        why = "a firewall between you and the node drops UDP from ephemeral ports"
        advice = "switch on single-port TFTP: `single_port: true` in farm.yaml, restart the server"
    port = str(case.farm.tftp_port)
    return {
        "file": path.rpartition("/")[2],
        "path": path,
        "times": name_count(asked),
        "answer": "our OACK" if entry["detail"].get("oack") else "our first block",
        "why": why.replace("{port}", port),
        "advice": advice.replace("{port}", port),
        "sent": int(number_in(entry, "retries")) + 1,
        "phase": case.last,
        "since": entry["time"],
    }


def _cannot_send(case: Case) -> Values | None:
    if case.last not in _PHASES:
        return None
    entry = _newest(case, answered=False)
    if entry is None or not _is_unsent(entry):
        return None
    number = getattr(errno, str(entry["detail"].get("errno")), 0)
    return {
        "file": _path_of(entry).rpartition("/")[2],
        "what": os.strerror(number) if number else entry["detail"].get("message", "it fails"),
        "phase": case.last,
        "since": entry["time"],
    }


def _gave_up(case: Case) -> Values | None:
    if case.last not in _PHASES:
        return None
    entry = _newest(case, answered=True)
    if entry is None or entry["source"] != "tftp" or "size" not in entry["detail"]:
        return None
    detail = entry["detail"]
    return {
        "file": _path_of(entry).rpartition("/")[2],
        "what": detail.get("message", "no reason given"),
        "got": name_size(number_in(entry, "bytes")),
        "size": name_size(number_in(entry, "size")),
        "retries": int(number_in(entry, "retries")),
        "phase": case.last,
        "since": entry["time"],
    }


def _cut(case: Case) -> Values | None:
    if case.last not in _PHASES:
        return None
    entry = _newest(case, answered=True)
    if entry is None or entry["source"] != "http" or not number_in(entry, "bytes"):
        return None
    if entry["detail"].get("cause") != "hung_up":
        return None
    return {
        "file": _path_of(entry).rpartition("/")[2],
        "what": entry["detail"].get("message", "no reason given"),
        "got": name_size(number_in(entry, "bytes")),
        "phase": case.last,
        "since": entry["time"],
    }


def _not_given(case: Case) -> Values | None:
    if case.last not in _PHASES or case.last == "menu":
        return None
    entry = _newest(case, answered=True)
    if entry is None:
        return None
    return {
        "path": _path_of(entry),
        "what": entry["detail"].get("message", "no reason given"),
        "phase": case.last,
        "since": entry["time"],
    }


def _slow(case: Case) -> Values | None:
    for name in ("loader", "kernel", "initrd", "root"):
        phase = case.phase(name)
        if phase is None or phase.seconds < SLOW_SECONDS:
            continue
        rate = phase.bytes / phase.seconds
        if rate < SLOW_BYTES:
            return {
                "what": name,
                "rate": name_size(rate),
                "size": name_size(phase.bytes),
                "took": name_span(phase.seconds),
                "phase": name,
                "since": phase.last,
            }
    return None


def _lossy(case: Case) -> Values | None:
    for name in ("loader", "kernel", "initrd"):
        phase = case.phase(name)
        if (
            phase is not None
            and phase.retries >= LOSSY_RETRIES
            and phase.retries * LOSSY_BYTES > phase.bytes
        ):
            return {
                "what": name,
                "retries": phase.retries,
                "size": name_size(phase.bytes),
                "phase": name,
                "since": phase.last,
            }
    return None


RULES: Final = (
    Rule(
        id="tftp-no-ack",
        phase="initrd",
        severity="error",
        when="A TFTP request was answered several times, and nothing ever came back from the"
        " machine's port. The server's own firewall may be the one that drops it. (A client that"
        " only asks for the size and goes away looks the same; it then fetches the file, and the"
        " rule does not hold.)",
        headline="It asked for {file} {times} and never acknowledged {answer}: {why}.",
        expected="an acknowledgement of {answer}",
        seen="{path} asked for {times}; {answer} sent {sent} times, no answer",
        check=(
            "{advice}",
            "or let UDP from all ports of {server} pass to the machine's network",
            "on the server: `tcpdump -n udp and host {ip}` shows whether answers leave, and by"
            " which interface",
        ),
        match=_no_ack,
    ),
    Rule(
        id="tftp-cannot-send",
        phase="initrd",
        severity="error",
        when="The server's own kernel refuses to send to the machine, as without a route.",
        headline="It asked for {file}, and the server cannot send to it: {what}.",
        expected="a route from {server} to {ip}",
        seen="{what}",
        check=(
            "on the server: `ip route get {ip}`, and `ip neighbour` on its own network",
            "is the interface to the machine's network up?",
        ),
        match=_cannot_send,
    ),
    Rule(
        id="transfer-gave-up",
        phase="initrd",
        severity="error",
        when="A TFTP transfer began and stood still until the server gave it up, or the machine"
        " closed its port in the middle.",
        headline="Fetching {file} broke off after {got} of {size}: {what}.",
        expected="an acknowledgement of each window of packets",
        seen="{what}; {retries} retransmissions",
        check=(
            "cable, switch port (errors, half duplex) and MTU on the way",
            "was the machine reset or switched off meanwhile?",
            "the machine's screen: a loader that ran out of memory says so",
        ),
        match=_gave_up,
    ),
    Rule(
        id="transfer-cut",
        phase="initrd",
        severity="error",
        when="An HTTP transfer ended before its end.",
        headline="Fetching {file} broke off after {got}: {what}.",
        expected="the whole file",
        seen="{got} sent; {what}",
        check=(
            "was the machine reset or switched off meanwhile?",
            "cable and switch port; a proxy or firewall that cuts long connections",
        ),
        match=_cut,
    ),
    Rule(
        id="file-refused",
        phase="initrd",
        severity="error",
        when="The machine asked for a loader, kernel or initramfs that the server does not give"
        " it.",
        headline="It asked for {path} and did not get it: {what}.",
        expected="a path of the boot tree (/ltsp/<image>/…)",
        seen="{what}",
        check=(
            "file name in the site's DHCP: `bootfarm dhcp-config` prints the right ones",
            "`bootfarm images list`: is the image still in the store?",
            "a machine that stands at an old menu: reboot it",
        ),
        match=_not_given,
    ),
    Rule(
        id="transfer-slow",
        phase="root",
        severity="note",
        when=f"Files of a phase took longer than {SLOW_SECONDS:.0f} s at less than"
        f" {SLOW_BYTES // 1024} KiB/s.",
        headline="Files come to it at {rate}/s only.",
        expected="some MiB/s",
        seen="{what}: {size} in {took}",
        check=(
            "link speed of the machine's port (10 Mbit/s? half duplex?)",
            "a loader that can: larger blocks and windows, or HTTP (iPXE) instead of TFTP",
            "the way between {server} and the machine: a WAN, a tunnel, a busy uplink",
        ),
        match=_slow,
        stays=True,
    ),
    Rule(
        id="transfer-lossy",
        phase="initrd",
        severity="note",
        when=f"{LOSSY_RETRIES} retransmissions or more, and one in {LOSSY_BYTES // 1000} kB.",
        headline="The way to it loses packets: {retries} were sent again for {size}.",
        expected="next to none",
        seen="{what}: {retries} retransmissions for {size}",
        check=(
            "cable and switch port (error counters)",
            "MTU: packets of the loader's block size must pass",
            "a smaller max_windowsize under tftp.limits in farm.yaml",
        ),
        match=_lossy,
        stays=True,
    ),
)
