"""Each rule by a story in which it holds, and by one nearly the same, in which it does not."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest

from server.diagnosis import RULES, FarmFacts
from tests.server.diagnosis.story import BIOS, DIGEST, FARM, UEFI, Story

GRUB_CFG = "/ltsp/amd64/grub/grub.cfg"
KERNEL, INITRD = f"/ltsp/amd64/@{DIGEST}/vmlinuz", f"/ltsp/amd64/@{DIGEST}/initrd.img"
ROOT = f"/opt/ltsp/amd64@{DIGEST}"
REFUSED = f"no root: nbdroot: no export {ROOT} from 10.9.0.1 port 10809 (Connection refused)"
TOO_LARGE = {
    "root": "live NBD (the image does not fit)",
    "cause": "too_large",
    **{"ram_image": "300", "ram_system": "256", "ram_free": "380", "ram_total": "640"},
}
CSINODE = (
    "failed to initialize CSINode: error updating CSINode annotation: timed out waiting for the"
    ' condition; caused by: nodes "node-1" not found'
)
CORRUPT = {
    **{"cause": "image_corrupt", "corrupted": "data 17089, hash 61004", "served": "10.9.0.2"},
}
NO_ANSWER = "curl: (28) Connection timed out"
COPY_FAILED = {"root": "live NBD (the copy into memory failed)", "cause": "copy_failed"}
NO_LOADER = "no loader for UEFI IA32: images are for machines that boot by BIOS"
OTHER_ONE = "image amd64:current is for amd64 machines, and this machine is arm64"
SLOW: dict[str, Any] = {"bytes": 14_000_000, "seconds": 70.0}


def failed_dhcp(message: str, cause: str, **detail: Any) -> Story:
    return Story().dhcp(status="error", message=message, cause=cause, **detail)


def joined(said: str, cause: str = "") -> Story:
    return Story().to_join().failed_join(cause, said)


# The boot server's words hold those of other rules: the cause counts.
CERTIFICATE = (
    *("off", "not-listed", "name", "alive", "twice", "limit", "request", "api", "server"),
)


def refused(cause: str) -> Callable[[], Story]:
    words = "try 1: no certificate: the cluster refuses a request: 403 forbidden; again in 5 s"
    return lambda: Story().to_join().beacon("join", words, "error", cause=cause)


def waiting(status: str) -> Story:
    words = "try 1: waits: the lease of node-1's kubelet looks 89 s old; again in 5 s"
    return Story().to_join().beacon("join", words, status, cause="join_watched")


def rooted(words: str, cause: str = "", status: str = "error", **facts: str) -> Story:
    return Story().to_ltsconf().beacon("root", words, status, cause=cause, **facts)


def fetched(path: str, **detail: Any) -> Story:
    story = Story().to_menu()
    return (story.tftp(KERNEL) if path == INITRD else story).tftp(path, **detail)


def named(unknown: str) -> Story:
    """A machine whose menu's path names an image that the store has not."""
    more = {"unknown_image": unknown} if unknown else {}
    path = f"/ltsp/{unknown or 'amd64'}/grub/grub.cfg"
    detail = {"status": "ok", "path": path, "image": "amd64", "digest": DIGEST, **more}
    return Story().to_loader().see("plan", "menu", **detail)


def planned(message: str, cause: str, status: str = "error") -> Story:
    story = Story().to_loader().tftp(GRUB_CFG)
    detail = {"status": status, "path": GRUB_CFG, "message": message, "cause": cause}
    return story.see("plan", "menu", **detail)


def unsent(reason: str, errno: str) -> Story:
    message = f"cannot send: {reason}"
    return Story().unanswered(BIOS, message=message, cause="network", errno=errno)


def http_cut(message: str, cause: str, size: int) -> Story:
    detail = {"file": KERNEL, "status": "error", "message": message, "bytes": size, "cause": cause}
    return Story().to_menu().see("http", "transfer", **detail)


def silent_dhcp(times: int) -> Story:
    story = Story()
    for _ in range(times):
        story.wait(3).dhcp()
    return story


