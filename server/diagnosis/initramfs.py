"""Rules for the initramfs: network, lts.conf, the root file system."""

from typing import Final

from server.diagnosis.case import Case
from server.diagnosis.rule import Rule, Values
from server.quantities import name_size, name_span


def _no_beacon(case: Case) -> Values | None:
    if case.last != "initrd" or not case.is_stalled or case.boot.phases["initrd"].status != "ok":
        return None
    return {"quiet": name_span(case.quiet)}


def _beacon_blocked(case: Case) -> Values | None:
    """The server saw requests of the node, and no beacon of it."""
    if case.last not in ("ltsconf", "root") or case.quiet < 60:
        return None
    if next(case.find(source="beacon"), None) is not None:
        return None
    return {"quiet": name_span(case.quiet)}


def _nic_no_driver(case: Case) -> Values | None:
    phase = case.phase("initramfs")
    cards = case.boot.facts.get("cards")
    return {"cards": cards, "since": phase.last} if phase is not None and cards else None


def _ltsconf_missing(case: Case) -> Values | None:
    if case.cause_in("ltsconf") != "own_ltsconf":
        return None
    return {"what": case.error_in("ltsconf")}


def _ltsconf_refused(case: Case) -> Values | None:
    text = case.error_in("ltsconf")
    if text is None or case.cause_in("ltsconf") == "own_ltsconf":
        return None
    return {"what": text or "no reason given"}


def _nbd_unreachable(case: Case) -> Values | None:
    cause = case.cause_in("root")
    if cause not in ("nbd_refused", "nbd_no_answer"):
        return None
    refused = cause == "nbd_refused"
    return {
        "what": case.error_in("root"),
        "answer": "refuses connections" if refused else "does not answer",
        "likely": "nothing listens there, or a firewall rejects it"
        if refused
        else "a firewall drops it",
    }


def _nbd_no_export(case: Case) -> Values | None:
    """The export is missing: the node says so (no_export), or the NBD service (not_found)."""
    if case.cause_in("root") not in ("no_export", "not_found"):
        return None
    return {"what": case.error_in("root")}


def _image_unreadable(case: Case) -> Values | None:
    if case.cause_in("root") != "unreadable":
        return None
    return {"what": case.error_in("root")}


def _root_failed(case: Case) -> Values | None:
    text = case.error_in("root")
    return None if text is None else {"what": text or "no reason given"}


def _image_too_large(case: Case) -> Values | None:
    phase = case.phase("root")
    if phase is None or phase.cause != "too_large":
        return None
    image, system, free, total = (
        _mib(case, name) for name in ("ram_image", "ram_system", "ram_free", "ram_total")
    )
    return {
        "need": name_size(image + system),
        "image": name_size(image),
        "system": name_size(system),
        "free": name_size(free),
        "has": f"{name_size(free)} free" + (f" of {name_size(total)}" if total else ""),
        "since": phase.last,
    }


def _mib(case: Case, name: str) -> int:
    """A fact that the node told in MiB, as bytes; 0 where it told none."""
    text = str(case.boot.facts.get(name, ""))
    return int(text) << 20 if text.isascii() and text.isdigit() and len(text) <= 10 else 0


def _copy_failed(case: Case) -> Values | None:
    phase = case.phase("root")
    if phase is None or phase.cause != "copy_failed":
        return None
    return {"since": phase.last}


