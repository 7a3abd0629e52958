"""Rules for roots that are checked block by block (recipe: verity)."""

from typing import Final

from server.diagnosis.case import Case
from server.diagnosis.rule import Rule, Values

_READ_ALL: Final = (
    "which files are hit: `find /rofs -xdev -type f -exec cat {{}} + >/dev/null` on the machine"
    " names each that it cannot read"
)


def _image(case: Case) -> str:
    boot = case.boot
    return f"{boot.image}@{boot.digest[:12]}" if boot.image and boot.digest else "its image"


def _corrupt(case: Case) -> Values | None:
    """By the facts, which stay: a block of the tree stays bad until the machine reboots."""
    blocks = case.boot.facts.get("corrupted")
    phase = case.phase("root")
    if not blocks or phase is None:
        return None
    return {
        "image": _image(case),
        "blocks": blocks,
        "from": case.boot.facts.get("served") or case.server,
        "phase": case.last,
        "since": phase.error_at or phase.last,
    }


def _mismatch(case: Case) -> Values | None:
    if case.cause_in("root") != "verity_mismatch":
        return None
    return {"image": _image(case), "what": case.error_in("root") or "no reason given"}


def _no_verity(case: Case) -> Values | None:
    if case.cause_in("root") != "no_verity":
        return None
    return {"image": _image(case), "what": case.error_in("root") or "no reason given"}


RULES: Final = (
    Rule(
        id="image-corrupt",
        phase="root",
        severity="error",
        when="The machine runs on a root that is checked as it is read, and read blocks that are"
        " not what the root hash of its kernel command line says.",
        headline="It read blocks of {image} from {from} that are not as they were built: {blocks}."
        " What lies there cannot be read.",
        expected="each block of the image as its root hash says",
        seen="wrong: {blocks} (data: a block of files; hash: one of the tree, with 128 of data)",
        check=(
            "the image on {from}: `bootfarm doctor --store DIR --full` there reads every file"
            " against its manifest; a disk or memory that fails?",
            "if the files are right: who else answers TCP {nbd_port} in the name of {from}?",
            _READ_ALL,
            "build or import the image again, which replaces it, then reboot the machine: blocks of"
            " the tree stay bad until then",
        ),
        match=_corrupt,
        stays=True,
    ),
    Rule(
        id="image-mismatch",
        phase="root",
        severity="error",
        when="The first block of the image is not what the root hash of the kernel command line"
        " says.",
        headline="It refuses its root: what it got as {image} is another image, or a damaged one.",
        expected="the image whose root hash the kernel command line names",
        seen="{what}",
        check=(
            "the image on {server}: `bootfarm doctor --store DIR --full` reads every file against"
            " its manifest",
            "if it is right: who else answers on this network, TCP {nbd_port} or DHCP?",
            "build or import the image again; `exit` in the shell of the machine's console tries"
            " again",
        ),
        match=_mismatch,
    ),
    Rule(
        id="image-unchecked",
        phase="root",
        severity="error",
        when="The kernel command line wants the root to be checked, and the machine cannot.",
        headline="It cannot check {image} as it reads it, and so does not boot it: {what}",
        expected="dm-mod and dm-verity in the image's initramfs",
        seen="{what}",
        check=(
            "the image: was it built with `verity: true`, and has its kernel dm-verity?",
            "the machine's console has the lines before it (`dmesg | tail`)",
        ),
        match=_no_verity,
    ),
)
