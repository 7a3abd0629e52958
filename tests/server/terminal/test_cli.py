"""The commands against the real HTTP service with its routes, and against servers that are none."""

import http.server
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from bootfarm import main
from server.diagnosis import diagnose
from server.errors import ServerError
from server.events import Event
from server.farm.inventory import Inventory, Machine
from server.machines.identity import make_identifier
from server.observe.feed import Feed
from server.observe.overview import Overview
from server.protocols.http import HttpLimits, Request, Response
from server.protocols.logs import LogLine
from server.services.http import HttpService
from server.terminal import cli, events
from server.terminal.client import Api, LostError
from server.web.routes import handle
from server.web.web import Web
from tests.server.diagnosis.story import BIOS, MAC, Story
from tests.server.services.running import running

SAID = "try 1: token refused: the cluster has no token abcdef (expired, or never made)"
REFUSED = {"cause": "join_token", "said": "", "bootstrap": "abcdef"}


class Site:
    """A real HTTP service over the timeline of a Story. requests: as they came."""

    def __init__(self) -> None:
        self.story = Story()
        self.feed = Feed()
        self.requests: list[Request] = []
        self.url = ""
        self.web = Web(
            lookup=lambda *_: (_ for _ in ()).throw(AssertionError("no boot tree here")),
            identifier=make_identifier(Inventory(), {}, None),
            nodes=self.story.nodes,
            overview=Overview(
                self.story.nodes, lambda node, now: diagnose(node, now, self.story.farm)
            ),
            health=dict,
            emit=self.emit,
            feed=self.feed,
            clock=lambda: self.story.now,
        )

    def emit(self, event: Event) -> None:
        self.feed.record(event, self.story.nodes.record(event))

    def answer(self, request: Request) -> Response:
        self.requests.append(request)
        return handle(self.web, request)

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(main, [*words, "--server", self.url])


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    with running(
        lambda loop: HttpService(
            loop,
            address="127.0.0.1",
            port=0,
            handle=site.answer,
            emit=lambda event: None,
            limits=HttpLimits(),
        )
    ) as service:
        site.url = f"http://127.0.0.1:{service.port}"
        yield site


class Foreign(http.server.BaseHTTPRequestHandler):
    """A server that answers everything alike."""

    status = 200
    body = b"<html>hello"
    content_type = "text/html"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Type", self.content_type)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve(**attributes: object) -> http.server.HTTPServer:
    server = http.server.HTTPServer(("127.0.0.1", 0), type("Handler", (Foreign,), attributes))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def run_against(server: http.server.HTTPServer, *words: str) -> Result:
    try:
        return CliRunner().invoke(main, [*words, "--server", f"127.0.0.1:{server.server_port}"])
    finally:
        server.shutdown()
        server.server_close()


def test_nodes(site: Site) -> None:
    assert site.run("nodes").output.endswith("\n0 nodes, 0 ready, 0 with an error or stalled\n")
    site.story.to_join().beacon("join", SAID, "error", **REFUSED)
    done = site.run("nodes")
    assert done.exit_code == 0, done.output
    assert "! kubeadm join: token expired or never made." in done.output
    assert "1 nodes, 0 ready, 1 with an error or stalled" in done.output
    assert site.run("nodes", "--exit-code").exit_code == cli.TROUBLE
    assert site.run("nodes", "--exit-code", "no-such").exit_code == 0
    assert "node-1" in site.run("nodes", "NODE-1", "--trouble").output
    assert "node-1" not in site.run("nodes", "other").output
    site.story.beacon("join", "try 2: joined as node-1")
    assert "node-1" not in site.run("nodes", "--trouble").output


def test_nodes_as_json_is_what_the_api_has(site: Site) -> None:
    site.story.to_join().beacon("join", SAID, "error", **REFUSED)
    (node,) = json.loads(site.run("nodes", "--json").output)
    assert node == Api(site.url).get("/api/nodes")[0]
    assert node["finding"]["rule"] == "token-expired"
    assert yaml.safe_load(site.run("nodes", "-o", "yaml").output) == [node]