def given_root(beacon: bool) -> Story:
    story = Story().to_initrd().see("http", "transfer", file="/ltsp/amd64/lts.conf", status="ok")
    return (story.beacon("ltsconf") if beacon else story).attach()


def unattached(*, ram: bool = False, seconds: float = 91, to: str = "ready") -> Story:
    """A machine that came up, hung up, and was silent for so long."""
    story = Story(dataclasses.replace(FARM, attached_at=lambda key: 0.0))
    story.to_ltsconf().attach()
    hang_up: dict[str, Any] = {"export": ROOT, "digest": DIGEST}
    if ram:
        story.see("nbd", "detach", **hang_up)
    story.beacon("root", "RAM" if ram else "live NBD").beacon("preinit", "node-1")
    story.beacon("systemd").beacon("rcfile", status="start").beacon(to)
    if not ram:
        story.see("nbd", "detach", **hang_up)
    return story.wait(seconds)


def looping(times: int, pause: float = 60, *, ready: bool = False) -> Story:
    story = Story()
    for number in range(times):
        story.to_initrd()
        if number == 0 and ready:
            story.to_ready()
        story.wait(pause)
    return story


def to_emergency(cause: str) -> Story:
    words = "systemd is in emergency mode: LABEL=data for /srv/data has not shown up"
    return Story().to_ltsconf().attach().beacon("systemd", words, "error", cause=cause)


def filled(path: str, percent: int) -> Callable[[], Story]:
    return lambda: Story().to_ready().space(f"/x:0:0:9 {path}:{percent}:3:650")


def stalling(phase: str) -> tuple[Callable[[], Story], Callable[[], Story]]:
    return (
        lambda: Story().beacon(phase, status="start").wait(STALLING[phase] + 1),
        lambda: Story().beacon(phase, status="start").wait(STALLING[phase]),
    )


