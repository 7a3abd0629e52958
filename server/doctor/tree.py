"""The boot tree as a booting machine sees it: menu, lts.conf, each file by TFTP and HTTP."""

import fcntl
import hashlib
import importlib.util
import json
import logging
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

from imagebuild.architecture import ARCHITECTURES
from imagebuild.store.manifest import ManifestError, parse_manifest
from server.doctor.dhcpclient import OTHERS, PROFILES
from server.doctor.dhcpjudge import find_loader
from server.doctor.findings import found
from server.doctor.target import BootImage, Survey, Target
from server.doctor.verdict import Verdict, good
from server.doctor.web import digest, fetch
from server.ltsconf import parse_flat
from server.ltsconf.errors import LtsConfError
from server.services.interfaces import list_addresses

BLKSIZE: Final = 1428
"""Bytes of a block, which fits into one Ethernet frame."""
_SIOCGIFHWADDR: Final = 0x8927
_IFREQ: Final = 40
"""Of netdevice(7): an interface's name in 16 bytes, then its hardware address from byte 18 on."""
TFTP_SECONDS: Final[float] = 2.0
"""For one block."""
_RETRIES: Final = 3
"""Times that one block is asked for again."""
_DIGEST: Final = re.compile(r"/@([0-9a-f]{64})/vmlinuz")
_LONG: Final = re.compile(r"@([0-9a-f]{12})[0-9a-f]{52}")
_NBDROOT: Final = re.compile(r"nbdroot=([0-9.]+):")
_NBDPORT: Final = re.compile(r"nbdport=(\d+)")
_UNLISTED: Final = "is not in the inventory"
"""In the menu of a machine that `unlisted: refuse` keeps out."""
_SAID: Final = re.compile(r"^\techo '(.*)'$", re.MULTILINE)
logging.getLogger("tftpy").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True)
class Entry:
    """A file to fetch. path: in the boot tree. size, sha256: None when nobody said them."""

    path: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Got:
    """The outcome of fetching one file.

    refused: the server's words; silent: no packet came at all.
    """

    size: int = 0
    sha256: str = ""
    refused: str = ""
    silent: bool = False


class _Sink:
    """What tftpy writes to: counts and hashes."""

    def __init__(self) -> None:
        self.size = 0
        self.sha = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.size += len(data)
        self.sha.update(data)

    def close(self) -> None:
        pass


def fetch_tftp(host: str, port: int, path: str) -> Got:
    """One file by tftpy, hashed. Raises ImportError where tftpy is not installed."""
    import tftpy  # a container with the server alone does not have it

    sink = _Sink()
    try:
        client = tftpy.TftpClient(host, port, {"blksize": BLKSIZE, "tsize": 0})
        client.download(path, sink, timeout=TFTP_SECONDS, retries=_RETRIES)
    except (tftpy.TftpTimeout, OSError) as error:
        words = f"{error}".strip() or type(error).__name__
        return Got(sink.size, refused=f"{words} after {sink.size} bytes", silent=sink.size == 0)
    except tftpy.TftpException as error:
        return Got(sink.size, refused=" ".join(str(error).split())[:300])
    return Got(sink.size, sink.sha.hexdigest())


def check_menu(target: Target, survey: Survey) -> Iterator[Verdict]:
    """grub.cfg and lts.conf of each image's name, and the manifest of the image they lead to."""
    if not survey.http:
        return
    for name in sorted(survey.tags):
        if "current" in survey.tags[name]:
            yield from _check_menu_of(target, survey, name)


def _check_menu_of(target: Target, survey: Survey, name: str) -> Iterator[Verdict]:
    path = f"/ltsp/{name}/grub/grub.cfg"
    try:
        page = fetch(target.server, target.http_port, path)
    except OSError as error:
        yield found("http.missing", path, str(error))
        return
    menu = page.body.decode("utf-8", "replace")
    match = _DIGEST.search(menu)
    if page.status == 200 and match is not None:
        yield from _check_root(target, path, menu)
        yield from _take_manifest(target, survey, name, match[1])
    else:
        said = " ".join(line for line in _SAID.findall(menu) if line) or page.words
        if _UNLISTED in said:
            # The server is well: this machine is none that it boots. The rest can be looked at.
            yield found("menu.unlisted", path, said[:400])
            yield from _take_manifest(target, survey, name, survey.tags[name]["current"], False)
            return
        yield found("menu.refused", path, said[:400])
    yield from _check_ltsconf(target, survey, name)