def test_a_node_and_events_in_the_other_formats(site: Site) -> None:
    site.story.to_join().beacon("join", SAID, "error", **REFUSED)
    for event in site.story.seen[-2:]:
        site.feed.record(event, site.story.node)
    whole = Api(site.url).get(f"/api/nodes/{MAC}")
    assert yaml.safe_load(site.run("node", MAC, "-o", "yaml").output) == whole
    assert site.run("node", MAC, "-o", "name").output == "node-1\n"
    assert site.run("node", MAC, "-o", "wide").output.startswith("node-1")
    events = Api(site.url).get("/api/events")
    assert list(yaml.safe_load_all(site.run("events", "-o", "yaml").output)) == events
    assert site.run("events", "-o", "name").output == "1\n2\n"
    assert SAID in site.run("events", "-o", "wide").output


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"code": "bad_query", "detail": "phase= is x", "hint": "say y"}, ("phase= is x", "say y")),
        ({"code": "server_failed", "detail": "it failed", "hint": "look"}, ("it failed", "look")),
        ({"error": "of an older server"}, ("of an older server", "--version")),
        ({"code": "new", "detail": "a\x1b[2Jb"}, (": a?[2Jb", "--version")),
        (["x"], (": [", "--version")),
    ],
)
def test_an_error_of_the_api_is_told_with_its_hint(body: Any, words: tuple[str, ...]) -> None:
    text = json.dumps(body).encode()
    server = serve(status=400, body=text, content_type="application/problem+json")
    done = run_against(server, "nodes")
    assert done.exit_code == 1
    assert all(one in done.output for one in words), done.output


def test_a_path_that_the_server_has_not_is_no_missing_node() -> None:
    body = json.dumps({"code": "no_such_path", "detail": "the API has no path"}).encode()
    server = serve(status=404, body=body, content_type="application/problem+json")
    done = run_against(server, "node", MAC)
    assert "no bootfarm server of this version: it answered 404: the API has no path" in done.output


@pytest.mark.parametrize(
    "name",
    [
        *(MAC, MAC.upper().replace(":", "-"), "525400000001", "5254.0000.0001"),
        *("10.9.0.11", "Node-1", "sn-1"),
    ],
)
def test_node_by_any_of_its_names(site: Site, name: str) -> None:
    site.story.to_join().beacon("network", serial="SN-1").beacon("join", SAID, "error", **REFUSED)
    done = site.run("node", name, "--events", "3")
    assert done.exit_code == 0, done.output
    assert "to check:" in done.output
    assert "Its last 3 events:" in done.output
    assert site.run("node", name, "--exit-code").exit_code == cli.TROUBLE
    assert json.loads(site.run("node", name, "--json").output)["mac"] == MAC


def test_a_nodes_kernel_log(site: Site) -> None:
    site.story.to_ready()
    assert "No line of its kernel came" in site.run("node", MAC, "--log", "5").output
    site.web.logbook.add(MAC, 1, "netconsole", [LogLine("one"), LogLine("two")], 1000.0)
    output = site.run("node", MAC, "--log", "1").output
    assert "Kernel and syslog, this boot:" in output
    assert output.endswith("netconsole  two\n")
    log = json.loads(site.run("node", MAC, "--log", "1", "--json").output)["log"]
    assert [line["text"] for line in log["boots"][0]["lines"]] == ["one", "two"]


def test_a_node_that_nobody_has_seen(site: Site) -> None:
    done = site.run("node", "52:54:00:00:00:99")
    assert done.exit_code == 1
    assert "has not seen a node '52:54:00:00:00:99'" in done.output
    assert "hint: `bootfarm nodes` lists" in done.output


def test_two_nodes_of_one_name(site: Site) -> None:
    site.story.nodes._identify = lambda ip: (f"52:54:00:00:01:{ip[-2:]}", "twin")
    for ip in ("10.9.0.11", "10.9.0.12"):
        site.emit(Event(1.0, ip, "tftp", "transfer", {"path": BIOS}))
    done = site.run("node", "twin")
    assert done.exit_code == 1
    assert "2 nodes are called 'twin': 52:54:00:00:01:1" in done.output


def test_events(site: Site) -> None:
    for number in range(30):
        site.emit(Event(number, "10.9.0.11", "tftp", "transfer", {"path": BIOS, "n": number}))
    site.emit(Event(99.0, "10.9.0.77", "nbd", "attach", {"export": "x"}))
    lines = site.run("events").output.splitlines()
    assert len(lines) == 20
    assert "10.9.0.77  nbd  root  x" in lines[-1]
    assert site.run("events", "--limit", "1").output.count("\n") == 1
    (line,) = site.run("events", "--limit", "1", "--json", "--node", MAC).output.splitlines()
    assert json.loads(line)["detail"]["n"] == 29
    assert site.run("events", "--node", "no-such").exit_code == 1
    unseen = site.run("events", "--node", "52:54:00:00:00:99")  # it may come: --follow waits for it
    assert (unseen.exit_code, unseen.stdout) == (0, "")
    assert "no such event since the server's start" in unseen.stderr