STALLING = {
    **{"menu": 60, "kernel": 60, "initramfs": 60, "network": 60, "ltsconf": 90},
    **{"root": 300, "preinit": 120, "systemd": 180, "rcfile": 900, "join": 240},
}
STORIES: dict[str, tuple[Callable[[], Story], Callable[[], Story]]] = {
    "kernel-panic": (
        lambda: (
            Story()
            .to_ready()
            .see(
                *("netconsole", "ready"),
                status="error",
                message="VFS: dead",
                panic="VFS: dead",
                cause="panic",
            )
        ),
        lambda: looping(1).to_ready(),
    ),
    "wrong-loader": (
        lambda: Story().dhcp(architecture=7).tftp(BIOS),
        lambda: Story().dhcp(architecture=7).tftp(BIOS, status="stop"),
    ),
    "unknown-architecture": (
        lambda: failed_dhcp(NO_LOADER, "no_loader", architecture=6, firmware="UEFI IA32"),
        lambda: failed_dhcp("no image is served to this machine", "no_image", architecture=11),
    ),
    "other-architecture": (
        lambda: planned(OTHER_ONE, "architecture"),
        lambda: planned("IMAGE 'arm64': there is no image 'arm64'", "no_image"),
    ),
    "no-loader-in-image": (
        lambda: failed_dhcp("no loader: image amd64 holds none", "no_loader", architecture=7),
        lambda: failed_dhcp(NO_LOADER, "no_loader", architecture=6),
    ),
    "not-listed": (
        lambda: failed_dhcp("52:54:00:00:00:01 is not in the inventory", "not_listed"),
        lambda: failed_dhcp("no image is served to this machine", "no_image"),
    ),
    "no-image": (
        lambda: failed_dhcp("the store holds no image; build one", "no_image"),
        lambda: Story().dhcp(),
    ),
    "dhcp-pool-empty": (
        lambda: failed_dhcp("no address is left in the DHCP range", "no_address"),
        lambda: failed_dhcp("no address is left in the DHCP range", "no_address").dhcp(),
    ),
    "dhcp-two-servers": (
        lambda: failed_dhcp("another DHCP server", "other_server", dhcp_server="10.9.0.3"),
        lambda: Story().dhcp(address="10.9.0.11", dhcp_server="10.9.0.3"),
    ),
    "dhcp-conflict": (
        lambda: Story().see(
            *("dhcp", "dhcp"),
            request="decline",
            status="error",
            address="10.9.0.11",
            message="10.9.0.11 is used by another machine: it is set aside for a while",
            cause="address_in_use",
        ),
        lambda: Story().see("dhcp", "dhcp", request="release", status="ok"),
    ),
    "dhcp-refused": (
        lambda: failed_dhcp("10.9.0.11 is not its own", "refused", reply="nak"),
        lambda: failed_dhcp("10.9.0.11 is not its own", "refused", reply="nak").to_menu(),
    ),
    "dhcp-no-address": (lambda: silent_dhcp(3), lambda: silent_dhcp(2)),
    "dhcp-ignored-offer": (
        lambda: Story().dhcp(address="10.9.0.11", dhcp_server="10.9.0.3").wait(61),
        lambda: Story().dhcp(address="10.9.0.11", dhcp_server="10.9.0.3").wait(60),
    ),
    "loader-silent": (
        lambda: Story().dhcp(architecture=7).tftp(UEFI).wait(61),
        lambda: Story().dhcp(architecture=7).tftp(UEFI).menu().wait(61),
    ),
    "image-nowhere": (
        lambda: planned("IMAGE 'arm64': there is no image 'arm64'", "no_image"),
        lambda: planned("IMAGE 'x': there is no image 'x'", "no_image").menu(),
    ),
    "image-name-unknown": (
        lambda: named("amd46"),
        lambda: named(""),
    ),
    "held-at-menu": (
        lambda: planned("its boot menu waits", "held", "start"),
        lambda: planned("its boot menu waits", "held", "start").tftp(KERNEL),
    ),
    "not-listed-menu": (
        lambda: planned("52:54:00:00:00:01 is not in the inventory", "not_listed"),
        lambda: planned("IMAGE 'x': there is no image 'x'", "no_image"),
    ),
    "menu-refused": (
        lambda: planned("KERNEL_CMDLINE has a quote without its end", "command_line"),
        lambda: Story().to_menu(),
    ),
    "tftp-no-ack": (
        lambda: Story().dhcp().unanswered(BIOS),
        lambda: Story().dhcp().tftp(BIOS, status="error", message="no answer for 30 s"),
    ),
    "tftp-cannot-send": (
        lambda: unsent("Network is unreachable", "ENETUNREACH"),
        lambda: unsent("Operation not permitted", "EPERM"),
    ),
    "transfer-gave-up": (
        lambda: fetched(INITRD, status="error", message="no answer for 30 s at block 9 of 99"),
        lambda: fetched(INITRD, status="stop", message="the client ended it: (code 0)"),
    ),
    "transfer-cut": (
        lambda: http_cut("the client closed the connection", "hung_up", 5000),
        lambda: http_cut("answered with 404", "not_found", 20),
    ),
    "file-refused": (
        lambda: (
            Story()
            .to_menu()
            .see(
                *("tftp", "transfer"),
                path=KERNEL,
                status="error",
                message="there is no image amd64",
            )
        ),
        lambda: fetched(KERNEL),
    ),
    "transfer-slow": (
        lambda: fetched(INITRD, **SLOW).beacon("initramfs"),
        lambda: fetched(INITRD, **(SLOW | {"bytes": 140_000_000})).beacon("initramfs"),
    ),
    "transfer-lossy": (
        lambda: fetched(INITRD, bytes=14_000_000, retries=200).beacon("initramfs"),
        lambda: fetched(INITRD, bytes=14_000_000, retries=19).beacon("initramfs"),
    ),
    "no-beacon": (
        lambda: Story().to_initrd().wait(151),
        lambda: Story().to_initrd().wait(150),
    ),
    "beacon-blocked": (
        lambda: given_root(beacon=False).wait(61),
        lambda: given_root(beacon=True).wait(61),
    ),
    "nic-no-driver": (
        lambda: Story().beacon(
            *("initramfs", "6.1.0; no driver for: a card"),
            cause="no_driver",
            cards="0000:01:00.0 vendor 0x10ec",
        ),
        lambda: Story().beacon("initramfs", "6.1.0"),
    ),
    "ltsconf-missing": (
        lambda: Story().beacon(
            *("ltsconf", "no lts.conf from the server: the image's own is used", "error"),
            cause="own_ltsconf",
        ),
        lambda: Story().beacon("ltsconf", "the server by TFTP"),
    ),
    "ltsconf-refused": (
        lambda: (
            Story()
            .to_network()
            .see(
                *("http", "transfer"),
                file="/ltsp/amd64/lts.conf",
                status="error",
                message="answered with 403",
            )
        ),
        lambda: Story().to_ltsconf(),
    ),
    "nbd-unreachable": (
        lambda: rooted(REFUSED, "nbd_refused"),
        lambda: rooted(REFUSED, "nbd_failed"),
    ),
    "nbd-no-export": (
        lambda: (
            Story()
            .to_ltsconf()
            .see(
                *("nbd", "error"),
                export=ROOT,
                status="error",
                message="no such export",
                cause="not_found",
            )
        ),
        lambda: rooted("the kernel has no /dev/nbd0", "no_device"),
    ),
    "image-unreadable": (
        lambda: (
            Story()
            .to_ltsconf()
            .see(
                *("nbd", "error"),
                export=ROOT,
                status="error",
                message="cannot open /store/rootfs.squashfs: Permission denied",
                cause="unreadable",
            )
        ),
        lambda: rooted("cannot mount /dev/nbd0 as squashfs", "no_squashfs"),
    ),
    "root-failed": (
        lambda: rooted("cannot mount /dev/nbd0 as squashfs", "no_squashfs"),
        lambda: rooted("live NBD", status="ok"),
    ),
    "image-corrupt": (
        lambda: Story().to_ready().beacon("root", "1 block", "error", **CORRUPT),
        lambda: Story().to_ready().beacon("root", "1 block", "error", cause="image_corrupt"),
    ),
    "image-mismatch": (
        lambda: rooted("block 0 of /dev/nbd0 cannot be read", "verity_mismatch"),
        lambda: rooted("block 0 of /dev/nbd0 cannot be read", "no_verity"),
    ),
    "image-unchecked": (
        lambda: rooted("the kernel makes no verity device", "no_verity"),
        lambda: rooted("the kernel makes no verity device", "no_device"),
    ),
    "image-too-large": (
        lambda: Story().to_ready(**TOO_LARGE),
        lambda: Story().to_ready(**COPY_FAILED),
    ),
    "ram-copy-failed": (
        lambda: Story().to_ready(**COPY_FAILED),
        lambda: Story().to_ready(root="RAM"),
    ),
    **{
        f"join-{word}": (refused(f"join_{word.replace('-', '_')}"), refused("nothing"))
        for word in CERTIFICATE
    },
    "join-watched": (
        lambda: waiting("start"),
        lambda: waiting("start").beacon("join", "try 1: joined as node-1 (by certificate)"),
    ),
    "token-expired": (
        lambda: joined("", "join_token"),
        lambda: joined(NO_ANSWER, "join_away"),
    ),
    "ca-hash": (
        lambda: joined("", "join_ca"),
        lambda: joined("x509: certificate signed by unknown authority"),
    ),
    "clock-skew": (
        lambda: joined(
            "x509: certificate has expired or is not yet valid: current time 1970-01-01"
        ),
        lambda: joined("x509: certificate is valid for 10.9.0.20, not 10.9.0.21"),
    ),
    "api-unreachable": (lambda: joined(NO_ANSWER, "join_away"), lambda: joined(NO_ANSWER)),
    "name-used": (
        lambda: joined(
            'a Node with name "node-1" and status "Ready" already exists in the cluster'
        ),
        lambda: joined("[ERROR Hostname]: a name that cannot be found"),
    ),
    "root-lost": (unattached, lambda: unattached(ram=True)),
    "pods-blocked": (
        lambda: (
            Story()
            .to_ready()
            .beacon("ready", "pods cannot start: open /run/x", "error", cause="pods_blocked")
        ),
        lambda: (
            Story()
            .to_ready()
            .beacon("ready", "pods cannot start: x", "error", cause="pods_blocked")
            .beacon("ready", "Node node-1 is Ready")
        ),
    ),
    "kubelet-crash": (
        lambda: (
            Story()
            .to_ready()
            .beacon("ready", "kubelet does not run: x", "error", cause="kubelet_ended")
        ),
        lambda: Story().to_ready().beacon("ready", "something else", "error"),
    ),
    "kubelet-csinode": (
        lambda: Story().to_join().beacon("ready", CSINODE, "start", cause="kubelet_csinode"),
        lambda: (
            Story()
            .to_join()
            .beacon("ready", CSINODE, "start", cause="kubelet_csinode")
            .beacon("ready", "Node node-1 is Ready")
        ),
    ),
    "kubelet-swap": (
        lambda: joined("running with swap on is not supported, please", "join_kubelet"),
        lambda: joined("[ERROR Swap]: running with swap on is not supported"),
    ),
    "kubelet-option": (
        lambda: joined("failed to parse kubelet flag: unknown flag: --x", "join_kubelet"),
        lambda: joined("unknown flag: --x", "join_line"),
    ),
    "kubelet-ended": (
        lambda: joined("open /etc/kubernetes/ssl/ca.crt: no such file", "join_kubelet"),
        lambda: joined("timed out waiting for the condition"),
    ),
    "runtime-several": (
        lambda: joined(
            "Found multiple CRI sockets, please use --cri-socket to select one:"
            " /var/run/dockershim.sock, /run/containerd/containerd.sock"
        ),
        lambda: joined("something else"),
    ),
    "runtime-away": (
        lambda: joined("[ERROR CRI]: container runtime is not running: output: x, error: exit 1"),
        lambda: joined("[ERROR CRIX]: something else"),
    ),
    "version-skew": (
        lambda: joined("[ERROR KubeletVersion]: the kubelet version is higher than the control"),
        lambda: joined("[ERROR Other]: something else"),
    ),
    "not-approved": (
        lambda: joined("failed while waiting for TLS bootstrap: context deadline exceeded"),
        lambda: joined("context deadline exceeded"),
    ),
    "join-preflight": (
        lambda: joined("[ERROR Swap]: running with swap on is not supported"),
        lambda: joined("error execution phase preflight"),
    ),
    "join-command": (
        lambda: joined("", "join_line"),
        lambda: joined("something else"),
    ),
    "join-forbidden": (
        lambda: joined('nodes "node-1" is forbidden: User "system:bootstrap:abcdef" cannot get'),
        lambda: joined("something else"),
    ),
    "join-certificate": (
        lambda: joined("x509: certificate is valid for 10.9.0.20, not 10.9.0.21"),
        lambda: joined("certificate", "join_ca"),
    ),
    "kubelet-failed": (
        lambda: joined("error execution phase kubelet-start: timed out waiting for the condition"),
        lambda: joined("something else"),
    ),
    "join-failed": (
        lambda: joined("something else"),
        lambda: joined("something else").beacon("join", "try 2: joined as node-1"),
    ),
    "emergency-mode": (
        lambda: to_emergency("emergency"),
        lambda: to_emergency("gave_up"),
    ),
    **{
        f"{kind}-{what}": (filled(path, percent), filled(path, percent - 1))
        for kind, path, filling in (
            ("overlay", "/", 80),
            ("run", "/run", 80),
            ("containers", "/var/lib/docker", 86),
            ("disk", "/srv/data", 90),
        )
        for what, percent in (("filling", filling), ("full", 95))
    },
    "preinit-failed": (
        lambda: (
            Story()
            .to_ltsconf()
            .beacon("preinit", "the step timezone failed", "error")
            .beacon("preinit", "node-1")
        ),
        lambda: Story().to_ltsconf().beacon("preinit", "node-1"),
    ),
    "rcfile-failed": (
        lambda: Story().to_ready().rcfile("RCFILE_09_X", "2", "no such file"),
        lambda: Story().to_ready().beacon("rcfile", "RCFILE_09_X: exit 0"),
    ),
    "dhcp-failed": (
        lambda: failed_dhcp("cannot send to 10.9.0.11: Network is unreachable", "server"),
        lambda: Story().dhcp(),
    ),
    "initramfs-failed": (
        lambda: Story().to_initrd().beacon("initramfs", "the line has no nbdroot=", "error"),
        lambda: Story().to_initrd().beacon("initramfs", "6.1.0"),
    ),
    "network-failed": (
        lambda: Story().to_initrd().beacon("network", "no DHCP answer on eth0", "error"),
        lambda: Story().to_network(),
    ),
    "systemd-failed": (
        lambda: Story().to_systemd().beacon("systemd", "odd", "error"),
        lambda: Story().to_systemd(),
    ),
    "ready-failed": (
        lambda: Story().to_ready().beacon("ready", "odd", "error"),
        lambda: Story().to_ready(),
    ),
    "boot-loop": (lambda: looping(3), lambda: looping(2)),
    "dhcp-stalled": (
        lambda: Story().see("dhcp", "dhcp", firmware="x86 BIOS").wait(61),
        lambda: Story().see("dhcp", "dhcp", firmware="x86 BIOS").wait(60),
    ),
    "loader-stalled": (
        lambda: Story().tftp("/ltsp/amd64/grub/i386-pc/normal.mod").wait(61),
        lambda: Story().tftp("/ltsp/amd64/grub/i386-pc/normal.mod").wait(60),
    ),
    "initrd-stalled": (
        lambda: Story().to_menu().tftp(INITRD, status="stop").wait(151),
        lambda: Story().to_menu().tftp(INITRD, status="stop").wait(150),
    ),
    **{f"{phase}-stalled": stalling(phase) for phase in STALLING},
}


