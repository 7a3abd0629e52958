"""Each fault of server, menu, boot tree and exports, made at a site that is well but for it."""

import contextlib
import importlib.util
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from server.content import Export
from server.doctor import exports, nbdclient, service, tree
from server.doctor.dhcpclient import BIOS, IPXE, Answer, Conversation
from server.doctor.examination import CHECKS, examine
from server.doctor.exports import check_nbd
from server.doctor.service import check_dns, check_ports, check_server, is_bootfarm
from server.doctor.target import BootImage, Survey
from server.doctor.tree import check_http, check_menu, check_tftp
from server.doctor.verdict import Level
from server.protocols.dhcp_wire import Message
from server.protocols.dns import DnsServer, Names, Zone
from server.services.dns import DnsService
from server.services.ports import PortOwner
from tests.server.doctor.site import FakeSite, another, health
from tests.server.farm import publish
from tests.server.services.running import running


@pytest.mark.parametrize("full", [False, True])
def test_a_site_that_is_well(site: FakeSite, full: bool) -> None:
    site.target = replace(site.target, full=full)
    checks = [check for check in CHECKS if check is not check_ports]
    verdicts = list(examine(site.target, checks))
    left = [(v.id, v.words) for v in verdicts if v.level is not Level.OK]
    assert [id_ for id_, _ in left] == ["dhcp.no-interface", "api.none"]
    seen = {v.id for v in verdicts}
    assert {f"{check}.ok" for check in ("server", "menu", "ltsconf", "tftp", "http")} <= seen
    assert {f"{check}.ok" for check in ("nbd", "mtu", "clock", "space", "store")} <= seen
    modules = [v for v in verdicts if v.subject.endswith("normal.mod")]
    assert len(modules) == (2 if full else 0)
    whole = [v for v in verdicts if v.id == "nbd.ok" and v.words.startswith("all ")]
    assert len(whole) == (1 if full else 0)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# server


def test_server_down(site: FakeSite) -> None:
    site.target = replace(site.target, http_port=free_port())
    assert site.ids(check_server, Survey()) == ["server.down"]


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"images": 5, "problems": []}', b"\xff"])
def test_another_program_on_the_http_port(site: FakeSite, body: bytes) -> None:
    site.pages["/healthz"] = body
    survey = Survey()
    assert site.ids(check_server, survey) == ["server.alien"]
    assert not survey.http


def test_server_that_knows_of_a_problem(site: FakeSite) -> None:
    site.pages["/healthz"] = health(site, problems=["lts.conf:3: no"])
    (verdict,) = site.look(check_server, Survey())
    assert (verdict.id, verdict.words) == ("server.degraded", "lts.conf:3: no")


def test_server_without_an_image(site: FakeSite) -> None:
    site.pages["/healthz"] = health(site, images=False)
    assert site.ids(check_server, Survey()) == ["server.no-image"]


# ports


def test_ports(site: FakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    # The services of the test are in this process, which is no bootfarm.
    verdicts = site.look(check_ports)
    assert [v.id for v in verdicts] == ["port.foreign"] * 3
    assert all(f"pid {os.getpid()}" in v.words for v in verdicts)
    monkeypatch.setattr(service, "is_bootfarm", lambda pid: True)
    assert [v.id for v in site.look(check_ports)] == ["port.ok"] * 3


def test_port_free(site: FakeSite) -> None:
    site.target = replace(site.target, tftp_port=free_port(socket.SOCK_DGRAM), services=("tftp",))
    assert site.ids(check_ports) == ["port.free"]


def test_port_of_somebody_whom_we_may_not_see(
    site: FakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = PortOwner("0.0.0.0:69", None, "")
    monkeypatch.setattr(service, "find_owner", lambda kind, address, port: hidden)
    site.target = replace(site.target, services=("dhcp",))
    assert site.ids(check_ports) == ["port.hidden"] * 2


def test_ports_of_another_machine(site: FakeSite) -> None:
    site.target = replace(site.target, local=False)
    assert site.ids(check_ports) == ["port.remote"]


def test_a_worker_is_known_by_its_parent(tmp_path: Path) -> None:
    def process(pid: int, parent: int, *words: str) -> None:
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes("\0".join((*words, "")).encode())
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a) b) S {parent} 1 1")

    process(10, 1, "/opt/bin/python", "/opt/bin/bootfarm", "serve", "--store", "x")
    process(11, 10, "python", "-c", "import sys; from server.services.worker import main")
    process(12, 1, "dnsmasq")
    process(13, 12, "sh", "-c", "bootfarm build")
    assert [is_bootfarm(pid, tmp_path) for pid in (10, 11, 12, 13, 14)] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_ports_of_names_and_logs(site: FakeSite) -> None:
    site.target = replace(
        site.target, services=("dhcp",), dns=("boot.farm.test", 53), logs={"syslog": 514}
    )
    assert service.list_ports(site.target) == [
        ("dhcp", "udp", 67),
        ("dhcp", "udp", 4011),
        ("dns", "udp", 53),
        ("dns", "tcp", 53),
        ("syslog", "udp", 514),
    ]


