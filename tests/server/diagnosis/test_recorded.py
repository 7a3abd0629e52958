"""What kubeadm and kubelet really said, by version: the wrapper's words for it, and the rule.

Each file of recorded/VERSION was taken from a run of that version's programs against a control
plane of that version, in network and mount namespaces, with one fault. `--- kubeadm` and
`--- kubelet` are what these said (the preflight's list of kernel options and its warnings left
out), `--- wrapper` what the node's wrapper found by itself, before kubeadm ran.
"""

import subprocess
from pathlib import Path

import pytest

from tests.server.diagnosis.story import Story

RECORDED = Path(__file__).with_name("recorded")
WORDS = Path(__file__).parents[3] / "imagebuild/rootfs/usr/lib/bootfarm/lib/joinwords.sh"
RULES = {
    "1.37.2/api-no-name": "api-unreachable",
    "1.37.2/api-no-route": "api-unreachable",
    "1.37.2/api-refused": "api-unreachable",
    "1.37.2/cert-expired": "clock-skew",
    "1.37.2/client-ca-file": "kubelet-ended",
    "1.37.2/clock-not-yet": "clock-skew",
    "1.37.2/config-mixed": "join-command",
    "1.37.2/config-v1beta3": "join-command",
    "1.37.2/cri-disabled": "runtime-away",
    "1.37.2/discovery-refused": "api-unreachable",
    "1.37.2/feature-gate": "kubelet-option",
    "1.37.2/forbidden": "join-forbidden",
    "1.37.2/kubeadm-newer": "version-skew",
    "1.37.2/kubelet-older": "version-skew",
    "1.37.2/leftovers-kubeadm": "join-preflight",
    "1.37.2/no-cgroup2": "join-preflight",
    "1.37.2/no-pin-kubeadm": "join-command",
    "1.37.2/no-socket": "runtime-away",
    "1.37.2/node-ready": "name-used",
    "1.37.2/not-approved": "not-approved",
    "1.37.2/port-in-use": "join-preflight",
    "1.37.2/removed-kubelet-flag": "kubelet-option",
    "1.37.2/runtime-not-running": "runtime-away",
    "1.37.2/swap": "kubelet-swap",
    "1.37.2/token-expired": "token-expired",
    "1.37.2/token-expired-kubeadm": "token-expired",
    "1.37.2/token-wrong": "token-expired",
    "1.37.2/token-wrong-kubeadm": "token-expired",
    "1.37.2/two-sockets": "runtime-several",
    "1.37.2/unknown-ca": "join-certificate",
    "1.37.2/unknown-flag": "join-command",
    "1.37.2/wrong-ca-hash": "ca-hash",
    "1.37.2/wrong-ca-hash-kubeadm": "ca-hash",
}
HEADLINES = {
    "1.37.2/client-ca-file": "open /etc/kubernetes/ssl/ca.crt: no such file or directory",
    "1.37.2/cri-disabled": "/run/containerd/containerd.sock speaks no CRI",
    "1.37.2/feature-gate": "unrecognized feature gate: NoSuchGate",
    "1.37.2/no-socket": "/var/run/containerd/containerd.sock is not there",
    "1.37.2/node-ready": "a Node named ready-1 is already in the cluster and Ready",
    "1.37.2/port-in-use": "Port 10250 is in use",
    "1.37.2/removed-kubelet-flag": "unknown flag: --network-plugin",
    "1.37.2/two-sockets": "unix:///var/run/containerd/containerd.sock, unix:///var/run/cri-",
}


AFTER_JOIN = {
    "1.37.2/pause-missing": (
        "sandbox_words",
        "pods cannot start: ",
        "pods_blocked",
        "pods-blocked",
        "pause:3.10",
    ),
    "1.37.2/reserved-cgroup": (
        "kubelet_words",
        "kubelet does not run: ",
        "kubelet_ended",
        "kubelet-crash",
        "System Reserved Cgroup Limits",
    ),
    "1.37.2/resolvconf-missing": (
        "sandbox_words",
        "pods cannot start: ",
        "pods_blocked",
        "pods-blocked",
        "open /run/systemd/resolve/resolv.conf: no such file or directory",
    ),
}
"""What watch-ready tells: the function that finds the words, report, cause, rule, headline."""


def sections(text: str) -> dict[str, str]:
    """The parts of a recorded file by name."""
    _, *parts = text.split("\n--- ")
    return {name: body for name, _, body in (part.partition("\n") for part in parts)}


FOUND = {
    "no answer from the API server: ": "join_away",
    "token refused: ": "join_token",
    "CA hash refused: ": "join_ca",
}
"""What the wrapper found by itself: how it says so, and the cause that goes with it
(tests/node/test_kubeadm.py)."""


def wrapper_report(recorded: dict[str, str], directory: Path) -> tuple[str, str, str]:
    """What the wrapper reports of it, by its own functions: words, cause, what others said."""
    if "wrapper" in recorded:
        words = recorded["wrapper"].strip()
        ((begin, cause),) = ((one, FOUND[one]) for one in FOUND if words.startswith(one))
        return words, cause, words.removeprefix(begin) if cause == "join_away" else ""
    words = shell(recorded, "judge_try . || true", directory)
    cause, said = ((directory / name).read_text().strip() for name in ("cause", "said"))
    return words, cause, said


def shell(recorded: dict[str, str], command: str, directory: Path) -> str:
    """The output of a command of joinwords.sh, the parts being files of their names."""
    for name, part in (("join.log", "kubeadm"), ("kubelet.log", "kubelet")):
        (directory / name).write_text(recorded.get(part, ""))
    script = f'. "{WORDS}"; {command}'
    done = subprocess.run(
        ["dash", "-c", script], cwd=directory, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_every_recording_has_its_rule() -> None:
    files = {str(path.relative_to(RECORDED).with_suffix("")) for path in RECORDED.rglob("*.log")}
    assert files == set(RULES) | set(AFTER_JOIN)
    assert set(HEADLINES) <= set(RULES)


@pytest.mark.parametrize("name", sorted(RULES))
def test_recorded(name: str, tmp_path: Path) -> None:
    text = (RECORDED / f"{name}.log").read_text()
    assert text.startswith(f"# Kubernetes {name.partition('/')[0]}, recorded ")
    words, cause, said = wrapper_report(sections(text), tmp_path)
    assert 0 < len(words) <= 340, "a page's detail has 400 characters"
    found = Story().to_join().failed_join(cause, said[:300]).finding()
    assert found is not None
    assert found.rule == RULES[name], words
    assert HEADLINES.get(name, "") in found.headline


@pytest.mark.parametrize("name", sorted(AFTER_JOIN))
def test_recorded_after_the_join(name: str, tmp_path: Path) -> None:
    function, report, cause, rule, headline = AFTER_JOIN[name]
    text = (RECORDED / f"{name}.log").read_text()
    words = shell(sections(text), f"{function} kubelet.log", tmp_path)
    assert 0 < len(words) <= 340
    story = Story().to_ready().beacon("ready", f"{report}{words}", "error", cause=cause)
    found = story.finding()
    assert found is not None
    assert found.rule == rule
    assert headline in found.headline
