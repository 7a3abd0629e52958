"""TFTP packets, as clients send them and as they should not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.protocols.tftp_wire import (
    MAX_REQUEST,
    ErrorCode,
    Request,
    RequestError,
    encode_netascii,
    pack_ack,
    pack_error,
    pack_oack,
    pack_request,
    parse_request,
    unpack_error,
)


@pytest.mark.parametrize(
    ("packet", "request_"),
    [
        (b"\0\1/a/b\0octet\0", Request("/a/b", False, {})),
        (b"\0\1a/b\0OCTET\0", Request("/a/b", False, {})),
        (b"\0\1//a//b\0NetASCII\0", Request("/a/b", True, {})),
        (b"\0\1./a/./b\0octet\0", Request("/a/b", False, {})),
        (b"\0\1/a/../b\0octet\0", Request("/a/../b", False, {})),
        # tftp-hpa, with options
        (
            b"\0\1k\0octet\0tsize\x000\0blksize\x001428\0",
            Request("/k", False, {"tsize": "0", "blksize": "1428"}),
        ),
        # iPXE
        (
            b"\0\1ltsp/x\0octet\0blksize\x001432\0tsize\x000\0multicast\0\0",
            Request("/ltsp/x", False, {"blksize": "1432", "tsize": "0"}),
        ),
        # GRUB
        (
            b"\0\1/ltsp/amd64/grub/i386-pc/normal.mod\0octet\0blksize\x001024\0tsize\x000\0",
            Request(
                "/ltsp/amd64/grub/i386-pc/normal.mod", False, {"blksize": "1024", "tsize": "0"}
            ),
        ),
        # upper-case options; the first of two is the one that counts
        (b"\0\1k\0octet\0BlkSize\x0020\0blksize\x0030\0", Request("/k", False, {"blksize": "20"})),
        # no last NUL, and padding
        (b"\0\1k\0octet", Request("/k", False, {})),
        (b"\0\1k\0octet\0tsize\x000", Request("/k", False, {"tsize": "0"})),
        (b"\0\1k\0octet\0\0\0\0\0", Request("/k", False, {})),
        # an option without its value
        (b"\0\1k\0octet\0blksize\0", Request("/k", False, {})),
        # firmware that sends DHCP's end mark as part of the name
        (b"\0\1core.0\xff\0octet\0", Request("/core.0", False, {})),
        # Windows' loaders, and DHCP servers there
        (b"\0\1\\Boot\\x64\\wdsnbp.com\0octet\0", Request("/Boot/x64/wdsnbp.com", False, {})),
        (b"\0\1/Boot\\x64\\a\0octet\0", Request("/Boot/x64/a", False, {})),
        (b"\0\1..\\..\\a\0octet\0", Request("/../../a", False, {})),
        (b"\0\1\xe9\0octet\0", Request("/\\xe9", False, {})),
        (b"\0\1../../etc/passwd\0octet\0", Request("/../../etc/passwd", False, {})),
    ],
)
def test_requests(packet: bytes, request_: Request) -> None:
    assert parse_request(packet) == request_


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (b"", ErrorCode.ILLEGAL),
        (b"\0", ErrorCode.ILLEGAL),
        (b"\1", ErrorCode.ILLEGAL),
        (b"\0\1", ErrorCode.ILLEGAL),
        (b"\0\1\0octet\0", ErrorCode.ILLEGAL),
        (b"\0\1name\0", ErrorCode.ILLEGAL),
        (b"\0\1name\0mail\0", ErrorCode.ILLEGAL),
        (b"\0\1name\0\xff\xfe\0", ErrorCode.ILLEGAL),
        (b"\0\2name\0octet\0", ErrorCode.ACCESS),
        (b"\0\4\0\1", ErrorCode.ILLEGAL),
        (b"\0\1" + b"a" * MAX_REQUEST + b"\0octet\0", ErrorCode.ILLEGAL),
    ],
)
def test_no_requests(packet: bytes, code: ErrorCode) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(packet)
    assert caught.value.code == code


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_an_error(data: bytes) -> None:
    for packet in (data, b"\0\1" + data):
        try:
            request = parse_request(packet)
        except RequestError:
            continue
        assert request.path.startswith("/")
        assert "\0" not in request.path
        request.path.encode()  # no lone surrogates: it goes into JSON


def test_packets() -> None:
    assert pack_ack(65536 + 7) == b"\0\4\0\7"
    assert pack_oack({"blksize": "8", "tsize": "10"}) == b"\0\6blksize\x008\0tsize\x0010\0"
    assert pack_request("a", {"blksize": "8"}) == b"\0\1a\0octet\0blksize\x008\0"
    assert pack_error(1, "no\0 ü " + "x" * 600) == b"\0\5\0\1no? ? " + b"x" * 494 + b"\0"
    assert unpack_error(b"\0\5\0\x08no \x1b[31m\xff\0rest") == (8, "no ?[31m\\xff")
    assert unpack_error(b"\0\5\0\0") == (0, "")


@pytest.mark.parametrize(
    ("text", "wire"),
    [(b"", b""), (b"a\nb\n", b"a\r\nb\r\n"), (b"a\rb", b"a\r\0b"), (b"a\r\n", b"a\r\0\r\n")],
)
def test_netascii(text: bytes, wire: bytes) -> None:
    assert encode_netascii(text) == wire


@given(st.binary(max_size=300))
def test_netascii_can_be_read_back(data: bytes) -> None:
    wire = encode_netascii(data)
    assert wire.replace(b"\r\n", b"\n").replace(b"\r\0", b"\r") == data