RULES: Final = (
    Rule(
        id="no-beacon",
        phase="initrd",
        severity="stalled",
        when="Kernel and initramfs were fetched, and the initramfs never said a word.",
        headline="Linux was fetched but was never heard of: it stopped at the start, or has no"
        " driver for the network card.",
        expected="the initramfs's first word over HTTP (TCP {http_port})",
        seen="nothing for {quiet}",
        check=(
            "the machine's console: the initramfs says what it waits for (card, link, DHCP)",
            "a card without a driver: take the module into the image (docs/hardware.md)",
            "a kernel that stops at once: console= and KERNEL_CMDLINE in lts.conf; too little"
            " memory",
            "link and DHCP for Linux: spanning tree on the switch port (portfast), a lease for the"
            " same card",
        ),
        match=_no_beacon,
    ),
    Rule(
        id="beacon-blocked",
        phase="root",
        severity="stalled",
        when="The server gave lts.conf or the root, and the machine itself never said a word.",
        headline="It boots, but its own reports do not arrive: HTTP does not reach the server.",
        expected="reports (POST /beacon) to TCP {http_port}",
        seen="lts.conf or root given, and no report for {quiet}",
        check=(
            "a firewall between it and {server}: TCP {http_port}",
            "address translation: the server must see the machine's own address",
            "an initramfs of another version: build the image again",
        ),
        match=_beacon_blocked,
    ),
    Rule(
        id="nic-no-driver",
        phase="initramfs",
        severity="note",
        when="The machine has a network card that the image's kernel has no driver for.",
        headline="A network card of it has no driver in this image: {cards}",
        expected="a driver for each network card",
        seen="{cards}",
        check=(
            "what card that is: `lspci -nn` on the machine",
            "take its module, and its firmware package, into the image (docs/hardware.md)",
        ),
        match=_nic_no_driver,
        stays=True,
    ),
    Rule(
        id="ltsconf-missing",
        phase="ltsconf",
        severity="note",
        when="The machine got no lts.conf from the server, and booted with the image's own.",
        headline="It got no lts.conf from the server and goes on with the one in the image: it"
        " will not do what lts.conf says.",
        expected="/ltsp/<image>/lts.conf over HTTP (TCP {http_port}) or TFTP (UDP {tftp_port})",
        seen="{what}",
        check=(
            "a firewall between it and {server}: TCP {http_port}",
            "`bootfarm lts check` with the farm's lts.conf",
            "reboot the machine then",
        ),
        match=_ltsconf_missing,
        stays=True,
    ),
    Rule(
        id="ltsconf-refused",
        phase="ltsconf",
        severity="error",
        when="The server refused lts.conf, or it failed otherwise.",
        headline="It does not get its lts.conf: {what}",
        expected="its own values as one text",
        seen="{what}",
        check=(
            "`bootfarm lts resolve` with this machine's MAC and IP",
            "a MAC that contradicts the neighbour table: address_map or inventory in farm.yaml",
            "the server's log",
        ),
        match=_ltsconf_refused,
    ),
    Rule(
        id="nbd-unreachable",
        phase="root",
        severity="error",
        when="The machine cannot connect to the NBD port.",
        headline="It cannot attach its root: NBD port {nbd_port} of {server} {answer} ({likely}).",
        expected="a connection to TCP {nbd_port} of {server}",
        seen="{what}",
        check=(
            "does the server serve NBD? `services` in farm.yaml, `bootfarm doctor`",
            "a firewall on the server or between: allow TCP {nbd_port}",
            "the machine tries again every 2 seconds, then gives a shell on its console",
        ),
        match=_nbd_unreachable,
    ),
    Rule(
        id="nbd-no-export",
        phase="root",
        severity="error",
        when="The machine asked for an NBD export that the server does not have.",
        headline="It asked for a root that this server does not have: {what}",
        expected="an export of the store's images",
        seen="{what}",
        check=(
            "`bootfarm images list`: was the image removed since its menu was made?",
            "reboot the machine: its next menu names an image that is there",
            "another server at the address of nbdroot=?",
        ),
        match=_nbd_no_export,
    ),
    Rule(
        id="image-unreadable",
        phase="root",
        severity="error",
        when="The image's root file system cannot be read on the server.",
        headline="The server cannot read the image: {what}",
        expected="rootfs.squashfs whole, and readable for the server's user",
        seen="{what}",
        check=(
            "rights and disk of the store on the server",
            "publish or import the image again",
        ),
        match=_image_unreadable,
    ),
    Rule(
        id="root-failed",
        phase="root",
        severity="error",
        when="Attaching or mounting the root failed otherwise.",
        headline="It has no root: {what}",
        expected="the image attached and mounted",
        seen="{what}",
        check=(
            "the machine's console has the lines before it, and a shell (bootfarm.on_error=shell)",
            "`exit` in that shell tries again",
            "the image: does it boot on another machine?",
        ),
        match=_root_failed,
    ),
    Rule(
        id="image-too-large",
        phase="root",
        severity="note",
        when="LTSP_NBD_TO_RAM is set, and the image does not fit into the machine's memory.",
        headline="The image needs {need}, the machine has {has}: it falls back to live NBD and"
        " needs the server all the time.",
        expected="{image} for the image and {system} for the system in free memory",
        seen="{free} of free memory",
        check=(
            "more memory, or a smaller image",
            "or LTSP_NBD_TO_RAM = false for this machine in lts.conf, if live NBD is what you want",
        ),
        match=_image_too_large,
        stays=True,
    ),
    Rule(
        id="ram-copy-failed",
        phase="root",
        severity="note",
        when="LTSP_NBD_TO_RAM is set, and copying the image into memory broke off.",
        headline="Copying the image into memory failed: it falls back to live NBD and needs the"
        " server all the time.",
        expected="the whole image in memory",
        seen="a copy that broke off",
        check=("the server's log for its NBD connection", "the machine's memory (memtest)"),
        match=_copy_failed,
        stays=True,
    ),
)
