"""The API against its document: what a running server answers is what the document says."""

import dataclasses
import http.client
import json
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from server.diagnosis import FarmFacts, diagnose
from server.events import Event
from server.farm.inventory import Inventory, Machine
from server.machines.identity import make_identifier
from server.observe.feed import Feed
from server.observe.overview import Overview
from server.protocols.http import HttpLimits, Request, Response
from server.protocols.logs import LogLine
from server.services.http import HttpService
from server.web.access import Access
from server.web.api import ROUTES
from server.web.openapi import describe, list_errors
from server.web.queries import Query
from server.web.replies import KINDS, PROBLEM, dress
from server.web.routes import handle
from server.web.web import Web
from tests.server.diagnosis.story import MAC, Story
from tests.server.services.running import running

UNSEEN = "52:54:00:00:00:77"
METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE")
DOCUMENT = describe(ROUTES)


def close(schema: Any) -> Any:
    """A schema that takes no field which it does not name."""
    if isinstance(schema, list):
        return [close(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: close(value) for key, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        closed.setdefault("additionalProperties", False)
    return closed


CLOSED = {"components": {"schemas": close(DOCUMENT["components"]["schemas"])}}


def check(name: str, data: Any) -> None:
    """Whether data has a shape of the document, without a field that it does not name."""
    validator = Draft202012Validator({**CLOSED, "$ref": f"#/components/schemas/{name}"})
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(data)] == []


class Farm:
    """A real HTTP service over machines in every state that the API tells of."""

    def __init__(self) -> None:
        story = Story(FarmFacts(address="10.9.0.1", dhcp="proxy"))
        story.to_join().beacon("shutdown").wait(5).to_join()
        story.space("/:97:2:650").beacon("join", "try 1: x", "error", cause="token_unknown")
        self.story = story
        inventory = Inventory(
            (
                Machine(MAC, "10.9.0.11", "node-1", labels=(("rack", "r1"),)),
                Machine(UNSEEN, None, "node-7"),
            )
        )
        self.feed = Feed()
        for event in story.seen:
            self.feed.record(event, story.nodes.get(MAC))
        self.feed.record(Event(story.now, "", "server", "images", {"detail": "new"}), None)
        story.nodes.record(Event(story.now, "127.64.0.9", "beacon", "ready", {"status": "ok"}))
        self.web = Web(
            lookup=lambda *_: (_ for _ in ()).throw(AssertionError("no boot tree here")),
            identifier=make_identifier(inventory, {}, None),
            nodes=story.nodes,
            overview=Overview(
                story.nodes,
                lambda node, now: diagnose(node, now, story.farm),
                inventory=lambda: inventory,
            ),
            health=dict,
            emit=lambda event: None,
            feed=self.feed,
            clock=lambda: story.now,
        )
        self.web.logbook.add(MAC, 1, "netconsole", [LogLine("one")], story.now)
        self.web.logbook.add(MAC, 2, "syslog", [LogLine("two", 3)], story.now)
        self.web.overview.turn(story.now)
        self.port = 0

    def answer(self, request: Request) -> Response:
        return handle(self.web, request)

    def ask(
        self, method: str, path: str, query: Mapping[str, str] | None = None, **headers: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers (lower case) and body; of a stream what has come first."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        target = urllib.parse.quote(path) + (f"?{urllib.parse.urlencode(query)}" if query else "")
        try:
            connection.request(method, target, headers=headers)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            streams = found.get("content-type") == "text/event-stream"
            return answer.status, found, answer.read1() if streams else answer.read()
        finally:
            connection.close()


def serve(farm: Farm, spare_local: bool) -> AbstractContextManager[HttpService]:
    return running(
        lambda loop: HttpService(
            loop,
            address="127.0.0.1",
            port=0,
            handle=farm.answer,
            emit=lambda event: None,
            limits=HttpLimits(followers_per_client=0),
            dress=dress,
            spare_local=spare_local,
        )
    )


@pytest.fixture(scope="module")
def service() -> Iterator[Farm]:
    farm = Farm()
    with serve(farm, spare_local=True) as served:
        farm.port = served.port
        yield farm


@pytest.fixture
def farm(service: Farm) -> Iterator[Farm]:
    before = service.web
    yield service
    service.web = before


def fill(path: str, key: str = MAC) -> str:
    return path.replace("{node}", key)


def test_every_path_and_method_is_in_the_document_and_no_other(farm: Farm) -> None:
    paths = DOCUMENT["paths"]
    for path, methods in paths.items():
        known = {method.upper() for method in methods} | ({"HEAD"} if "get" in methods else set())
        for method in METHODS:
            if method in ("PUT", "DELETE"):
                status, headers, _ = farm.ask(method, fill(path, "nobody"))
            else:
                status, headers, _ = farm.ask(method, fill(path))
            assert (status != 405) == (method in known), (method, path)
            if status == 405:
                assert set(headers["allow"].split(", ")) == known, path
    for path in ("/api", "/api/", "/api/node", "/api/nodes/x/y", "/api/nodes/x/log/y", "/api//x"):
        for method in METHODS:
            status, _, body = farm.ask(method, path)
            assert status == 404, (method, path)
            assert method == "HEAD" or json.loads(body)["code"] == "no_such_path"


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", "/api/nodes", {"state": "look,ready,booting,unseen,off,played"}),
        ("GET", "/api/nodes", {}),
        ("GET", "/api/nodes/{node}", {}),
        ("GET", "/api/nodes/{node}/log", {}),
        ("GET", "/api/overview", {}),
        ("GET", "/api/events", {}),
        ("PUT", "/api/nodes/{node}", {"note": "disk ordered", "maintenance": "0"}),
        ("DELETE", "/api/nodes", {"older_than": "100000"}),
        ("GET", "/api/openapi.json", {}),
    ],
)
def test_answers_have_the_shape_that_the_document_says(
    farm: Farm, method: str, path: str, query: dict[str, str]
) -> None:
    status, headers, body = farm.ask(method, fill(path), query)
    assert (status, headers["content-type"]) == (200, "application/json")
    content = DOCUMENT["paths"][path][method.lower()]["responses"]["200"]["content"]
    name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
    check(name, json.loads(body))
    assert len(json.loads(body)) > 0


