"""NBD clients that we did not write, against the service on loopback."""

import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.content import Export
from server.services.nbd import NbdService
from tests.server.services.running import Seen, running

pytestmark = pytest.mark.integration

SIZE = 5_000_192  # a multiple of 512: QEMU rounds others up
DATA = random.Random(5).randbytes(SIZE - 2_000_000)
DIGEST = "cd" * 32


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain image, and a sparse one with a hole in its middle."""
    directory = tmp_path_factory.mktemp("images")
    with (directory / "sparse").open("wb") as file:
        file.write(DATA[:1_000_000])
        file.seek(3_000_000)
        file.write(DATA[1_000_000:])
        file.truncate(SIZE)
    (directory / "plain").write_bytes((directory / "sparse").read_bytes())
    return directory


@pytest.fixture(scope="module")
def seen() -> Seen:
    return Seen()


@pytest.fixture(scope="module")
def uri(images: Path, seen: Seen) -> Iterator[str]:
    exports = {
        "opt/ltsp/amd64": Export("opt/ltsp/amd64", images / "plain", SIZE, DIGEST, "amd64 now"),
        "sparse": Export("sparse", images / "sparse", SIZE),
    }
    with running(
        lambda loop: NbdService(
            loop,
            address="127.0.0.1",
            port=0,
            exports=lambda name, client: exports.get(name.lstrip("/")),
            list_exports=lambda client: sorted(exports),
            emit=seen.emit,
        )
    ) as service:
        yield f"nbd://127.0.0.1:{service.port}"


def run(*command: str | Path, status: int = 0) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def test_nbdinfo_list(uri: str) -> None:
    found = json.loads(run("nbdinfo", "--list", "--json", uri))
    assert found["protocol"] == "newstyle-fixed"
    by_name = {export["export-name"]: export for export in found["exports"]}
    assert set(by_name) == {"opt/ltsp/amd64", "sparse"}
    export = by_name["opt/ltsp/amd64"]
    assert export["export-size"] == SIZE
    assert export["contexts"] == ["base:allocation"]
    assert [export[f"block_size_{what}"] for what in ("minimum", "preferred", "maximum")] == [
        1,
        4096,
        32 * 1024 * 1024,
    ]
    true = {"is_read_only", "can_cache", "can_df", "can_flush", "can_multi_conn"}
    false = {"is_rotational", "can_fast_zero", "can_fua", "can_trim", "can_zero"}
    assert {key for key in true | false if export[key]} == true


@pytest.mark.parametrize("name", ["/opt/ltsp/amd64", "//opt/ltsp/amd64"])
def test_nbdinfo_size_with_and_without_the_slash(uri: str, name: str) -> None:
    assert run("nbdinfo", "--size", f"{uri}{name}").strip() == str(SIZE)
    (export,) = json.loads(run("nbdinfo", "--json", f"{uri}{name}"))["exports"]
    assert export["description"] == "amd64 now"


def test_nbdinfo_map_shows_holes(uri: str) -> None:
    extents = json.loads(run("nbdinfo", "--map", "--json", f"{uri}/sparse"))
    assert sum(extent["length"] for extent in extents) == SIZE
    holes = [e for e in extents if e["type"] == 3]
    assert [e["description"] for e in holes] == ["hole,zero"]
    # The file system stores whole blocks.
    assert 1_000_000 <= holes[0]["offset"] < 1_000_000 + 65536
    (all_data,) = json.loads(run("nbdinfo", "--map", "--json", f"{uri}/opt/ltsp/amd64"))
    assert (all_data["type"], all_data["length"]) == (0, SIZE)


def test_nbdinfo_of_nothing_is_an_error(uri: str, seen: Seen) -> None:
    assert "No such file" in run("nbdinfo", f"{uri}/nothing", status=1)
    seen.wait_for(lambda event: event.detail.get("export") == "nothing")


@pytest.mark.parametrize("options", [(), ("--connections=4", "--requests=64"), ("--synchronous",)])
@pytest.mark.parametrize("name", ["opt/ltsp/amd64", "sparse"])
def test_nbdcopy(
    uri: str, images: Path, tmp_path: Path, options: tuple[str, ...], name: str
) -> None:
    run("nbdcopy", *options, f"{uri}/{name}", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (images / "plain").read_bytes()


def test_qemu_img(uri: str, images: Path, tmp_path: Path) -> None:
    info = json.loads(run("qemu-img", "info", "--output=json", f"{uri}/opt/ltsp/amd64"))
    assert (info["format"], info["virtual-size"]) == ("raw", SIZE)
    for name in ("opt/ltsp/amd64", "sparse"):
        compared = run(
            "qemu-img", "compare", "-f", "raw", "-F", "raw", f"{uri}/{name}", images / "plain"
        )
        assert "identical" in compared
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", f"{uri}/sparse", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (images / "plain").read_bytes()
    mapped = json.loads(run("qemu-img", "map", "-f", "raw", "--output=json", f"{uri}/sparse"))
    assert [extent["data"] for extent in mapped] == [True, False, True]


def test_qemu_io_reads_and_may_not_write(uri: str) -> None:
    target = f"{uri}/opt/ltsp/amd64"
    assert "read 512/512" in run("qemu-io", "-r", "-f", "raw", "-c", "read 1024 512", target)
    assert "Permission denied" in run("qemu-io", "-f", "raw", "-c", "write 0 512", target, status=1)


SCRIPT = """
import errno
def refused(call, number):
    try:
        call()
    except nbd.Error as error:
        assert error.errnum == number, error
        return
    raise AssertionError("not refused")

