import pytest

from server.terminal.eventstream import LINE_MAX, EventStream, Message

STREAM = (
    b'retry: 3000\n\nid: 7\ndata: {"a": 1}\n\n: heartbeat\n\n'
    b"id: 8\r\ndata: one\r\ndata: two\r\n\r\n"
    b"event: x\ndata:three\n\ndata: cut"
)
MESSAGES = [Message("7", '{"a": 1}'), Message("8", "one\ntwo"), Message("8", "three")]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_messages_however_the_bytes_come(size: int) -> None:
    stream = EventStream()
    found: list[Message] = []
    for start in range(0, len(STREAM), size):
        found += stream.feed(STREAM[start : start + size])
    assert found == MESSAGES
    assert stream.feed(b" off\n\n") == [Message("8", "cut off")]


def test_a_line_without_an_end_is_dropped_and_the_next_is_read() -> None:
    stream = EventStream()
    for _ in range(3):
        assert stream.feed(b"x" * LINE_MAX) == []
    assert stream.feed(b"x\ndata: after\n\n") == [Message("", "after")]


def test_bytes_that_are_no_text_do_no_harm() -> None:
    assert EventStream().feed(b"data: \xff\xfe\nid: 1\x002\n\n") == [Message("", "\ufffd\ufffd")]
