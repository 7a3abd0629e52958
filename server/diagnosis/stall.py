"""General rules: a node was silent too long, failed in another way, or begins again and again."""

from collections.abc import Callable
from typing import Final

from server.diagnosis.case import Case, name_count
from server.diagnosis.expectation import EXPECTATIONS
from server.diagnosis.rule import Rule, Values
from server.nodes.node import PAST_BOOTS, Boot
from server.nodes.phases import ORDER, PHASES
from server.quantities import name_span

LOOP_BOOTS: Final = 3
"""Boots in a row that make a loop: two may be somebody at the switch."""
LOOP_SECONDS: Final = 900.0
"""A boot that ended sooner than so, three times over, is a loop."""
_CONSOLE: Final = "the machine's console: its last lines"
_LINK: Final = "power, cable and switch port: is it still on?"
_CHECKS: Final = {
    "dhcp": (
        _LINK,
        "the machine's screen, and the boot order in its firmware",
        "the DHCP server's log for this machine",
    ),
    "loader": (
        "the machine's screen: GRUB or iPXE say what they miss",
        "a firewall between it and {server}: UDP {tftp_port}, TCP {http_port}",
    ),
    "menu": (
        "the machine's screen: does it stand at the menu?",
        "`menu: timeout` in farm.yaml, if nobody is to choose",
    ),
    "kernel": ("the machine's screen: the loader says what it misses", _LINK),
    "initrd": (_CONSOLE, _LINK),
    "initramfs": (_CONSOLE, _LINK),
    "network": (_CONSOLE, "a firewall between it and {server}: TCP {http_port}, UDP {tftp_port}"),
    "ltsconf": (
        "a firewall between it and {server}: TCP {nbd_port} (NBD)",
        "does the server serve NBD? `services` in farm.yaml",
        _CONSOLE,
    ),
    "root": (
        "LTSP_NBD_TO_RAM copies the whole image first: its console shows how far it is",
        _CONSOLE,
    ),
    "preinit": ("PREINIT_* and FSTAB_* of lts.conf: one may hang", _CONSOLE),
    "systemd": (
        "a unit that hangs: `systemctl list-jobs` on the machine",
        "units that lts.conf's KEEP_SYSTEM_SERVICES and RM_SYSTEM_SERVICES name",
        _CONSOLE,
    ),
    "rcfile": (
        "its log on the machine: /var/log/bootfarm/",
        "a line that waits for something without an end: give it a timeout",
    ),
    "join": (
        "`kubectl get nodes`; `kubectl describe node` for this machine",
        "kubelet and the cluster's network plugin (CNI): `journalctl -u kubelet` on the machine",
        "a controller manager that runs and signs certificates",
    ),
}
_HEADLINES: Final = {
    "rcfile": "An RCFILE_* line of lts.conf ({what}) has been running for {quiet}.",
    "join": "kubeadm join ended or runs, but the Node is not Ready after {quiet}.",
    "menu": "It has had its menu for {quiet} and asks for no kernel.",
    "ltsconf": "It has its lts.conf, and has not attached its root for {quiet}.",
    "preinit": "init-ltsp has been applying lts.conf for {quiet}.",
    "systemd": "systemd has been starting for {quiet} and has not come to the RCFILE_* lines.",
}


def _stall(name: str) -> Rule:
    expectation = EXPECTATIONS[name]

    def match(case: Case) -> Values | None:
        if case.last != name or not case.is_stalled:
            return None
        phase = case.boot.phases[name]
        return {"quiet": name_span(case.quiet), "what": phase.detail or phase.status}

    return Rule(
        id=f"{name}-stalled",
        phase=name,
        severity="stalled",
        when=f"Nothing came for {expectation.seconds:.0f} s after phase {name}.",
        headline=_HEADLINES.get(name, f"Nothing came from it for {{quiet}}, since phase {name}."),
        expected=f"{expectation.next} within {expectation.seconds:.0f} s",
        seen=f"phase {name} ({{what}}), then nothing for {{quiet}}",
        check=_CHECKS[name],
        match=match,
    )


def _failed(name: str) -> Rule:
    return Rule(
        id=f"{name}-failed",
        phase=name,
        severity="error",
        when=f"Phase {name} ended in an error that no other rule knows.",
        headline=f"Phase {name} failed: {{what}}",
        expected=EXPECTATIONS[name].next,
        seen="{what}",
        check=(_CONSOLE, "the server's log"),
        match=_match_error(name),
    )


def _match_error(name: str) -> Callable[[Case], Values | None]:
    def match(case: Case) -> Values | None:
        text = case.error_in(name)
        return None if text is None else {"what": text or "no reason given"}

    return match


def _loop(case: Case) -> Values | None:
    boots = [case.boot]
    for boot in reversed(case.node.past):
        if boots[-1].started - boot.started > LOOP_SECONDS or not _ended_early(boot):
            break
        boots.append(boot)
    if len(boots) < LOOP_BOOTS:
        return None
    reached = (name for boot in boots for name in boot.phases if name != "shutdown")
    furthest = max(reached, key=ORDER.__getitem__, default="dhcp")
    error = boots[1].error()
    return {
        "times": name_count(len(boots)),
        "more": " or more" if len(boots) > PAST_BOOTS else "",
        "span": name_span(case.now - boots[-1].started),
        "furthest": furthest,
        "last": f" Before this time it ended with: {error}." if error else "",
        "phase": case.last,
        "since": boots[-1].started,
    }


def _ended_early(boot: Boot) -> bool:
    """Whether a boot ended before its RCFILE_* lines, or by one that failed
    (bootfarm.on_error=reboot)."""
    lines = boot.phases.get("rcfile")
    if lines is not None and lines.errors and "ready" not in boot.phases:
        return True
    return ORDER[boot.last_phase() or "dhcp"] < ORDER["rcfile"]


_LOOP: Final = Rule(
    id="boot-loop",
    phase="systemd",
    severity="error",
    when=f"{LOOP_BOOTS} boots in a row, each within {LOOP_SECONDS / 60:.0f} minutes of the one"
    " before, ended before the RCFILE_* lines, or by one that failed.",
    headline="It has begun to boot {times}{more} in {span} and never came further than {furthest}."
    "{last}",
    expected="one boot that goes on",
    seen="{times}{more} begun in {span}, the furthest until {furthest}",
    check=(
        "the machine's console: a kernel panic, a watchdog, a power supply that gives up",
        "bootfarm.on_error=reboot in lts.conf's KERNEL_CMDLINE or farm.yaml reboots after each"
        " error: `shell` keeps it there",
        "an image that boots elsewhere: IMAGE in lts.conf, `bootfarm images rollback`",
    ),
    match=_loop,
)

_STALLING: Final = [name for name in PHASES if EXPECTATIONS[name].seconds is not None]
_UNNAMED: Final = ("dhcp", "initramfs", "network", "systemd", "ready")

RULES: Final = (
    *(_failed(name) for name in _UNNAMED),
    _LOOP,
    *(_stall(name) for name in _STALLING),
)