def test_machines_that_were_never_seen_and_forgotten_ones_have_it_too(farm: Farm) -> None:
    for path, name in (("/api/nodes/{node}", "node"), ("/api/nodes/{node}/log", "log")):
        check(name, json.loads(farm.ask("GET", fill(path, UNSEEN))[2]))
    farm.story.nodes.record(Event(farm.story.now, "10.9.0.66", "beacon", "join", {"status": "ok"}))
    status, _, body = farm.ask("DELETE", "/api/nodes/10.9.0.66")
    assert (status, json.loads(body)) == (200, {"forgotten": 1})
    check("forgotten", json.loads(body))


def test_what_the_server_under_test_has_to_tell_is_not_little(farm: Farm) -> None:
    """Or the shapes would be held against nothing."""
    node = json.loads(farm.ask("GET", fill("/api/nodes/{node}"))[2])
    assert node["finding"]
    assert node["past"]
    assert node["boot"]["facts"]
    assert len(node["boot"]["phases"]) > 8
    states = {state for state, count in overview(farm)["states"].items() if count}
    assert states == {"look", "unseen", "played"}
    assert overview(farm)["causes"]
    assert overview(farm)["images"]
    assert overview(farm)["labels"] == {"rack": {"r1": 1}}
    events = json.loads(farm.ask("GET", "/api/events")[2])
    assert {event["node"] for event in events} == {MAC, ""}
    assert [
        len(boot["lines"])
        for boot in json.loads(farm.ask("GET", f"/api/nodes/{MAC}/log")[2])["boots"]
    ] == [1, 1]


def overview(farm: Farm) -> Any:
    return json.loads(farm.ask("GET", "/api/overview")[2])


def test_streams_say_what_the_document_says(farm: Farm) -> None:
    messages: list[bytes] = []
    for route in ROUTES:
        if not route.streams:
            continue
        query = {"follow": "1", "since": "0"}
        status, headers, first = farm.ask("GET", route.path, query)
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        assert first.startswith(b"retry: ")
    answer = farm.answer(Request("GET", "/api/changes", {}, {}, b"", "127.0.0.1"))
    assert answer.stream is not None
    leave = answer.stream(messages.append)
    farm.web.changes.note(MAC)
    farm.web.changes.flush()
    for number in range(200):
        farm.web.changes.note(str(number))
    farm.web.changes.flush()
    leave()
    answer = farm.answer(Request("GET", "/api/events", {"follow": "1"}, {}, b"", "127.0.0.1"))
    assert answer.stream is not None
    leave = answer.stream(messages.append)
    farm.feed.record(Event(1.0, "", "nbd", "attach", {"bytes": 0}), None)
    leave()
    data = [json.loads(one.partition(b"data: ")[2]) for one in messages]
    for name, one in zip(("changes", "changes", "event"), data, strict=True):
        check(name, one)