def test_events_that_are_wanted(site: Site) -> None:
    site.story.to_join().beacon("join", SAID, "error", **REFUSED)
    for event in site.story.seen:
        site.feed.record(event, site.story.node)
    (line,) = site.run("events", "--errors").stdout.splitlines()
    assert SAID in line
    assert "  node-1  " in line, "by name"
    assert MAC not in line
    output = site.run("events", "--source", "tftp").stdout
    assert output.count("\n") == output.count("  tftp  ") > 0
    (attached,) = site.run("events", "--source", "nbd").stdout.splitlines()
    assert f"amd64@{'a' * 12}" in attached
    assert "a" * 13 not in attached
    assert site.run("events", "--since", "1h").stdout == ""
    assert "write a number and s, m, h or d" in site.run("events", "--since", "later").output


def test_filters_are_the_servers(site: Site) -> None:
    site.story.to_join().beacon("join", SAID, "error", **REFUSED)
    assert "node-1" in site.run("nodes", "--state", "look,ready").output
    assert "node-1" not in site.run("nodes", "--states", "ready,off").output
    assert "node-1" in site.run("nodes", "--phase", "join", "--cause", "token-expired").output
    assert "node-1" in site.run("nodes", "--image", "amd64", "--sort", "label.rack").output
    assert "node-1" not in site.run("nodes", "--image", "old").output
    assert site.run("nodes", "-o", "name").output == "node-1\n"
    causes = site.run("nodes", "-o", "causes").output
    assert causes == "    1  kubeadm join: token expired or never made.  node-1\n"
    site.run("nodes", "x", "--label", "rack=r1", "--label", "unit=3", "-o", "name")
    assert site.requests[-1].query == {
        "state": "look,booting,unseen,ready,off",
        "sort": "trouble",
        "label.rack": "r1",
        "label.unit": "3",
        "q": "x",
    }
    for wrong, words in (
        (["--state", "lost"], "'lost' is none of look, booting"),
        (["--sort", "colour"], "'colour' is none of trouble, name"),
        (["--label", "rack"], "write NAME=VALUE"),
        (["--label", "rack=r1", "--label", "rack=r2"], "rack stands twice"),
        (["--image", ""], "it is empty: leave it out, or say which"),
        (["--state", ","], "it is empty"),
        (["--cause", " "], "it is empty"),
        (["--watch", "--interval", "nan"], "'nan' is not a number"),
        (["--cause", "token-expird"], "did you mean 'token-expired'?"),
        (["--watch", "-o", "name"], "--watch is for people"),
    ):
        done = site.run("nodes", *wrong)
        assert done.exit_code == 2
        assert words in done.output


@pytest.mark.parametrize("name", ["", " ", "/", "n1/log", "../nodes"])
def test_a_name_that_no_machine_can_have_asks_nothing_else(site: Site, name: str) -> None:
    site.story.to_ready()
    for command in (["node"], ["forget"], ["note"], ["events", "--node"]):
        done = site.run(*command, name)
        assert done.exit_code in (1, 2)
        assert "has not seen a node" in done.output or "it is empty" in done.output
    assert len(site.story.nodes) == 1


def test_how_old_a_machine_has_to_be(site: Site) -> None:
    for span in ("0", "59s"):
        done = site.run("forget", "--older-than", span)
        assert done.exit_code == 2
        assert "a minute at least" in done.output
    assert site.run("events", "--source", "").exit_code == 2


def test_what_the_server_calls_wrong_is_told_in_its_words() -> None:
    body = b'{"error":"state= is some of look,ready, not \'lost\'"}'
    done = run_against(serve(status=400, body=body, content_type="application/json"), "nodes")
    assert done.exit_code == 1
    assert "state= is some of look,ready, not 'lost'" in done.output
    assert "no bootfarm server" not in done.output


def test_a_word_that_can_fit_no_machine_is_no_empty_list(site: Site) -> None:
    site.story.to_ready()
    inventory = Inventory((Machine("52:54:00:00:00:07", labels=(("rack", "r1"),)),))
    site.web = replace(site.web, overview=Overview(site.story.nodes, inventory=lambda: inventory))
    for wrong, words in (
        (
            ("--image", "amd65"),
            "neither the store nor a machine has it; there are amd64@aaaaaaaaaaaa",
        ),
        (("--image", "amd64:canary"), "neither the store nor a machine has it"),
        (("--label", "rakc=r1"), "the inventory has no label of that name; it has rack"),
        (("--label", "rack=r9"), "no machine has that; there are r1"),
    ):
        for more in ((), ("--json",), ("-o", "name"), ("-o", "causes"), ("--watch",)):
            done = site.run("nodes", *wrong, *more)
            assert done.exit_code == 1, more
            assert words in done.stderr
            assert done.stdout == ""
    done = site.run("nodes", "--sort", "label.rakc")
    assert done.exit_code == 0
    assert "node-1" in done.stdout
    assert "note: 'sort=label.rakc': the inventory has no label of that name" in done.stderr
    assert site.run("nodes", "no-such", "--label", "rack=r1", "-o", "name").exit_code == 0
    assert site.run("nodes", "--image", "old").exit_code == 0
    done = site.run("events", "--source", "tfpt")
    assert done.exit_code == 2
    assert "'tfpt' is no source of events: did you mean 'tftp'?" in done.output


