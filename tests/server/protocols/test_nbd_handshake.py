"""NBD's negotiation: every option, whole, byte by byte and with the next phase's bytes behind."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.content import Export
from server.protocols.nbd_handshake import (
    MAX_OPTION,
    MAX_OPTIONS,
    MAX_SKIPPED,
    Attached,
    BlockSizes,
    Closed,
    Handshake,
)

EXPORT = Export("opt/ltsp/amd64", Path("/x"), 2**33 + 512, "ab" * 32, "amd64, current")
NAME = b"/opt/ltsp/amd64"
FIXED = struct.pack(">I", 3)
OPTION_MAGIC = b"IHAVEOPT"
REPLY_MAGIC = bytes.fromhex("0003e889045565a9")
ACK, SERVER, INFO, META = 1, 2, 3, 4
UNSUP, INVALID, UNKNOWN, SIZE_REQD, TOO_BIG = 2**31 + 1, 2**31 + 3, 2**31 + 6, 2**31 + 8, 2**31 + 9


def make_handshake(sizes: BlockSizes | None = None) -> Handshake:
    def find(name: str) -> Export | None:
        return EXPORT if name.lstrip("/") == EXPORT.name else None

    return Handshake(find, lambda: [EXPORT.name, "opt/ltsp/other"], sizes)


def option(number: int, data: bytes = b"") -> bytes:
    return OPTION_MAGIC + struct.pack(">II", number, len(data)) + data


def string(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def info_data(name: bytes, *requests: int) -> bytes:
    return string(name) + struct.pack(f">H{len(requests)}H", len(requests), *requests)


def context_data(name: bytes, *queries: bytes) -> bytes:
    return string(name) + struct.pack(">I", len(queries)) + b"".join(map(string, queries))


def parse_replies(data: bytes) -> list[tuple[int, int, bytes]]:
    """(option, reply, data) of each reply; fails on anything else in between."""
    replies = []
    while data:
        assert data[:8] == REPLY_MAGIC
        number, reply, length = struct.unpack(">III", data[8:20])
        assert len(data) >= 20 + length
        replies.append((number, reply, data[20 : 20 + length]))
        data = data[20 + length :]
    return replies


def ask(*options: bytes) -> tuple[Handshake, list[tuple[int, int, bytes]]]:
    handshake = make_handshake()
    return handshake, parse_replies(handshake.receive(FIXED + b"".join(options)))


def test_greeting_is_fixed_newstyle_without_zeroes() -> None:
    assert make_handshake().greet() == b"NBDMAGICIHAVEOPT\0\3"


@pytest.mark.parametrize(("flags", "zeroes"), [(1, 124), (3, 0), (0, 124)])
def test_export_name_answers_size_flags_and_perhaps_zeroes(flags: int, zeroes: int) -> None:
    handshake = make_handshake()
    answer = handshake.receive(struct.pack(">I", flags) + option(1, NAME) + b"next")
    # has flags, read-only, flush, multi-conn, cache; DF only with structured replies
    assert answer == struct.pack(">QH", EXPORT.size, 1 | 2 | 4 | 256 | 1024) + bytes(zeroes)
    assert handshake.outcome == Attached(EXPORT, False, False, b"next")


@pytest.mark.parametrize("name", [b"nope", b"", b"\xff", b"a" * 4097])
def test_export_name_that_is_not_there_hangs_up_without_an_answer(name: bytes) -> None:
    handshake = make_handshake()
    assert handshake.receive(FIXED + option(1, name)) == b""
    assert isinstance(handshake.outcome, Closed)
    assert handshake.outcome.error


def test_go_tells_what_was_asked_and_attaches() -> None:
    handshake, replies = ask(option(8), option(7, info_data(NAME, 3, 1, 2, 3, 77)) + b"tail")
    flags = 1 | 2 | 4 | 128 | 256 | 1024
    assert replies == [
        (8, ACK, b""),
        (7, INFO, struct.pack(">HQH", 0, EXPORT.size, flags)),
        (7, INFO, b"\0\1opt/ltsp/amd64"),
        (7, INFO, b"\0\2amd64, current"),
        (7, INFO, struct.pack(">HIII", 3, 1, 4096, 32 * 1024 * 1024)),
        (7, ACK, b""),
    ]
    assert handshake.outcome == Attached(EXPORT, True, False, b"tail")


def test_info_answers_only_the_export_unless_asked_for_more_and_goes_on() -> None:
    handshake, replies = ask(option(6, info_data(NAME)), option(6, info_data(NAME, 3)))
    assert [(reply, data[:2]) for _, reply, data in replies] == [
        (INFO, b"\0\0"),
        (ACK, b""),
        (INFO, b"\0\0"),
        (INFO, b"\0\3"),
        (ACK, b""),
    ]
    assert handshake.outcome is None


@pytest.mark.parametrize("number", [6, 7])
def test_info_of_an_unknown_export_can_be_followed_by_a_better_one(number: int) -> None:
    handshake, replies = ask(option(number, info_data(b"nope")), option(7, info_data(NAME)))
    assert replies[0][:2] == (number, UNKNOWN)
    assert b"nope" in replies[0][2]
    assert isinstance(handshake.outcome, Attached)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        string(NAME),
        string(NAME) + b"\0",
        string(NAME) + b"\0\1",
        info_data(NAME, 3) + b"\0",
        struct.pack(">I", 2**32 - 1) + NAME,
        info_data(b"\xff\xfe"),
        info_data(b"a\0b"),
        info_data(b"a" * 4097),
    ],
)
@pytest.mark.parametrize("number", [6, 7])
def test_malformed_info_is_invalid_and_no_more(number: int, data: bytes) -> None:
    handshake, replies = ask(option(number, data), option(2))
    assert [reply for _, reply, _ in replies] == [INVALID, ACK]
    assert handshake.outcome == Closed("the client ended the negotiation", error=False)


def test_list_names_every_export() -> None:
    _, replies = ask(option(3), option(3, b"x"))
    assert replies[:3] == [
        (3, SERVER, string(b"opt/ltsp/amd64")),
        (3, SERVER, string(b"opt/ltsp/other")),
        (3, ACK, b""),
    ]
    assert replies[3][1] == INVALID


@pytest.mark.parametrize(
    ("number", "data", "reply"),
    [
        (5, b"", UNSUP),
        (5, b"x", INVALID),
        (8, b"", ACK),
        (8, b"x", INVALID),
        (11, b"", UNSUP),
        (4, b"", UNSUP),
        (0, b"abc", UNSUP),
        (2**32 - 1, b"", UNSUP),
    ],
)
def test_other_options(number: int, data: bytes, reply: int) -> None:
    handshake, replies = ask(option(number, data))
    assert [(n, r) for n, r, _ in replies] == [(number, reply)]
    assert handshake.outcome is None


def test_abort_is_acknowledged_and_later_bytes_are_ignored() -> None:
    handshake, replies = ask(option(2), option(3))
    assert replies == [(2, ACK, b"")]
    assert isinstance(handshake.outcome, Closed)
    assert handshake.receive(option(3)) == b""


class TestMetaContext:
    def test_set_and_go_agree_on_base_allocation(self) -> None:
        wanted = context_data(NAME, b"base:allocation", b"qemu:dirty-bitmap:x")
        handshake, replies = ask(option(8), option(10, wanted), option(7, info_data(NAME)))
        assert replies[1:3] == [(10, META, b"\0\0\0\1base:allocation"), (10, ACK, b"")]
        assert handshake.outcome == Attached(EXPORT, True, True, b"")

    @pytest.mark.parametrize("query", [b"base:", b"", b"base:allocation2", b"qemu:"])
    def test_set_takes_no_other_name(self, query: bytes) -> None:
        handshake, replies = ask(
            option(8), option(10, context_data(NAME, query)), option(7, info_data(NAME))
        )
        assert replies[1] == (10, ACK, b"")
        assert handshake.outcome == Attached(EXPORT, True, False, b"")

    @pytest.mark.parametrize("queries", [[], [b"base:"], [b"x:y", b"base:allocation"]])
    def test_list_answers_wildcards(self, queries: list[bytes]) -> None:
        handshake, replies = ask(
            option(8), option(9, context_data(NAME, *queries)), option(7, info_data(NAME))
        )
        assert replies[1:3] == [(9, META, b"\0\0\0\0base:allocation"), (9, ACK, b"")]
        # Listing sets nothing.
        assert handshake.outcome == Attached(EXPORT, True, False, b"")

    def test_a_context_holds_only_for_its_export_name(self) -> None:
        handshake, _ = ask(
            option(8),
            option(10, context_data(NAME, b"base:allocation")),
            option(7, info_data(NAME[1:])),
        )
        assert handshake.outcome == Attached(EXPORT, True, False, b"")

    def test_a_failed_set_unsets(self) -> None:
        handshake, replies = ask(
            option(8),
            option(10, context_data(NAME, b"base:allocation")),
            option(10, context_data(b"nope", b"base:allocation")),
            option(7, info_data(NAME)),
        )
        assert replies[3][1] == UNKNOWN
        assert handshake.outcome == Attached(EXPORT, True, False, b"")

    @pytest.mark.parametrize("number", [9, 10])
    def test_wants_structured_replies(self, number: int) -> None:
        _, replies = ask(option(number, context_data(NAME, b"base:allocation")))
        assert [reply for _, reply, _ in replies] == [INVALID]

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            string(NAME),
            string(NAME) + struct.pack(">I", 1),
            string(NAME) + struct.pack(">I", 2**32 - 1),
            context_data(NAME, b"base:") + b"x",
            context_data(NAME, b"\xff"),
        ],
    )
    @pytest.mark.parametrize("number", [9, 10])
    def test_malformed(self, number: int, data: bytes) -> None:
        _, replies = ask(option(8), option(number, data))
        assert [reply for _, reply, _ in replies] == [ACK, INVALID]


def test_minimum_block_of_more_than_a_byte_must_be_asked_for() -> None:
    handshake = make_handshake(BlockSizes(minimum=512))
    replies = parse_replies(handshake.receive(FIXED + option(7, info_data(NAME))))
    assert [reply for _, reply, _ in replies] == [SIZE_REQD]
    replies = parse_replies(handshake.receive(option(7, info_data(NAME, 3))))
    assert replies[1] == (7, INFO, struct.pack(">HIII", 3, 512, 4096, 32 * 1024 * 1024))
    assert isinstance(handshake.outcome, Attached)


@pytest.mark.parametrize("flags", [4, 2**31, 2**32 - 1])
def test_unknown_client_flags_end_it(flags: int) -> None:
    handshake = make_handshake()
    assert handshake.receive(struct.pack(">I", flags)) == b""
    assert isinstance(handshake.outcome, Closed)
    assert handshake.outcome.error


def test_a_client_that_is_not_fixed_newstyle_may_only_name_an_export() -> None:
    handshake = make_handshake()
    assert handshake.receive(struct.pack(">I", 0) + option(3)) == b""
    assert isinstance(handshake.outcome, Closed)


def test_wrong_option_magic_ends_it() -> None:
    handshake = make_handshake()
    assert handshake.receive(FIXED + b"GET / HTTP/1.1\r\n\r\n") == b""
    assert isinstance(handshake.outcome, Closed)


def test_long_options_are_skipped_and_longer_ones_end_it() -> None:
    handshake = make_handshake()
    long = option(7, bytes(MAX_OPTION + 1))
    replies = parse_replies(handshake.receive(FIXED + long + option(8)))
    assert [(n, r) for n, r, _ in replies] == [(7, TOO_BIG), (8, ACK)]
    assert handshake.receive(OPTION_MAGIC + struct.pack(">II", 7, MAX_SKIPPED + 1)) == b""
    assert isinstance(handshake.outcome, Closed)


def test_long_export_name_ends_it() -> None:
    handshake = make_handshake()
    handshake.receive(FIXED + OPTION_MAGIC + struct.pack(">II", 1, MAX_OPTION + 1))
    assert isinstance(handshake.outcome, Closed)


def test_negotiating_for_ever_ends() -> None:
    handshake = make_handshake()
    handshake.receive(FIXED)
    for _ in range(MAX_OPTIONS):
        assert handshake.receive(option(8))
    assert handshake.outcome is None
    handshake.receive(option(8))
    assert isinstance(handshake.outcome, Closed)


OPTIONS = st.sampled_from(
    [
        option(3),
        option(5),
        option(6, info_data(NAME, 0, 1, 2, 3)),
        option(6, info_data(b"nope")),
        option(7, b"broken"),
        option(8),
        option(9, context_data(NAME)),
        option(10, context_data(NAME, b"base:allocation")),
        option(12345, b"x" * 50),
        option(7, bytes(MAX_OPTION + 5)),
    ]
)
LAST = st.sampled_from(
    [option(1, NAME), option(7, info_data(NAME)), option(2), option(1, b"x"), b"garbage" * 3]
)


@given(st.lists(OPTIONS, max_size=6), LAST, st.binary(max_size=30), st.data())
def test_pieces_make_no_difference(
    options: list[bytes], last: bytes, tail: bytes, data: st.DataObject
) -> None:
    stream = FIXED + b"".join(options) + last
    whole = make_handshake()
    expected = whole.receive(stream + tail)
    pieces = make_handshake()
    got = b""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += pieces.receive(stream[start:end])
    assert got == expected
    if isinstance(whole.outcome, Attached):
        assert whole.outcome.leftover == tail
        assert isinstance(pieces.outcome, Attached)
        assert pieces.outcome.export == whole.outcome.export
    else:
        assert pieces.outcome == whole.outcome


@given(st.lists(OPTIONS, max_size=3), LAST)
def test_byte_by_byte_makes_no_difference(options: list[bytes], last: bytes) -> None:
    stream = FIXED + b"".join(item for item in options if len(item) < 1000) + last
    whole, single = make_handshake(), make_handshake()
    expected = whole.receive(stream)
    assert b"".join(single.receive(bytes([byte])) for byte in stream) == expected
    assert single.outcome == whole.outcome


@given(st.lists(st.one_of(st.binary(max_size=64), OPTIONS, LAST), max_size=8))
def test_no_bytes_make_it_raise(pieces: list[bytes]) -> None:
    handshake = make_handshake()
    for piece in [FIXED, *pieces]:
        over = handshake.outcome is not None
        answer = handshake.receive(piece)
        assert not (over and answer)
