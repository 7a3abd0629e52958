"""Rules from the kernel's own words, by netconsole or syslog (docs/status-page.md)."""

from typing import Final

from server.diagnosis.case import Case
from server.diagnosis.rule import Rule, Values


def _panic(case: Case) -> Values | None:
    words = case.boot.facts.get("panic")
    if not words:
        return None
    phase = next(
        (name for name, phase in case.boot.phases.items() if phase.error_cause == "panic"),
        case.last,
    )
    return {"what": words, "phase": phase, "since": case.boot.phases[phase].error_at or case.heard}


RULES: Final = (
    Rule(
        id="kernel-panic",
        phase="shutdown",
        severity="error",
        when="The kernel said so itself, by netconsole or syslog (`logs` in farm.yaml).",
        headline="Its kernel panicked: {what}",
        expected="a kernel that runs",
        seen="{what}",
        check=(
            "the kernel's last words on the machine's page, under \"Kernel log\"",
            "memory and other hardware: does another machine run the same image?",
            "another kernel: IMAGE in lts.conf, `bootfarm images rollback`",
            "switch it off and on; with `panic=30` in KERNEL_CMDLINE it resets itself",
        ),
        match=_panic,
        stays=True,
    ),
)