def test_a_note_on_a_machine_that_was_never_seen(site: Site) -> None:
    inventory = Inventory((Machine("52:54:00:00:00:07", None, "r1-n7"),))
    site.web = replace(site.web, overview=Overview(site.story.nodes, inventory=lambda: inventory))
    wrote = site.run("note", "r1-n7", "board is ordered", "--maintenance")
    assert (wrote.exit_code, wrote.output) == (0, "in maintenance: board is ordered\n")
    assert "in maintenance: board is ordered" in site.run("nodes").output
    assert "note:    board is ordered" in site.run("node", "r1-n7").output
    assert site.run("note", "r1-n7").output == "in maintenance: board is ordered\n"
    assert site.run("forget", "r1-n7").output == "forgotten: 1 machine\n"
    assert site.run("note", "r1-n7").output == "no note\n"


def test_machines_are_forgotten(site: Site) -> None:
    site.story.to_ready()
    site.emit(Event(5.0, "10.9.0.77", "beacon", "ready", {"status": "ok"}))
    done = site.run("forget", "no-such")
    assert done.exit_code == 1
    assert "has not seen a node 'no-such'" in done.output
    assert site.run("forget").exit_code == 2
    assert len(site.story.nodes) == 2
    assert site.run("forget", "node-1").output == "forgotten: 1 machine\n"
    assert site.run("nodes", "-o", "name").output == "10.9.0.77\n"
    assert site.run("forget", "--played", "--json").output == '{"forgotten": 0}\n'
    assert site.run("forget", "--older-than", "1d").output == "forgotten: 1 machine\n"
    assert len(site.story.nodes) == 0


def test_notes_and_maintenance(site: Site) -> None:
    site.story.to_ready()
    assert site.run("note", "node-1").output == "no note\n"
    wrote = site.run("note", "node-1", "disk ordered", "--maintenance")
    assert wrote.output == "in maintenance: disk ordered\n"
    assert "in maintenance: disk ordered" in site.run("nodes").output
    assert "note:    disk ordered" in site.run("node", "node-1").output
    done = site.run("note", "node-1", "", "--no-maintenance", "--json")
    assert json.loads(done.output) == {"note": "", "maintenance": False}
    assert site.run("note", "node-1", "x" * 201).exit_code == 2
    assert site.run("note", "no-such", "x").exit_code == 1


def test_only_the_servers_own_machine_forgets_without_a_token() -> None:
    body = b"only from the server's own machine, as long as there is no token_file\n"
    server = serve(status=403, body=body, do_DELETE=Foreign.do_GET, content_type="text/plain")
    done = run_against(server, "forget", "--played")
    assert done.exit_code == 1
    assert "only from the server's own machine" in done.output
    assert "hint: run it there" in done.output


def test_events_are_followed_as_they_come_and_from_where_one_was(site: Site) -> None:
    site.emit(Event(1.0, "10.9.0.11", "tftp", "transfer", {"path": BIOS, "n": 1}))
    given = events._follow(Api(site.url), {}, "")
    emitter = threading.Thread(target=_emit_when_followed, args=(site,))
    emitter.start()
    assert json.loads(next(given))["detail"]["n"] == 2
    emitter.join(20)
    site.emit(Event(3.0, "10.9.0.11", "tftp", "transfer", {"path": BIOS, "n": 3}))
    assert json.loads(next(given))["detail"]["n"] == 3
    given.close()
    again = events._follow(Api(site.url), {}, "1")
    assert [json.loads(next(again))["detail"]["n"] for _ in range(2)] == [2, 3]
    again.close()


def _emit_when_followed(site: Site) -> None:
    while not site.feed._followers:
        threading.Event().wait(0.005)
    site.emit(Event(2.0, "10.9.0.11", "tftp", "transfer", {"path": BIOS, "n": 2}))


