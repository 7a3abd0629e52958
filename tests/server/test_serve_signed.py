"""`serve --require-signed` asked by curl and libnbd: an image without a signature is not served."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuild.signing.keygen import sign_image
from imagebuild.store.images import Image
from imagebuild.wholefile import write_whole
from tests.imagebuild.signing.signers import make_signer
from tests.server.farm import FILES, publish
from tests.server.test_serve import Server, eventually

pytestmark = pytest.mark.integration

NOW = 1_800_000_000
READER = """
import nbd, sys
handle = nbd.NBD()
handle.connect_uri(sys.argv[1])
for line in sys.stdin:
    print(len(handle.pread(4096, 0)), flush=True)
"""


class Signed:
    """A server that wants signatures, with one image that has none yet."""

    def __init__(self, directory: Path) -> None:
        self.image: Image = publish(directory / "store")
        (directory / "lts.conf").write_text("[default]\nGREETING = one\n")
        self.key, signers = make_signer(directory)
        self.revoked = directory / "revoked"
        self.revoked.write_text("")
        options = ["--require-signed", str(signers), "--revoked", str(self.revoked)]
        self.server = Server(directory, options)

    @property
    def menu(self) -> str:
        return self.server.get("/ltsp/amd64/boot.ipxe").decode()

    @property
    def uri(self) -> str:
        return f"nbd://127.0.0.1:{self.server.nbd}//opt/ltsp/amd64@{self.image.digest}"

    def has_export(self) -> bool:
        return subprocess.run(["nbdinfo", "--size", self.uri], capture_output=True).returncode == 0

    def has_file(self, path: str) -> bool:
        url = f"http://127.0.0.1:{self.server.http}/ltsp/amd64/{path}"
        argv = ["curl", "-sS", "--fail", "--max-time", "10", url]
        return subprocess.run(argv, capture_output=True).returncode == 0


@pytest.fixture
def signed(tmp_path: Path) -> Iterator[Signed]:
    signed = Signed(tmp_path)
    assert "0 images" in signed.server.start()
    yield signed
    assert signed.server.stop() == 0


def test_only_what_is_signed_and_not_revoked_is_served(signed: Signed) -> None:
    server, exact = signed.server, f"@{signed.image.digest}/vmlinuz"
    assert "is not signed" in signed.menu
    health = server.json("/healthz")
    assert health["failing"]
    assert any("`bootfarm sign amd64@" in line for line in health["problems"])
    assert b"is not signed" in server.get("/")
    assert not signed.has_export()
    assert not signed.has_file(exact)

    other = publish(server.directory / "store", "storage")
    sign_image(other, signed.key, NOW)
    assert eventually(lambda: "storage" in server.json("/healthz")["images"])
    assert "is not signed" in signed.menu  # and no other image takes its place

    sign_image(signed.image, signed.key, NOW)
    assert eventually(lambda: signed.has_file(exact))
    assert server.get("/ltsp/amd64/vmlinuz") == FILES["vmlinuz"]
    assert eventually(signed.has_export)
    assert not any("not served" in line for line in server.json("/healthz")["problems"])

    reader = subprocess.Popen(
        ["/usr/bin/python3", "-c", READER, signed.uri],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdin is not None
    assert reader.stdout is not None
    with reader:
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "4096\n"
        write_whole(signed.revoked, b"before amd64 2030-01-01\n")
        assert eventually(lambda: not signed.has_export())
        assert "counts from 2030-01-01T00:00:00Z on" in signed.menu
        assert not signed.has_file(exact)
        # Who runs from it goes on: its connection stays.
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "4096\n"
        reader.stdin.close()
    assert "not served: image amd64@" in server.log


def test_check_says_what_would_not_be_served(tmp_path: Path) -> None:
    signed = Signed(tmp_path)
    done = subprocess.run(
        [*signed.server.argv, "--check", "--no-ports"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "not served: image amd64@" in done.stdout
    assert "holds no image" not in done.stdout
    sign_image(signed.image, signed.key, NOW)
    argv = [*signed.server.argv, "--check", "--no-ports"]
    assert subprocess.run(argv, capture_output=True, text=True).returncode == 0


def test_it_does_not_start_without_keys(tmp_path: Path) -> None:
    signed = Signed(tmp_path)
    (tmp_path / "ci.signers").write_text("")
    assert "names no key" in signed.server.fails()