# names


@contextlib.contextmanager
def names(address: str) -> Iterator[int]:
    """Our DNS service, whose own address is `address`; its port."""
    dns = DnsServer(Zone("farm.test", address), Names)
    with running(lambda loop: DnsService(loop, address="127.0.0.1", port=0, server=dns)) as served:
        yield served.port


@pytest.mark.parametrize(
    ("name", "address", "expected", "words"),
    [
        ("boot.farm.test", "127.0.0.1", "dns.ok", "boot.farm.test is 127.0.0.1"),
        ("boot.farm.test", "10.9.0.77", "dns.wrong", "boot.farm.test is 10.9.0.77"),
        ("boot.other.test", "127.0.0.1", "dns.wrong", "boot.other.test is nowhere (REFUSED)"),
    ],
)
def test_the_zone(site: FakeSite, name: str, address: str, expected: str, words: str) -> None:
    with names(address) as port:
        site.target = replace(site.target, dns=(name, port))
        (verdict,) = site.look(check_dns)
    assert (verdict.id, verdict.words) == (expected, words)


@pytest.mark.parametrize("junk", [b"", b"junk", b"\xff" * 40])
def test_an_answer_that_is_none(
    site: FakeSite, monkeypatch: pytest.MonkeyPatch, junk: bytes
) -> None:
    monkeypatch.setattr(service, "_ask_dns", lambda host, port, query: query[:2] + junk)
    site.target = replace(site.target, dns=("boot.x", 53))
    assert site.ids(check_dns) == ["dns.wrong"]


def test_no_zone_is_nothing_to_tell(site: FakeSite) -> None:
    assert site.look(check_dns) == []


def test_dns_silent(site: FakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "DNS_SECONDS", 0.05)
    site.target = replace(site.target, dns=("boot.x", free_port(socket.SOCK_DGRAM)))
    assert site.ids(check_dns) == ["dns.silent"]


# menu and lts.conf


def test_menu_that_refuses(site: FakeSite) -> None:
    text = "menuentry 'What is wrong' {\n\techo 'bootfarm cannot tell:'\n\techo 'no image x'\n}\n"
    site.put("/ltsp/amd64/grub/grub.cfg", text.encode())
    survey = replace(site.survey(), images=[])
    (verdict,) = [v for v in site.look(check_menu, survey) if v.level is not Level.OK]
    assert (verdict.id, verdict.words) == ("menu.refused", "bootfarm cannot tell: no image x")
    assert not survey.images


def test_menu_for_listed_machines_only(site: FakeSite) -> None:
    text = "\techo '10.9.0.9 is not in the inventory, and farm.yaml lets only listed boot'\n"
    site.put("/ltsp/amd64/grub/grub.cfg", text.encode())
    survey = replace(site.survey(), images=[])
    assert site.ids(check_menu, survey) == ["menu.unlisted"]
    (image,) = survey.images
    assert (image.digest, image.listed) == (site.image.digest, False)
    # The rest is well: lts.conf alone is not looked at.
    del site.files["/ltsp/amd64/lts.conf"], site.pages["/ltsp/amd64/lts.conf"]
    for check in (check_tftp, check_http, check_nbd):
        assert site.ids(check, survey) == []


def test_menu_that_leads_to_another_server(site: FakeSite) -> None:
    path = "/ltsp/amd64/grub/grub.cfg"
    site.put(path, site.pages[path].replace(b"127.0.0.1", b"10.9.0.77"))
    assert site.ids(check_menu) == ["menu.other-server"]