def test_each_rule_has_its_story() -> None:
    assert set(STORIES) == {rule.id for rule in RULES}


@pytest.mark.parametrize("rule", STORIES)
def test_rule_holds(rule: str) -> None:
    found = STORIES[rule][0]().finding()
    assert found is not None
    assert found.rule == rule
    said = [found.headline, found.expected, found.seen, *found.check]
    assert all(said)
    assert not re.search(r"None|\{\w+\}|  |\.\.|: :", " ".join(said))
    assert found.since > 0


@pytest.mark.parametrize("rule", STORIES)
def test_rule_does_not_hold(rule: str) -> None:
    assert STORIES[rule][1]().rule() != rule


@pytest.mark.parametrize(
    ("story", "words"),
    [
        (lambda: silent_dhcp(4), "It asked four times for an address, and no DHCP server gave"),
        (
            lambda: joined("[ERROR Swap]: running with swap on is not supported"),
            "its check Swap failed: running with swap on is not supported",
        ),
        (
            lambda: joined('a Node with name "node-7" and status "Ready" already exists'),
            "a Node named node-7 is already in the cluster",
        ),
        (
            lambda: joined("dial tcp 10.9.0.20:6443: connect: no route to host"),
            "the API server at 10.9.0.20 port 6443 does not answer",
        ),
        (
            lambda: Story().to_join().rcfile("RCFILE_01", "1", "not found"),
            "RCFILE_01 of lts.conf failed (exit 1): not found",
        ),
        (
            lambda: fetched(INITRD, status="error", message="x", bytes=5 << 20, size=14 << 20),
            "Fetching initrd.img broke off after 5 MiB of 14 MiB: x.",
        ),
        (
            lambda: fetched(INITRD, **SLOW).beacon("initramfs"),
            "Files come to it at 195 KiB/s only.",
        ),
    ],
)
def test_words(story: Callable[[], Story], words: str) -> None:
    found = story().finding()
    assert found is not None
    assert words in found.headline