def test_follow_takes_up_a_stream_that_ends_and_ends_by_control_c(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    naps: list[float] = []

    class Stream(Foreign):
        def do_GET(self) -> None:
            asked.append(self.path)
            follows = "follow=1" in self.path
            number = len(asked)
            text = f'id: {number}\ndata: {{"id": {number}, "source": "s{number}"}}\n\n'
            self.body = text.encode() if follows else b"[]"
            self.content_type = "text/event-stream" if follows else "application/json"
            super().do_GET()

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            raise KeyboardInterrupt

    server = http.server.HTTPServer(("127.0.0.1", 0), Stream)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(time, "sleep", nap)
    done = run_against(server, "events", "--follow", "--json")
    assert done.exit_code == 0
    assert '{"id": 2, "source": "s2"}\n' in done.output
    assert '{"id": 3, "source": "s3"}\n' in done.output
    assert asked[0] == "/api/events?limit=20"
    assert asked[1:] == ["/api/events?follow=1", "/api/events?follow=1&since=2"]
    assert naps == [events.AGAIN_SECONDS] * 2
    assert "the server ended the stream; trying again" in done.output


def test_watch_shows_it_again_and_outlives_a_server_that_is_away(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.story.to_ready()
    real, calls = Api.get, []

    def get(api: Api, path: str, query: Any = None) -> Any:
        calls.append(path)
        if len(calls) == 2:
            raise LostError("http://x: Connection refused")
        return real(api, path, query)

    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Api, "get", get)
    monkeypatch.setattr(time, "sleep", nap)
    done = site.run("nodes", "--watch", "--interval", "7")
    assert done.exit_code == 0
    assert done.output.count("1 nodes, 1 ready") == 2
    assert "Connection refused; trying again" in done.output
    assert naps == [7.0] * 3
    assert site.run("nodes", "--watch", "--json").exit_code == 2


def test_no_server_there() -> None:
    server = serve()
    port = server.server_port
    server.shutdown()
    server.server_close()
    for words in (["nodes"], ["node", MAC], ["events"], ["events", "--follow"]):
        done = CliRunner().invoke(main, [*words, "--server", f"http://127.0.0.1:{port}"])
        assert done.exit_code == 1
        assert f"127.0.0.1:{port}: Connection refused" in done.output
        assert "hint: does `bootfarm serve` run there?" in done.output


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"status": 401}, "wants a token (401)"),
        ({"status": 421, "body": b"not known as 'boot'"}, "not known as 'boot'"),
        ({}, "its answer is no JSON"),
        ({"body": b"{}", "content_type": "application/json"}, "no bootfarm server"),
        ({"status": 404}, "it answered 404: <html>hello"),
        ({"status": 500, "body": b"a\x1b[2J\nb"}, "it answered 500: a?[2J"),
        ({"status": 503, "body": b"full"}, "is busy (503): full"),
    ],
)
def test_servers_that_are_none_or_want_a_token(attributes: dict[str, object], words: str) -> None:
    done = run_against(serve(**attributes), "nodes")
    assert done.exit_code == 1
    assert words in done.output
    assert "hint:" in done.output


def test_a_stream_that_is_none() -> None:
    server = serve(body=b"[]", content_type="application/json")
    done = run_against(server, "events", "--follow")
    assert done.exit_code == 1
    assert "it does not stream events" in done.output


def test_token_and_server_from_the_environment(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOOTFARM_SERVER", site.url)
    monkeypatch.setenv("BOOTFARM_TOKEN", "s3cret")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert CliRunner().invoke(main, ["nodes"]).exit_code == 0
    assert site.requests[-1].headers["authorization"] == "Bearer s3cret"
    assert CliRunner().invoke(main, ["nodes", "--token", "other"]).exit_code == 0
    assert site.requests[-1].headers["authorization"] == "Bearer other"
    monkeypatch.delenv("BOOTFARM_TOKEN")
    assert CliRunner().invoke(main, ["nodes"]).exit_code == 0
    assert "authorization" not in site.requests[-1].headers


def test_a_password_in_the_address() -> None:
    with pytest.raises(ServerError, match="holds a name or a password") as caught:
        Api("http://root:calvin@10.9.0.1:8080")
    assert "calvin" not in str(caught.value)
    assert "BOOTFARM_TOKEN" in caught.value.hint


@pytest.mark.parametrize(
    "url", ["", "ftp://x", "http://", "http://x:99999", "http://[x", "http://x#y"]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ServerError, match="is no address of a server"):
        Api(url)


def test_a_token_with_a_line_end() -> None:
    with pytest.raises(ServerError, match="characters that no token has"):
        Api("http://127.0.0.1:1", "abc\n")