def test_menu_that_is_cut_off(site: FakeSite) -> None:
    del site.pages["/ltsp/amd64/grub/grub.cfg"]
    assert site.ids(check_menu) == ["menu.refused"]


@pytest.mark.parametrize("damage", [b"{}", b""])
def test_manifest_that_is_another(site: FakeSite, damage: bytes) -> None:
    site.pages[f"/ltsp/amd64/@{site.image.digest}/manifest.json"] = damage
    assert site.ids(check_menu) == ["http.manifest"]


def test_manifest_that_is_missing(site: FakeSite) -> None:
    del site.pages[f"/ltsp/amd64/@{site.image.digest}/manifest.json"]
    assert site.ids(check_menu) == ["http.manifest"]


def test_image_without_a_loader(site: FakeSite) -> None:
    gone = ("boot/grub/x86_64-efi/core.efi", "boot/ipxe/snponly.efi", "boot/ipxe/undionly.kpxe")
    files = {key: entry for key, entry in site.image.manifest.files.items() if key not in gone}
    manifest = replace(site.image.manifest, files=files)
    text = site.pages["/ltsp/amd64/grub/grub.cfg"].decode()
    menu = text.replace(site.image.digest, manifest.digest)
    site.put("/ltsp/amd64/grub/grub.cfg", menu.encode())
    site.pages[f"/ltsp/amd64/@{manifest.digest}/manifest.json"] = manifest.to_bytes()
    (verdict,) = [v for v in site.look(check_menu) if v.level is not Level.OK]
    assert (verdict.id, verdict.words) == ("http.no-loader", "none for UEFI")


def test_an_arm64_image_whose_machines_nobody_names_a_loader(site: FakeSite) -> None:
    """Only where DHCP was asked: the conversation has answers, and none for such machines."""
    manifest = replace(site.image.manifest, architecture="arm64")
    text = site.pages["/ltsp/amd64/grub/grub.cfg"].decode()
    site.put("/ltsp/amd64/grub/grub.cfg", text.replace(site.image.digest, manifest.digest).encode())
    site.pages[f"/ltsp/amd64/@{manifest.digest}/manifest.json"] = manifest.to_bytes()
    assert site.ids(check_menu) == ["http.no-loader"]  # its loaders are for amd64
    survey = site.survey()
    survey.conversation = named("/b/undionly.kpxe")
    assert site.ids(check_menu, survey) == ["dhcp.no-loader", "http.no-loader"]


def test_ltsconf_missing(site: FakeSite) -> None:
    site.statuses["/ltsp/amd64/lts.conf"] = 404
    site.pages["/ltsp/amd64/lts.conf"] = b"line 3 is wrong"
    (verdict,) = [v for v in site.look(check_menu) if v.level is not Level.OK]
    assert (verdict.id, verdict.words) == ("ltsconf.missing", "404 line 3 is wrong")


def test_ltsconf_cut(site: FakeSite) -> None:
    site.pages["/ltsp/amd64/lts.conf"] = b'# bootfarm lts.conf\nA="1"\n'
    assert site.ids(check_menu) == ["ltsconf.cut"]