PREFLIGHT = "error execution phase preflight: couldn't validate the identity of the API Server: "
START = "error execution phase kubelet-start: "


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        (PREFLIGHT + "timed out waiting for the condition", "api-unreachable"),
        (
            PREFLIGHT + 'Get "https://10.9.0.20:6443/api/v1/namespaces/kube-public": dial tcp'
            " 10.9.0.20:6443: connect: connection refused",
            "api-unreachable",
        ),
        (
            PREFLIGHT + "net/http: request canceled while waiting for connection (Client.Timeout"
            " exceeded while awaiting headers)",
            "api-unreachable",
        ),
        (
            PREFLIGHT + "x509: certificate has expired or is not yet valid: current time"
            " 2020-01-01T00:00:00Z is before 2026-01-01T00:00:00Z",
            "clock-skew",
        ),
        (
            PREFLIGHT + "could not find a JWS signature in the cluster-info ConfigMap",
            "token-expired",
        ),
        (
            PREFLIGHT
            + "cluster CA found in cluster-info ConfigMap is invalid: none of the public keys"
            ' "sha256:a" are pinned',
            "ca-hash",
        ),
        (
            START + "error uploading crisocket: timed out waiting for the condition",
            "kubelet-failed",
        ),
        (
            START + "timed out waiting for the kubelet to perform the TLS Bootstrap",
            "kubelet-failed",
        ),
        (
            "error execution phase kubelet-wait-bootstrap: failed while waiting for the kubelet to"
            ' start: Get "http://127.0.0.1:10248/healthz": dial tcp 127.0.0.1:10248: connect:'
            " connection refused",
            "kubelet-failed",
        ),
        (
            "error execution phase kubelet-wait-bootstrap: failed while waiting for the kubelet to"
            ' start: Get "http://127.0.0.1:10248/healthz": context deadline exceeded',
            "kubelet-failed",
        ),
        (START + 'cannot get Node "worker": Unauthorized', "token-expired"),
        (
            START + 'a Node with name "worker" and status "Ready" already exists in the cluster.'
            " You must delete the existing Node or change the name of this new joining Node",
            "name-used",
        ),
    ],
)
def test_what_kubeadm_says(said: str, rule: str) -> None:
    assert joined(said).rule() == rule


