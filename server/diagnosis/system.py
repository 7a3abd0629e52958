"""Rules for the running system up to the RCFILE_* lines."""

from typing import Final

from server.diagnosis.case import Case, search
from server.diagnosis.rule import Rule, Values


def _preinit_failed(case: Case) -> Values | None:
    phase = case.phase("preinit")
    if phase is None or not phase.error_at:
        return None
    return {"what": phase.error or "no reason given", "since": phase.error_at}


def _rcfile_failed(case: Case) -> Values | None:
    phase = case.phase("rcfile")
    if phase is None or not phase.errors:
        return None  # one that runs meanwhile does not hide the one that failed
    text, since = phase.error, phase.error_at
    match = search(r"^(RCFILE_\w+): (exit \d+)(?:: )?(.*)", text)
    if match is None:
        return {"name": "RCFILE_*", "exit": text, "last": "see its log", "since": since}
    return {
        "name": match[1],
        "exit": match[2],
        "last": match[3] or "it printed nothing",
        "since": since,
    }


RULES: Final = (
    Rule(
        id="preinit-failed",
        phase="preinit",
        severity="note",
        when="A step of init-ltsp complained; the boot went on.",
        headline="A setting of lts.conf could not be applied: {what}",
        expected="each variable applied before systemd starts",
        seen="{what}",
        check=(
            "the variable that the line names, in lts.conf (docs/lts.conf.md)",
            "`bootfarm lts check` finds values that cannot work",
            "reboot the machine then",
        ),
        match=_preinit_failed,
        stays=True,
    ),
    Rule(
        id="rcfile-failed",
        phase="rcfile",
        severity="error",
        when="An RCFILE_* line of lts.conf ended with another exit code than 0.",
        headline="{name} of lts.conf failed ({exit}): {last}",
        expected="exit 0",
        seen="{exit}: {last}",
        check=(
            "its log on the machine: /var/log/bootfarm/{name}.log",
            "the line in lts.conf: it runs under `sh -e`, one failing command ends it",
            "RCFILE_ON_ERROR = continue, if the lines after it shall run all the same",
        ),
        match=_rcfile_failed,
        stays=True,
    ),
)