def _check_root(target: Target, path: str, menu: str) -> Iterator[Verdict]:
    root, port = _NBDROOT.search(menu), _NBDPORT.search(menu)
    told = (root[1] if root else "nowhere", int(port[1]) if port else 10809)
    if told == (target.server, target.nbd_port):
        yield good("menu", path, f"root at {told[0]}:{told[1]}")
    else:
        words = f"root at {told[0]}:{told[1]}, not {target.server}:{target.nbd_port}"
        yield found("menu.other-server", path, words)


def _take_manifest(
    target: Target, survey: Survey, name: str, digest_: str, listed: bool = True
) -> Iterator[Verdict]:
    path = f"/ltsp/{name}/@{digest_}/manifest.json"
    try:
        page = fetch(target.server, target.http_port, path)
        if page.status != 200:
            yield found("http.manifest", shorten(path), page.words)
            return
        seen = hashlib.sha256(page.body).hexdigest()
        if seen != digest_:
            yield found("http.manifest", shorten(path), f"its bytes have the digest {seen[:12]}")
            return
        manifest = parse_manifest(page.body)
    except (OSError, ManifestError) as error:
        yield found("http.manifest", shorten(path), str(error))
        return
    survey.images.append(BootImage(name, digest_, manifest, listed))
    yield from _check_told(survey, name, manifest.architecture)
    for firmware, files in _loaders_of(manifest.architecture).items():
        if not any(file in manifest.files for file in files):
            yield found("http.no-loader", f"{name}@{digest_[:12]}", f"none for {firmware}")


def _loaders_of(architecture: str) -> dict[str, tuple[str, ...]]:
    """Firmware to GRUB's and iPXE's loader, as files of an image for that architecture."""
    known = ARCHITECTURES.get(architecture)
    return {
        "BIOS" if one.is_bios else "UEFI": tuple(
            f"boot/{path}" for path in (one.grub_path, one.ipxe_path) if path
        )
        for one in (known.firmware if known is not None else ())
    }


def _check_told(survey: Survey, image: str, architecture: str) -> Iterator[Verdict]:
    """Whether DHCP names a loader to machines of an architecture that not every farm has."""
    if survey.conversation is None or architecture not in ARCHITECTURES:
        return
    firmware = ARCHITECTURES[architecture].uefi
    for profile in OTHERS:
        is_it = profile.architecture in firmware.pxe and profile.is_uefi
        if is_it and find_loader(survey.conversation, profile) is None:
            words = f"{image} is for {architecture}, and nobody names such machines a loader"
            yield found("dhcp.no-loader", profile.name, words)


def _check_ltsconf(target: Target, survey: Survey, name: str) -> Iterator[Verdict]:
    path = f"/ltsp/{name}/lts.conf"
    try:
        page = fetch(target.server, target.http_port, path)
    except OSError as error:
        yield found("ltsconf.missing", path, str(error))
        return
    if page.status != 200:
        yield found("ltsconf.missing", path, page.words)
        return
    text = page.body.decode("utf-8", "surrogateescape")
    try:
        values = parse_flat(text)
    except LtsConfError as error:
        yield found("ltsconf.cut", path, error.message)
        return
    for key, value in values.items():
        survey.values.setdefault(key, value)
    yield good("ltsconf", path, f"{len(values)} variables")


def list_entries(image: BootImage, *, full: bool) -> list[Entry]:
    """The files that machines fetch of an image; with `full`, each module of GRUB as well."""
    base = f"/ltsp/{image.name}"

    def entry(path: str, key: str) -> Entry:
        listed = image.manifest.files[key]
        return Entry(path, listed.size, listed.sha256)

    known = [file for files in _loaders_of(image.manifest.architecture).values() for file in files]
    files = [file for file in known if file in image.manifest.files]
    if full:
        rest = sorted(file for file in image.manifest.files if file.startswith("boot/"))
        files += [file for file in rest if file not in files]
    entries = [entry(f"{base}/{file.removeprefix('boot/')}", file) for file in files]
    for key in ("vmlinuz", "initrd.img"):
        if key in image.manifest.files:
            entries.append(entry(f"{base}/@{image.digest}/{key}", key))
    made = ("grub/grub.cfg", "boot.ipxe", *(("lts.conf",) if image.listed else ()))
    return entries + [Entry(f"{base}/{path}") for path in made]