def test_a_wait_that_an_older_image_tells_as_an_error() -> None:
    assert waiting("error").rule() == "join-watched"


def test_the_cause_counts_and_not_what_others_said_beside_it() -> None:
    others = "x509: certificate has expired; connection refused; [ERROR Swap]: y; JWS; forbidden"
    for cause, rule in (
        ("join_token", "token-expired"),
        ("join_ca", "ca-hash"),
        ("join_line", "join-command"),
        ("join_forbidden", "join-forbidden"),
        ("join_kubelet", "kubelet-ended"),
    ):
        assert joined(others, cause).rule() == rule


def test_an_image_that_is_older_than_these_causes() -> None:
    """Others' words are found in its sentences; its own are shown by the general rule."""
    for words, rule in (
        ("kubelet does not run: x", "kubelet-failed"),
        ("no answer from the API server: curl: (7) x: Connection refused", "api-unreachable"),
        ("[ERROR Swap]: running with swap on is not supported", "join-preflight"),
        ("token refused: expired, unknown or wrong", "join-failed"),
    ):
        assert Story().to_join().beacon("join", f"try 1: {words}", "error").rule() == rule


def test_a_loop_of_boots() -> None:
    found = looping(9).finding()
    assert found is not None
    assert found.headline.startswith("It has begun to boot four times or more in 4 min and never")
    assert found.headline.endswith("never came further than initrd.")
    assert looping(3, pause=901).rule() != "boot-loop"
    assert looping(3, ready=True).rule() is None
    story = (
        looping(2).to_ltsconf().beacon("root", REFUSED, "error", cause="nbd_refused").to_loader()
    )
    found = story.finding()
    assert found is not None
    assert found.rule == "boot-loop"
    assert "Before this time it ended with: root: no root: nbdroot" in found.headline
    assert story.to_ready().rule() is None


