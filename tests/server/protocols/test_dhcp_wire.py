import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.protocols.dhcp_wire import (
    Message,
    MessageType,
    Op,
    Option,
    WireError,
    pack,
    pack_suboptions,
    unpack,
    unpack_suboptions,
)

MAC = "52:54:00:ca:97:01"


def make(options: bytes, *, sname: bytes = b"", file: bytes = b"", head: bytes = b"") -> bytes:
    """A request with these option bytes, built without the code under test."""
    start = head or struct.pack("!BBBBIHH", 1, 1, 6, 0, 7, 0, 0x8000)
    return (
        start
        + bytes(16)
        + bytes.fromhex(MAC.replace(":", "")).ljust(16, b"\0")
        + sname.ljust(64, b"\0")
        + file.ljust(128, b"\0")
        + b"\x63\x82\x53\x63"
        + options
    )


def test_reads_the_fixed_fields_and_options() -> None:
    message = unpack(make(b"\x35\x01\x01\x00\x32\x04\x0a\x09\x00\x07\xff"))
    assert (message.op, message.xid, message.flags, message.mac) == (Op.REQUEST, 7, 0x8000, MAC)
    assert message.type == MessageType.DISCOVER
    assert message.address(Option.REQUESTED_ADDRESS) == "10.9.0.7"
    assert message.address(Option.SERVER_ID) is None


def test_joins_an_option_that_comes_in_parts() -> None:
    message = unpack(make(b"\x35\x01\x01\x2b\x02ab\x2b\x01c\xff"))
    assert message.options[Option.VENDOR] == b"abc"


def test_reads_options_that_are_carried_in_file_and_sname() -> None:
    carried = make(b"\x35\x01\x01\x34\x01\x03\xff", file=b"\x3c\x03abc\xff", sname=b"\x0c\x01x\xff")
    message = unpack(carried)
    assert message.options[Option.VENDOR_CLASS] == b"abc"
    assert message.options[Option.HOSTNAME] == b"x"
    assert (message.file, message.sname) == (b"", b"")


@pytest.mark.parametrize(
    ("options", "file"),
    [
        (b"\x35\x01\x01\x3c\x01x\x0c", b""),
        (b"\x35\x01\x01\x3c\x01x\x0c\x0anode", b""),
        (b"\x35\x01\x01\x3c\x01x\x34\x01\x01\xff", b"\x0c\xff"),
        (b"\x35\x01\x01\x35\x01\x01\x3c\x01x\xff", b""),
    ],
    ids=["no length", "too long", "too long in file", "type twice"],
)
def test_what_stands_before_a_broken_option_is_read(options: bytes, file: bytes) -> None:
    message = unpack(make(options, file=file) if file else make(options))
    assert message.type == MessageType.DISCOVER
    assert message.options[Option.VENDOR_CLASS] == b"x"


def test_a_broken_message_without_a_type_says_whose_it_is() -> None:
    with pytest.raises(WireError) as told:
        unpack(make(b"\x3c\x05ab"))
    assert told.value.mac == unpack(make(b"\x35\x01\x01\xff")).mac
    with pytest.raises(WireError) as told:
        unpack(make(b"\xff"))  # BOOTP, or somebody else's
    assert told.value.mac == ""


def test_options_may_end_without_an_end_mark() -> None:
    assert unpack(make(b"\x35\x01\x03")).type == MessageType.REQUEST


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes are too few"),
        (make(b"\x35\x01\x01\xff") + bytes(4096), "too many"),
        (make(b"\x35\x01\x01\xff").replace(b"\x63\x82\x53\x63", b"\0\0\0\0"), "magic cookie"),
        (make(b"\xff"), "no DHCP message type"),
        (make(b"\x35\x01\x09\xff"), "no DHCP message type"),
        (make(b"\x3c"), "option 60 in options has no length, and no message type"),
        (make(b"\x3c\x09ab\x35\x01\x01"), "says 9 bytes and has 5"),
        (make(b"\x35\x01\x01\xff", head=struct.pack("!BBBBIHH", 1, 32, 20, 0, 7, 0, 0)), "type 32"),
        (make(b"\x35\x01\x01\xff", head=struct.pack("!BBBBIHH", 3, 1, 6, 0, 7, 0, 0)), "operation"),
    ],
)
def test_refuses_what_is_no_dhcp_message(data: bytes, words: str) -> None:
    with pytest.raises(WireError, match=words):
        unpack(data)


@given(st.binary(max_size=700))
def test_any_bytes_give_a_message_or_a_wire_error(data: bytes) -> None:
    for candidate in (data, make(data)):
        try:
            unpack(candidate)
        except WireError:
            pass
    unpack_suboptions(data)


def test_a_cut_message_gives_a_wire_error_or_fewer_options() -> None:
    whole = make(b"\x35\x01\x01\x3c\x09PXEClient\x5d\x02\x00\x07\xff")
    for length in range(len(whole)):
        try:
            message = unpack(whole[:length])
        except WireError:
            continue
        assert set(message.options) <= {Option.MESSAGE_TYPE, Option.VENDOR_CLASS, 93}


addresses = st.ip_addresses(v=4).map(str)


@given(
    st.builds(
        Message,
        op=st.sampled_from([1, 2]),
        xid=st.integers(0, 2**32 - 1),
        mac=st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":")),
        secs=st.integers(0, 65535),
        flags=st.sampled_from([0, 0x8000]),
        ciaddr=addresses,
        yiaddr=addresses,
        siaddr=addresses,
        giaddr=addresses,
        sname=st.binary(max_size=63).filter(lambda raw: b"\0" not in raw),
        file=st.binary(max_size=127).filter(lambda raw: b"\0" not in raw),
        options=st.dictionaries(
            st.integers(1, 254).filter(lambda number: number not in (52, 53)),
            st.binary(max_size=300),
            max_size=5,
        ).map(lambda options: {53: b"\x02", **options}),
    )
)
def test_what_is_packed_is_read_again(message: Message) -> None:
    data = pack(message)
    assert len(data) >= 300
    assert unpack(data) == message


def test_a_file_name_always_keeps_its_nul() -> None:
    with pytest.raises(ValueError, match="too long"):
        pack(Message(op=2, xid=1, mac=MAC, file=b"x" * 128, options={53: b"\x02"}))


def test_suboptions_end_with_their_own_mark() -> None:
    assert pack_suboptions({6: b"\x08"}) == b"\x06\x01\x08\xff"
    assert unpack_suboptions(b"\x06\x01\x08\x47\x04\x00\x00\x00\x00\xff") == {
        6: b"\x08",
        71: bytes(4),
    }


def test_broken_suboptions_are_read_as_far_as_they_go() -> None:
    assert unpack_suboptions(b"\x06\x01\x08\x47\x40") == {6: b"\x08"}
