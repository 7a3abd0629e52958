"""A small site on loopback, with real TFTP and NBD services, whose every part can be broken."""

import contextlib
import hashlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from pathlib import Path

from imagebuild.store.images import Image
from imagebuild.store.manifest import FileEntry, Manifest
from server.content import BytesContent, Content, Export, NotFound
from server.doctor.target import BootImage, Survey, Target
from server.doctor.verdict import Verdict
from server.services.nbd import NbdService
from server.services.tftp import TftpService
from tests.server.farm import FILES, publish
from tests.server.services.running import Seen, running

LOADERS = {"boot/ipxe/undionly.kpxe": b"ipxe", "boot/ipxe/snponly.efi": b"ipxe for UEFI"}
MENU = (
    "menuentry x {{\n\tlinux '/ltsp/amd64/@{digest}/vmlinuz' 'nbdroot=127.0.0.1:/opt/ltsp/amd64'"
    " 'nbdport={nbd}'\n}}\n"
)
LTSCONF = '# bootfarm lts.conf\nA="1"\n# end\n'


@dataclass
class FakeSite:
    """pages: what HTTP gives; files: what TFTP gives, both by path. exports: by NBD's name."""

    image: Image
    pages: dict[str, bytes]
    files: dict[str, bytes]
    exports: dict[str, Export]
    statuses: dict[str, int] = field(default_factory=dict)
    target: Target = field(default_factory=lambda: Target("127.0.0.1"))

    def lookup(self, path: str, client: str) -> Content:
        if path not in self.files:
            raise NotFound(f"no {path}")
        return BytesContent(self.files[path])

    def look(
        self, check: Callable[[Target, Survey], Iterator[Verdict]], survey: Survey | None = None
    ) -> list[Verdict]:
        """What the check says, after what it needs to know."""
        return list(check(self.target, survey or self.survey()))

    def ids(
        self, check: Callable[[Target, Survey], Iterator[Verdict]], survey: Survey | None = None
    ) -> list[str]:
        """The ids of what is not well."""
        found = [verdict.id for verdict in self.look(check, survey)]
        return [id_ for id_ in found if not id_.endswith(".ok")]

    def survey(self) -> Survey:
        """As after a look at a server that is well."""
        image = BootImage(self.image.name, self.image.digest, self.image.manifest)
        tags = {self.image.name: {"current": self.image.digest}}
        return Survey(http=True, tftp=True, tags=tags, images=[image])

    def put(self, path: str, data: bytes) -> None:
        """The same by TFTP and HTTP."""
        self.pages[path] = self.files[path] = data


class _Handler(http.server.BaseHTTPRequestHandler):
    site: FakeSite

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        body = self.site.pages.get(path)
        status = self.site.statuses.get(path, 200 if body is not None else 404)
        token = self.site.target.token
        if path.startswith("/api/nodes/") and self.headers["Authorization"] != f"Bearer {token}":
            body, status = (b"", 401) if token else (body, status)
        body = body if body is not None else b"no such file\n"
        if (span := self.headers.get("Range")) is not None:
            first, _, last = span.removeprefix("bytes=").partition("-")
            body, status = body[int(first) : int(last) + 1], 206
        if path == "/api/time":
            body = body or f"{time.time():.3f}\n".encode()
        self.send_response_only(status)
        self.send_header("Date", formatdate(usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def http_server(site: FakeSite) -> Iterator[http.server.ThreadingHTTPServer]:
    """On a port of the kernel's choice, in a thread."""
    handler = type("Handler", (_Handler,), {"site": site})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def fake_site(directory: Path) -> Iterator[FakeSite]:
    """A site where all is well, until a test breaks it."""
    kernel = {"vmlinuz": bytes(range(256)) * 40}
    image = publish(directory / "store", files={**FILES, **LOADERS, **kernel})
    site = FakeSite(image, {}, {}, {})
    export = Export("x", image.path / "rootfs.squashfs", len(FILES["rootfs.squashfs"]))
    for name in ("/opt/ltsp/amd64", f"/opt/ltsp/amd64@{image.digest}"):
        site.exports[name] = export
    with contextlib.ExitStack() as stack:
        seen = Seen()
        tftp = stack.enter_context(
            running(
                lambda loop: TftpService(
                    loop, address="127.0.0.1", port=0, lookup=site.lookup, emit=seen.emit
                )
            )
        )
        nbd = stack.enter_context(
            running(
                lambda loop: NbdService(
                    loop,
                    address="127.0.0.1",
                    port=0,
                    exports=lambda name, client: site.exports.get(name),
                    list_exports=lambda client: sorted(site.exports),
                    emit=seen.emit,
                )
            )
        )
        web = stack.enter_context(http_server(site))
        site.target = Target(
            "127.0.0.1",
            tftp_port=tftp.port,
            nbd_port=nbd.port,
            http_port=web.server_address[1],
            local=True,
            own_address="127.0.0.1",
            store=directory / "store",
            state=directory,
        )
        _fill(site)
        yield site


def _fill(site: FakeSite) -> None:
    image, base = site.image, "/ltsp/amd64"
    for file in image.manifest.files:
        data = (image.path / file).read_bytes()
        site.put(f"{base}/@{image.digest}/{file}", data)
        if file.startswith("boot/"):
            site.put(f"{base}/{file.removeprefix('boot/')}", data)
    site.pages[f"{base}/@{image.digest}/manifest.json"] = image.manifest.to_bytes()
    menu = MENU.format(digest=image.digest, nbd=site.target.nbd_port)
    site.put(f"{base}/grub/grub.cfg", menu.encode())
    site.put(f"{base}/boot.ipxe", b"#!ipxe\n")
    site.put(f"{base}/lts.conf", LTSCONF.encode())
    site.put("/ltsp/", b"x")
    site.pages["/healthz"] = health(site)
    site.pages["/api/time"] = b""


def health(site: FakeSite, *, problems: list[str] | None = None, images: bool = True) -> bytes:
    """What /healthz says."""
    tags = {site.image.name: {"current": site.image.digest}} if images else {}
    return json.dumps({"problems": problems or [], "images": tags}).encode()


def another(manifest: Manifest, key: str, data: bytes) -> Manifest:
    """A manifest that says something else of one file."""
    entry = FileEntry(len(data), hashlib.sha256(data).hexdigest())
    return replace(manifest, files={**manifest.files, key: entry})
