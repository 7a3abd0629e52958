import json
from collections.abc import Mapping

import pytest

from server.events import Event
from server.observe.feed import Feed
from server.protocols.http import Request, Response
from server.web.events import answer_events


@pytest.fixture
def feed() -> Feed:
    feed = Feed()
    for number in range(1, 5):
        feed.record(Event(float(number), "", "tftp", "transfer", {"n": number}), None)
    return feed


def ask(feed: Feed, query: Mapping[str, str], **headers: str) -> Response:
    return answer_events(feed, Request("GET", "/api/events", query, headers, b""))


def numbers(response: Response) -> list[int]:
    assert isinstance(response.body, bytes)
    return [entry["id"] for entry in json.loads(response.body)]


def test_the_last_events(feed: Feed) -> None:
    assert numbers(ask(feed, {})) == [1, 2, 3, 4]
    assert numbers(ask(feed, {"since": "2"})) == [3, 4]
    assert numbers(ask(feed, {"limit": "1"})) == [4]
    assert numbers(ask(feed, {"node": "52:54:00:00:00:01"})) == []
    assert numbers(ask(Feed(), {})) == []
    assert ask(feed, {}).stream is None


def test_a_stream_begins_with_what_was_missed_and_goes_on(feed: Feed) -> None:
    fresh = ask(feed, {"follow": "1"})
    assert fresh.body == b"retry: 3000\n\n"
    response = ask(feed, {"follow": "1"}, **{"last-event-id": "3"})
    assert response.content_type == "text/event-stream"
    assert isinstance(response.body, bytes)
    assert response.body.startswith(b"retry: 3000\n\nid: 4\ndata: {")
    assert response.stream is not None
    seen: list[bytes] = []
    leave = response.stream(seen.append)
    feed.record(Event(5.0, "", "nbd", "attach", {}), None)
    leave()
    feed.record(Event(6.0, "", "nbd", "attach", {}), None)
    assert [one.partition(b"\n")[0] for one in seen] == [b"id: 5"]


@pytest.mark.parametrize("query", [{"since": "x"}, {"limit": "-1"}, {"since": "9" * 99}])
def test_what_is_no_number_is_told(feed: Feed, query: dict[str, str]) -> None:
    assert ask(feed, query).status == 400


def test_a_source_is_a_filter_of_list_and_stream(feed: Feed) -> None:
    feed.record(Event(5.0, "", "dhcp", "dhcp", {}), None)
    assert numbers(ask(feed, {"source": "dhcp"})) == [5]
    assert numbers(ask(feed, {"source": "tftp", "limit": "1"})) == [4]
    assert numbers(ask(feed, {"source": ""})) == [1, 2, 3, 4, 5]
    response = ask(feed, {"source": "dhcp", "follow": "1", "since": "0"})
    assert isinstance(response.body, bytes)
    assert response.body.count(b"id: ") == 1
    assert response.stream is not None
    seen: list[bytes] = []
    leave = response.stream(seen.append)
    feed.record(Event(6.0, "", "nbd", "attach", {}), None)
    feed.record(Event(7.0, "", "dhcp", "dhcp", {}), None)
    leave()
    assert [one.partition(b"\n")[0] for one in seen] == [b"id: 7"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"source": "tfpt"}, "no source of events; did you mean 'tftp'?"),
        ({"sorce": "tftp"}, "'sorce' is no word of this query; did you mean 'source'?"),
        ({"errors": "1"}, "it takes follow, since, node, source, limit"),
        ({"follow": "false"}, "follow= is 0 or 1"),
    ],
)
def test_a_filter_that_is_none_gives_no_other_events(
    feed: Feed, query: dict[str, str], words: str
) -> None:
    response = ask(feed, query)
    assert (response.status, response.content_type) == (400, "application/problem+json")
    assert isinstance(response.body, bytes)
    assert words in json.loads(response.body)["detail"]
    assert response.stream is None