# TFTP and HTTP


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never comes is not waited for that long."""
    monkeypatch.setattr(tree, "TFTP_SECONDS", 0.05)


def test_tftp_silent(site: FakeSite, hasty: None) -> None:
    site.target = replace(site.target, tftp_port=free_port(socket.SOCK_DGRAM))
    survey = replace(site.survey(), tftp=False)
    assert site.ids(check_tftp, survey) == ["tftp.silent"]
    assert not survey.tftp


def test_tftp_whose_answers_are_lost(site: FakeSite, hasty: None) -> None:
    site.target = replace(site.target, tftp_port=free_port(socket.SOCK_DGRAM))
    now = site.target.clock()
    site.pages["/api/nodes/127.0.0.1"] = (
        b'{"events": [{"source": "tftp", "phase": "loader", "detail": {}, "time": %f}]}' % now
    )
    assert site.ids(check_tftp) == ["tftp.answers-lost"]
    site.target = replace(site.target, token="0123456789abcdef")
    assert site.ids(check_tftp) == ["tftp.answers-lost"]
    long_ago = b'{"events": [{"source": "tftp", "phase": "loader", "detail": {}, "time": 5}]}'
    site.pages["/api/nodes/127.0.0.1"] = long_ago
    assert site.ids(check_tftp) == ["tftp.silent"]
    assert tree._own_keys("127.0.0.1") == ["00:00:00:00:00:00", "127.0.0.1"]


def test_tftp_without_a_client(site: FakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert site.ids(check_tftp) == ["tftp.no-client"]


KERNEL = "/ltsp/amd64/@{}/vmlinuz"


def test_tftp_file_missing(site: FakeSite) -> None:
    del site.files[KERNEL.format(site.image.digest)]
    (verdict,) = [v for v in site.look(check_tftp) if v.level is not Level.OK]
    short = KERNEL.format(site.image.digest[:12])
    assert (verdict.id, verdict.subject) == ("tftp.missing", short)


def test_tftp_file_empty(site: FakeSite) -> None:
    site.files["/ltsp/amd64/lts.conf"] = b""
    assert site.ids(check_tftp) == ["tftp.missing"]


@pytest.mark.parametrize("change", ["one byte", "shorter"])
def test_tftp_file_differs(site: FakeSite, change: str) -> None:
    path = KERNEL.format(site.image.digest)
    data = site.files[path]
    site.files[path] = data[:-1] if change == "shorter" else data[:5000] + b"!" + data[5001:]
    assert site.ids(check_tftp) == ["tftp.differs"]


def test_http_file_missing(site: FakeSite) -> None:
    del site.pages[KERNEL.format(site.image.digest)]
    assert site.ids(check_http) == ["http.missing"]


def test_http_file_differs(site: FakeSite) -> None:
    path = KERNEL.format(site.image.digest)
    site.pages[path] = site.pages[path][:-1] + b"!"
    assert site.ids(check_http) == ["http.differs"]


def named(file: str, profile: object = BIOS) -> Conversation:
    """A site's DHCP that names this loader."""
    conversation = Conversation("02:bf:00:00:00:01", 1)
    message = Message(
        2, 1, conversation.mac, siaddr="127.0.0.1", file=file.encode(), yiaddr="1.1.1.1"
    )
    conversation.answers[BIOS if profile is BIOS else IPXE] = [Answer("10.9.0.2", message)]
    return conversation


def test_the_loader_that_dhcp_names(site: FakeSite) -> None:
    survey = replace(site.survey(), conversation=named("/ltsp/amd64/grub/i386-pc/core.0"))
    (verdict,) = [v for v in site.look(check_tftp, survey) if v.id == "dhcp.ok"]
    assert verdict.words == "/ltsp/amd64/grub/i386-pc/core.0, 11 bytes"
    for file in ("/ltsp/amd46/grub/i386-pc/core.0", "pxelinux.0"):
        survey = replace(site.survey(), conversation=named(file))
        assert site.ids(check_tftp, survey) == ["dhcp.loader-missing"]


def test_the_url_that_dhcp_names(site: FakeSite) -> None:
    base = f"http://127.0.0.1:{site.target.http_port}/ltsp"
    survey = replace(site.survey(), conversation=named(f"{base}/amd64/boot.ipxe", IPXE))
    assert site.ids(check_tftp, survey) == []
    survey = replace(site.survey(), conversation=named(f"{base}/amd46/boot.ipxe", IPXE))
    assert site.ids(check_tftp, survey) == ["dhcp.loader-missing"]


# NBD


def test_nbd_down(site: FakeSite) -> None:
    site.target = replace(site.target, nbd_port=free_port())
    assert site.ids(check_nbd) == ["nbd.down"]


def test_nbd_port_of_something_else(site: FakeSite) -> None:
    with chatter(b"220 mail.example.org ESMTP ready\r\n") as port:
        site.target = replace(site.target, nbd_port=port)
        (verdict,) = site.look(check_nbd)
        assert (verdict.id, verdict.words) == (
            "nbd.down",
            "what answers there does not speak NBD",
        )