h.set_strict_mode(0)  # let wrong requests through
image = open(IMAGE, "rb").read()
size = h.get_size()
assert size == len(image)
assert h.get_structured_replies_negotiated() is STRUCTURED
assert h.is_read_only() and h.can_multi_conn() and h.can_cache() and h.can_flush()
assert h.can_df() is STRUCTURED
assert h.pread(10, 0) == image[:10]
assert h.pread(1, size - 1) == image[-1:]
assert h.pread(size, 0) == image
refused(lambda: h.pread(2, size - 1), errno.EINVAL)
refused(lambda: h.pread(1, 1 << 62), errno.EINVAL)
refused(lambda: h.pwrite(b"x" * 70000, 0), errno.EPERM)
refused(lambda: h.trim(512, 0), errno.EPERM)
refused(lambda: h.zero(512, 0), errno.EPERM)
h.flush()
h.cache(size, 0)
if STRUCTURED:
    got = bytearray(size)
    def chunk(data, offset, status, error):
        got[offset:offset + len(data)] = data
        assert error.value == 0
    h.pread_structured(size, 0, chunk)
    assert got == image
    got = h.pread_structured(5000, 998000, lambda *a: None, nbd.CMD_FLAG_DF)
    assert got == image[998000:1003000]
    extents = []
    h.block_status(size, 0, lambda name, offset, entries, error: extents.extend(entries))
    assert sum(extents[::2]) == size
else:
    refused(lambda: h.block_status(size, 0, lambda *a: 0), errno.EINVAL)
# Many at once, answered in any order.
buffers = {}
for number in range(200):
    offset = number * 20011 % (size - 4096)
    buffer = nbd.Buffer(4096)
    buffers[h.aio_pread(buffer, offset)] = (buffer, offset)
while h.aio_in_flight():
    h.poll(-1)
for cookie, (buffer, offset) in buffers.items():
    assert h.aio_command_completed(cookie)
    assert buffer.to_bytearray() == image[offset:offset + 4096]
# Still there after all of that.
assert h.pread(10, 0) == image[:10]
print("through")
"""


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("name", ["/opt/ltsp/amd64", "sparse"])
def test_nbdsh(uri: str, images: Path, structured: bool, name: str) -> None:
    script = f"IMAGE = {str(images / 'plain')!r}\nSTRUCTURED = {structured}\n"
    script += f"h.set_request_structured_replies({structured})\nh.set_export_name({name!r})\n"
    script += "h.add_meta_context('base:allocation')\n"
    port = uri.rsplit(":", 1)[1]
    script += f"h.connect_tcp('127.0.0.1', '{port}')\n{SCRIPT}"
    # Debian's module belongs to Debian's Python.
    assert run("/usr/bin/python3", "-m", "nbd", "-c", script) == "through\n"


OPTIONS = """
h.set_opt_mode(True)
h.set_tls(nbd.TLS_ALLOW)
h.connect_tcp("127.0.0.1", PORT)
assert not h.get_tls_negotiated()
names = []
h.opt_list(lambda name, description: names.append(name))
assert names == ["opt/ltsp/amd64", "sparse"], names
h.set_export_name("nope")
try:
    h.opt_info()
    raise AssertionError("found")
except nbd.Error:
    pass
h.set_export_name("sparse")
contexts = []
h.opt_list_meta_context(contexts.append)
assert contexts == ["base:allocation"], contexts
h.opt_info()
size = h.get_size()
h.opt_go()
assert h.get_size() == size
assert len(h.pread(size, 0)) == size
h.shutdown()

h = nbd.NBD()
h.set_handshake_flags(0)  # the oldest way: EXPORT_NAME, with the zeroes
h.set_request_structured_replies(False)
h.set_export_name("sparse")
h.connect_tcp("127.0.0.1", PORT)
assert h.get_protocol() == "newstyle", h.get_protocol()
assert h.get_size() == size
assert h.pread(100, 0) == open(IMAGE, "rb").read(100)
h.shutdown()

h = nbd.NBD()
h.set_opt_mode(True)
h.connect_tcp("127.0.0.1", PORT)
h.opt_abort()
print("through")
"""


def test_nbdsh_negotiates_in_every_way(uri: str, images: Path) -> None:
    port = uri.rsplit(":", 1)[1]
    script = f"IMAGE = {str(images / 'plain')!r}\nPORT = {port!r}\n{OPTIONS}"
    assert run("/usr/bin/python3", "-m", "nbd", "-c", script) == "through\n"