def refused(answer: tuple[int, Mapping[str, str], bytes]) -> str:
    """The code of an error, whose form is looked at."""
    status, headers, body = answer
    assert headers["content-type"] == PROBLEM
    problem = json.loads(body)
    check("problem", problem)
    assert problem["status"] == status == KINDS[problem["code"]].status
    assert problem["detail"] == problem["error"] != ""
    assert problem["hint"]
    return str(problem["code"])


def provoke(farm: Farm) -> dict[str, Callable[[], tuple[int, Mapping[str, str], bytes]]]:
    """A way to each error."""

    def replaced(method: str, path: str, **changed: Any) -> Callable[[], Any]:
        def ask() -> Any:
            farm.web = dataclasses.replace(farm.web, **changed)
            return farm.ask(method, path)

        return ask

    def fail(*arguments: Any) -> Any:
        raise RuntimeError("a fault")

    def from_elsewhere() -> Any:
        request = Request("DELETE", f"/api/nodes/{MAC}", {}, {}, b"", "10.9.0.99")
        response = farm.answer(request)
        assert isinstance(response.body, bytes)
        return response.status, {"content-type": response.content_type}, response.body

    def follow() -> Any:
        with serve(farm, spare_local=False) as served:
            before, farm.port = farm.port, served.port
            try:
                return farm.ask("GET", "/api/changes")
            finally:
                farm.port = before

    access = Access(lambda: b"a-token-of-many-letters")
    return {
        "bad_query": lambda: farm.ask("GET", "/api/nodes", {"state": "redy"}),
        "token_wanted": replaced("GET", "/api/nodes", access=access),
        "only_from_server": from_elsewhere,
        "foreign_page": lambda: farm.ask(
            "DELETE", f"/api/nodes/{MAC}", None, **{"Sec-Fetch-Site": "cross-site"}
        ),
        "no_such_node": lambda: farm.ask("GET", "/api/nodes/nobody"),
        "no_such_path": lambda: farm.ask("GET", "/api/nothing"),
        "method_not_allowed": lambda: farm.ask("POST", "/api/nodes"),
        "rollout_refused": lambda: farm.ask("PUT", "/api/rollout/order", {"do": "pause"}),
        "unknown_host": lambda: farm.ask("GET", "/api/nodes", Host="evil.example"),
        "too_many_requests": replaced("GET", "/api/nodes", allow_look=lambda client: False),
        "server_failed": replaced("GET", "/api/time", clock=fail),
        "too_many_followers": follow,
    }


@pytest.mark.parametrize("code", KINDS)
def test_every_error_has_the_one_format(farm: Farm, code: str) -> None:
    assert refused(provoke(farm)[code]()) == code


def test_errors_keep_the_headers_that_say_what_to_do(farm: Farm) -> None:
    ways = provoke(farm)
    assert ways["too_many_followers"]()[1]["retry-after"] == "10"
    assert ways["method_not_allowed"]()[1]["allow"] == "GET, HEAD, DELETE"
    assert ways["token_wanted"]()[1]["www-authenticate"].startswith("Bearer")
    farm.web = dataclasses.replace(farm.web, access=Access())
    assert ways["too_many_requests"]()[1]["retry-after"] == "2"


def test_a_page_and_the_boot_tree_say_it_in_words_as_before(farm: Farm) -> None:
    for path in ("/nodes/x", "/metrics", "/logout", "/"):
        status, headers, body = farm.ask("GET", path, Host="evil.example")
        assert (status, headers["content-type"]) == (421, "text/plain; charset=utf-8")
        assert body.startswith(b"this server is not known as 'evil.example'")