def check_tftp(target: Target, survey: Survey) -> Iterator[Verdict]:
    """Every file by TFTP; also the loaders that DHCP named."""
    if "tftp" not in target.services:
        return
    if importlib.util.find_spec("tftpy") is None:
        yield found("tftp.no-client", target.server, "tftpy is not installed")
        return
    began = target.clock()
    entries = _all_entries(target, survey) or [Entry("/ltsp/")]
    for entry in entries:
        target.progress(f"TFTP {entry.path}")
        got = fetch_tftp(target.server, target.tftp_port, entry.path)
        if got.silent:
            where = f"{target.server} port {target.tftp_port}"
            if _saw_request(target, began):
                yield found("tftp.answers-lost", where, f"{entry.path}: {got.refused}")
            else:
                yield found("tftp.silent", where, f"{entry.path}: {got.refused}")
            return
        survey.tftp = True
        if entry.path != "/ltsp/":
            yield _compare("tftp", entry, got)
    yield from _check_named(target, survey)


def check_http(target: Target, survey: Survey) -> Iterator[Verdict]:
    """Every file by HTTP."""
    if not survey.http:
        return
    for entry in _all_entries(target, survey):
        target.progress(f"HTTP {entry.path}")
        yield _compare("http", entry, _fetch_http(target.server, target.http_port, entry.path))


def _all_entries(target: Target, survey: Survey) -> list[Entry]:
    return [entry for image in survey.images for entry in list_entries(image, full=target.full)]


def _fetch_http(host: str, port: int, path: str) -> Got:
    try:
        size, sha256, refused = digest(host, port, quote(path, safe="/@"))
    except OSError as error:
        return Got(refused=str(error))
    return Got(size, sha256, refused)


def _compare(check: str, entry: Entry, got: Got) -> Verdict:
    subject = shorten(entry.path)
    if got.refused:
        return found(f"{check}.missing", subject, got.refused)
    if entry.sha256 is None:
        if not got.size:
            return found(f"{check}.missing", subject, "it is empty")
        return good(check, subject, f"{got.size} bytes")
    if (got.size, got.sha256) != (entry.size, entry.sha256):
        words = f"{got.size} bytes, SHA-256 {got.sha256[:12]}; the manifest says {entry.size}"
        return found(f"{check}.differs", subject, f"{words}, {entry.sha256[:12]}")
    return good(check, subject, f"{got.size} bytes, as the manifest says")


def _check_named(target: Target, survey: Survey) -> Iterator[Verdict]:
    """The loaders that DHCP names at this server: whether they are there."""
    if survey.conversation is None:
        return
    for profile in PROFILES:
        answer = find_loader(survey.conversation, profile)
        if answer is None or answer.host != target.server:
            continue
        if "://" in answer.file:
            url = urlsplit(answer.file)
            path = url.path + (f"?{url.query}" if url.query else "")
            got = _fetch_http(answer.host, url.port or 80, path)
        else:
            got = fetch_tftp(target.server, target.tftp_port, answer.file)
        if got.refused:
            words = f"{answer.server} names {answer.file}: {got.refused}"
            yield found("dhcp.loader-missing", profile.name, words)
        else:
            yield good("dhcp", f"{profile.name}'s loader", f"{answer.file}, {got.size} bytes")


def _saw_request(target: Target, since: float) -> bool:
    """Whether the server's timeline of this machine has a TFTP request of just now."""
    for key in _own_keys(target.own_address):
        try:
            path = f"/api/nodes/{key}"
            page = fetch(target.server, target.http_port, path, token=target.token)
            events = json.loads(page.body)["events"]
            if any(e["source"] == "tftp" and float(e["time"]) >= since - 2 for e in events):
                return True
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return False


def _own_keys(address: str) -> list[str]:
    """What the server may know this machine by: the MAC on its wire, or the address alone."""
    names = [entry.name for entry in list_addresses() if entry.address == address]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = [name.encode()[:15].ljust(_IFREQ, b"\0") for name in names]
        answers = [fcntl.ioctl(sock, _SIOCGIFHWADDR, data) for data in request]
    macs = [":".join(f"{byte:02x}" for byte in answer[18:24]) for answer in answers]
    return [*macs, *([address] if address else [])]


def shorten(path: str) -> str:
    """With 12 digits of the image's digest, as people write it."""
    return _LONG.sub(r"@\1", path)