def test_machines_that_reboot_for_a_line_are_a_loop() -> None:
    """bootfarm.on_error=reboot: a clean reboot, which tells `shutdown`."""
    story = Story()
    for number in range(3):
        story.to_systemd().rcfile("RCFILE_01_A", "7", "no such file")
        assert story.rule() == "rcfile-failed", number
        story.beacon("shutdown").wait(60)
    found = story.to_loader().finding()
    assert found is not None
    assert found.rule == "boot-loop"
    assert "never came further than rcfile. Before this time it ended with: rcfile:" in (
        found.headline
    )
    assert story.to_ready().rule() is None


def test_an_address_of_the_site_is_asked_for_only_beside_its_dhcp() -> None:
    story = silent_dhcp(5)
    story.farm = FarmFacts(dhcp="full")
    assert story.rule() is None


def test_a_root_that_is_gone_is_told_after_90_seconds_of_what_runs() -> None:
    assert unattached(seconds=89).rule() is None
    assert unattached(seconds=91).rule() == "root-lost"
    assert unattached(seconds=91, to="systemd").rule() == "root-lost"
    assert unattached(seconds=91, to="shutdown").rule() is None
    found = unattached(seconds=240).finding()
    assert found is not None
    assert (found.severity, found.phase) == ("error", "ready")
    assert found.headline.startswith("Its root has not been attached for 4 min: ")
    again = unattached().attach()
    assert again.rule() is None, "it is back"
    moved = unattached().beacon("root", "live NBD, from 10.9.0.3", cause="root_elsewhere").wait(91)
    assert moved.rule() is None, "another server has it"
    home = moved.attach().beacon("root", "live NBD", cause="root_moved").wait(91)
    assert home.rule() == "root-lost"
    anew = unattached().dhcp()
    assert anew.rule() != "root-lost", "it boots anew"