def test_a_browser_without_a_token_gets_the_form_for_the_api_too(farm: Farm) -> None:
    farm.web = dataclasses.replace(farm.web, access=Access(lambda: b"a-token-of-many-letters"))
    status, headers, _ = farm.ask("GET", "/api/nodes", Accept="text/html")
    assert (status, headers["content-type"].partition(";")[0]) == (401, "text/html")


def test_the_document_names_each_error_where_it_comes() -> None:
    named = {code for route in ROUTES for code in list_errors(route)}
    assert named == set(KINDS) - {"no_such_path", "method_not_allowed"}, "those are of no route"
    names = [route.name for route in ROUTES]
    assert len(names) == len(set(names))


def words_of(query: Query) -> st.SearchStrategy[dict[str, str]]:
    """Words that the document lets a query say."""
    schema = dict(query.schema)
    if query.prefix:
        return st.dictionaries(
            st.text(max_size=8).map(lambda name: query.prefix + name),
            st.text(max_size=8),
            max_size=2,
        )
    if schema.get("type") == "array":
        items = st.lists(st.sampled_from(schema["items"]["enum"]), max_size=4)
        return items.map(lambda words: {query.name: ",".join(words)})
    if "enum" in schema:
        return st.sampled_from(schema["enum"]).map(lambda word: {query.name: str(word)})
    if schema["type"] == "integer":
        numbers = st.integers(schema["minimum"], schema["maximum"])
        return numbers.map(lambda number: {query.name: str(number)})
    texts = st.from_regex(schema["pattern"], fullmatch=True) if "pattern" in schema else st.text()
    return texts.map(lambda text: {query.name: text})


ASKED = [route for route in ROUTES if route.takes and route.method != "DELETE"]


@pytest.mark.parametrize("route", ASKED, ids=lambda route: str(route.name))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_queries_of_any_kind_get_what_the_document_says(
    farm: Farm, route: Any, data: st.DataObject
) -> None:
    """What the document lets them say is taken; any other words get an answer that it names."""
    query: dict[str, str] = {}
    is_right = data.draw(st.booleans())
    for one in route.takes:
        if data.draw(st.booleans()):
            strange = st.builds(lambda text, name=one.name: {name: text}, st.text(max_size=20))
            query |= data.draw(words_of(one) if is_right else strange)
    query.pop("follow", None)
    request = Request(route.method, fill(route.path), query, {}, b"", "127.0.0.1")
    response = farm.answer(request)
    if response.stream is not None:
        return
    assert isinstance(response.body, bytes)
    if response.status == 200:
        check(route.shape, json.loads(response.body))
        return
    headers = {"content-type": response.content_type}
    assert refused((response.status, headers, response.body)) in list_errors(route)
    may_refuse = (route.name == "annotateNode" and not query) or route.shape == "rollout"
    assert not is_right or may_refuse, query


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("DELETE", "/api/nodes", {"older_than": "60", "label.rack": "r1"}),
        ("DELETE", "/api/nodes", {"older_than": "60", "state": "look"}),
        ("DELETE", "/api/nodes/{node}", {"older_than": "60"}),
        ("PUT", "/api/nodes/{node}", {"note": "x", "maintenence": "1"}),
        ("PUT", "/api/nodes/{node}", {"note": "x", "maintenance": "yes"}),
    ],
)
def test_what_changes_something_takes_no_word_that_it_does_not_know(
    farm: Farm, method: str, path: str, query: dict[str, str]
) -> None:
    """Or a filter that is none would forget the whole farm."""
    before = [node.key for node in farm.story.nodes.newest()]
    assert refused(farm.ask(method, fill(path), query)) == "bad_query"
    assert [node.key for node in farm.story.nodes.newest()] == before
    assert farm.web.overview.find(MAC).note != "x"  # type: ignore[union-attr]
    doubled = Request(method, fill(path), {}, {}, b"", "127.0.0.1", doubled=("state",))
    assert farm.answer(doubled).status == 400


def test_a_word_that_counts_for_nothing_is_told(farm: Farm) -> None:
    for path in (f"/api/nodes/{MAC}", f"/api/nodes/{MAC}/log", "/api/changes", "/api/openapi.json"):
        status, headers, _ = farm.ask("GET", path, {"limit": "1"})
        assert (status, headers["x-bootfarm-note"]) == (200, "'limit' counts for nothing")
