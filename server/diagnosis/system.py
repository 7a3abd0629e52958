"""Rules for the running system up to the RCFILE_* lines."""

from functools import partial
from typing import Final

from server.diagnosis.case import Case
from server.diagnosis.rule import Rule, Values


def _preinit_failed(case: Case) -> Values | None:
    phase = case.phase("preinit")
    if phase is None or not phase.error_at:
        return None
    return {"what": phase.error or "no reason given", "since": phase.error_at}


def _emergency(case: Case) -> Values | None:
    if case.cause_in("systemd") != "emergency":
        return None
    phase = case.boot.phases["systemd"]
    return {"why": phase.detail or "no reason given", "since": phase.error_at}


def _rcfile_failed(case: Case) -> Values | None:
    phase = case.phase("rcfile")
    if phase is None or not phase.errors:
        return None  # `errors`, not `status`: a line that runs now does not hide one that failed
    if phase.error_cause != "exit":
        text = phase.error or "no reason given"
        return {"name": "RCFILE_*", "exit": text, "last": "see its log", "since": phase.error_at}
    facts = case.boot.facts
    return {
        "name": facts.get("rcfile", "RCFILE_*"),
        "exit": f"exit {facts.get('exit', 'unknown')}",
        "last": facts.get("last") or "it printed nothing",
        "since": phase.error_at,
    }


def _ready_error(case: Case, cause: str) -> Values | None:
    if case.cause_in("ready") != cause:
        return None
    phase = case.boot.phases["ready"]
    return {"words": phase.detail or "without a reason", "since": phase.error_at}


def _csinode(case: Case) -> Values | None:
    phase = case.phase("ready")
    if phase is None or phase.status == "ok" or phase.cause != "kubelet_csinode":
        return None
    return {"words": phase.detail or "without a reason", "since": phase.first}


RULES: Final = (
    Rule(
        id="kubelet-csinode",
        phase="ready",
        severity="note",
        when="kubelet runs and does not say Ready: it asked for its own Node before the API server"
        " had it, and asks again after a pause that grows up to 116 s (CSINode).",
        headline="It has joined, and kubelet waits to ask for its own Node again: {words}",
        expected="a kubelet that finds its Node, and says Ready",
        seen="{words}",
        check=(
            "wait two minutes at most: kubelet asks again by itself, or ends and starts anew",
            "it happens where the control plane or the machine is short of CPU while the Node is"
            " made: look at their load",
            "longer than that: `kubectl get node`, `kubectl get csinode`; `journalctl -u kubelet`"
            " on the machine",
        ),
        match=_csinode,
    ),
    Rule(
        id="pods-blocked",
        phase="ready",
        severity="error",
        when="The Node says Ready, and kubelet cannot begin a pod on it, whatever is in it.",
        headline="Its Node is Ready, but {words}",
        expected="pods that start",
        seen="{words}",
        check=(
            "pause, the image of every pod: does the image bring it, or can the machine reach its"
            " registry? (docs/recipes.md)",
            "a file that kubelet names: the cluster's kubelet-config, made on another distribution",
            "the network plugin: `journalctl -u kubelet`, `kubectl -n kube-system get pods`",
        ),
        match=partial(_ready_error, cause="pods_blocked"),
    ),
    Rule(
        id="kubelet-crash",
        phase="ready",
        severity="error",
        when="The machine has joined, and its kubelet ends again and again.",
        headline="It has joined, but {words}",
        expected="a kubelet that runs",
        seen="{words}",
        check=(
            "what kubelet names: a cgroup, a path, a kernel setting",
            "the cluster's kubelet-config and the recipe's `kubernetes.kubelet`",
            "`journalctl -u kubelet` on the machine",
        ),
        match=partial(_ready_error, cause="kubelet_ended"),
    ),
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
        id="emergency-mode",
        phase="systemd",
        severity="error",
        when="systemd has given up starting the system: a disk that must be there, or a unit that"
        " local-fs.target or sysinit.target needs, failed.",
        headline="The system did not start: {why}",
        expected="all that local-fs.target and sysinit.target need",
        seen="{why}",
        check=(
            "a disk that has not shown up: is it there? With `nofail` among the options of its"
            " FSTAB_* line the machine boots without it",
            "a disk that is there and cannot be mounted: its file system, the type in its line",
            "a unit that failed: `journalctl -b -u UNIT` on the machine's console, or the image"
            " before (`bootfarm images rollback`)",
            "bootfarm.on_error=reboot in KERNEL_CMDLINE has the machine try again by itself",
        ),
        match=_emergency,
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