def test_a_root_is_not_missed_by_who_serves_none_or_sees_it() -> None:
    story = unattached(seconds=1000)
    story.farm = dataclasses.replace(FARM, attached_at=lambda key: None)
    assert story.rule() is None
    now = story.now
    story.farm = dataclasses.replace(FARM, attached_at=lambda key: now - 5)
    assert story.rule() is None


def test_a_corrupt_image_is_told_with_image_server_and_blocks() -> None:
    """Also of a machine that had its root before and is long up; until it boots anew."""
    story = Story().to_ready().wait(5000).beacon("root", "2 blocks", "error", **CORRUPT)
    found = story.finding()
    assert found is not None
    assert (found.severity, found.phase, found.since) == ("error", "ready", story.now)
    assert found.headline.startswith(
        f"It read blocks of amd64@{DIGEST[:12]} from 10.9.0.2 that are not as they were built:"
        " data 17089, hash 61004."
    )
    assert any("bootfarm doctor --store" in line for line in found.check)
    assert any("exec cat {} +" in line for line in found.check)
    assert story.to_initrd().rule() != "image-corrupt"


def test_errors_come_before_stalls_and_stalls_before_notes() -> None:
    story = Story().to_systemd(**TOO_LARGE)
    assert story.rule() == "image-too-large"
    assert story.wait(181).rule() == "systemd-stalled"
    assert story.rcfile("RCFILE_1", "1", "").rule() == "rcfile-failed"


@pytest.mark.parametrize("rule", STORIES)
def test_a_machine_that_came_up_has_no_error_of_its_way(rule: str) -> None:
    """The same boot goes on to the end: only notes are left, and what failed at the end."""
    story = STORIES[rule][0]()
    boots = story.node.boots
    if rule in ("kernel-panic", "root-lost", "rcfile-failed", "ready-failed", "dhcp-conflict"):
        return
    if rule.endswith("-full") or rule == "image-corrupt":
        return  # it says how the machine is now, not how a step went
    for phase in ("menu", "kernel", "initrd"):
        story.see("plan", phase, status="ok")
    for phase in ("initramfs", "network", "ltsconf", "root", "preinit", "systemd"):
        if story.node.boot is None or phase not in story.node.boot.phases:
            story.beacon(phase)
    story.beacon("join", "try 9: joined as node-1").all_lines().beacon("ready")
    found = story.wait(1e6).finding()
    assert story.node.boots == boots
    assert found is None or found.severity == "note"


@pytest.mark.parametrize("rule", STORIES)
@pytest.mark.parametrize("words", ["something else entirely", "", "no root: refused; IMAGE 'x'"])
def test_no_sentence_of_ours_changes_a_diagnosis(rule: str, words: str) -> None:
    """Every sentence of the events is another one: the rules go by causes and facts."""
    story = STORIES[rule][0]()
    reworded = Story(story.farm)
    for entry in story.seen:
        event = dataclasses.replace(
            entry,
            detail={
                key: words if key in ("message", "detail") else value
                for key, value in entry.detail.items()
            },
        )
        reworded.nodes.record(event)
    reworded.now = story.now
    assert reworded.rule() == rule