@contextlib.contextmanager
def chatter(words: bytes) -> Iterator[int]:
    """A TCP server that says these words to whoever comes; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peers: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer = listener.accept()[0]
                    peers.append(peer)
                    peer.sendall(words)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for peer in peers:
                peer.close()


def test_nbd_exports_of_other_images_and_files(site: FakeSite, tmp_path: Path) -> None:
    """Without knowledge of the image; of another digest; of a file that is no image."""
    assert [v.id for v in site.look(check_nbd, Survey())] == ["nbd.ok"] * 2
    (tmp_path / "disk").write_bytes(b"x" * 5000)
    site.exports["disk"] = Export("disk", tmp_path / "disk", 5000)
    (verdict,) = [v for v in site.look(check_nbd) if v.subject == "disk"]
    assert (verdict.id, "nothing to compare with" in verdict.words) == ("nbd.ok", True)
    other = publish(tmp_path / "store", kernel="5.0", tags=("old",))
    name = f"/opt/ltsp/amd64@{other.digest}"
    site.exports[name] = site.exports["disk"]
    site.pages[f"/ltsp/amd64/@{other.digest}/manifest.json"] = other.manifest.to_bytes()
    assert site.ids(check_nbd) == ["nbd.size"]


def test_nbd_no_export(site: FakeSite) -> None:
    assert nbdclient.list_exports("127.0.0.1", site.target.nbd_port) == sorted(site.exports)
    del site.exports["/opt/ltsp/amd64"]
    (verdict,) = [v for v in site.look(check_nbd) if v.level is not Level.OK]
    assert (verdict.id, verdict.subject) == ("nbd.no-export", "/opt/ltsp/amd64")
    assert "ERR_UNKNOWN" in verdict.words


def serve_instead(site: FakeSite, data: bytes, directory: Path) -> None:
    path = directory / "other"
    path.write_bytes(data)
    export = Export("x", path, len(data))
    site.exports = {name: export for name in site.exports}


def test_nbd_size(site: FakeSite, tmp_path: Path) -> None:
    serve_instead(site, b"x" * 512, tmp_path)
    assert site.ids(check_nbd) == ["nbd.size"] * 2


@pytest.mark.parametrize("way", ["store", "http", "full"])
def test_nbd_differs(site: FakeSite, tmp_path: Path, way: str) -> None:
    data = (site.image.path / "rootfs.squashfs").read_bytes()
    serve_instead(site, data[:-1] + b"!", tmp_path)
    if way == "full":
        site.target = replace(site.target, full=True)
    if way == "http":
        site.target = replace(site.target, store=None)
    assert site.ids(check_nbd) == ["nbd.differs"] * 2


def test_nbd_that_cannot_be_read(
    site: FakeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (site.image.path / "rootfs.squashfs").read_bytes()
    sample = nbdclient.sample_offsets

    def lose(size: int, length: int, count: int, seed: str) -> list[int]:
        os.truncate(tmp_path / "other", 0)  # once it is open, the disk loses it
        return sample(size, length, count, seed)

    monkeypatch.setattr(exports, "sample_offsets", lose)
    serve_instead(site, data, tmp_path)
    verdicts = site.look(check_nbd)
    assert verdicts[0].id == "nbd.unread"
    # The server says so, or has seen first that the file is cut, and drops the connection.
    assert verdicts[0].words in ("EIO at 0", "the server hung up")


def test_nbd_client_is_told_of_errors(site: FakeSite) -> None:
    with nbdclient.NbdExport("127.0.0.1", site.target.nbd_port, "/opt/ltsp/amd64") as export:
        with pytest.raises(nbdclient.NbdError, match="EINVAL at 4096000"):
            export.read(4096000, 10)
        data = (site.image.path / "rootfs.squashfs").read_bytes()
        assert b"".join(export.chunks(1000)) == data


@pytest.mark.parametrize("size", [1, 65536, 16 * 65536, 16 * 65536 + 1, 10**9, 10**12 + 7])
def test_samples_are_inside_and_hold_both_ends(size: int) -> None:
    offsets = nbdclient.sample_offsets(size, 65536, 16, "cd" * 32)
    assert offsets == sorted(set(offsets))
    assert offsets[0] == 0
    assert offsets[-1] + 65536 >= size
    assert len(offsets) <= 16
    assert all(offset < size for offset in offsets)


def test_a_manifest_that_says_another_digest_is_seen_by_all_of_it(site: FakeSite) -> None:
    manifest = another(
        site.image.manifest,
        "rootfs.squashfs",
        b"y" * len(site.files[f"/ltsp/amd64/@{site.image.digest}/rootfs.squashfs"]),
    )
    survey = site.survey()
    survey.images = [BootImage("amd64", site.image.digest, manifest)]
    site.target = replace(site.target, full=True)
    assert site.ids(check_nbd, survey) == ["nbd.differs"]
