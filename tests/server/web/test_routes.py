import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest

from server.content import BytesContent, Content, FileContent, NotFound, Refused
from server.events import Event
from server.farm.inventory import Inventory, Machine
from server.machines.identity import make_identifier
from server.nodes.node import NOTE_MAX
from server.nodes.timelines import Nodes
from server.observe.overview import Overview
from server.protocols.http import FileRange, Request, Response
from server.protocols.logs import LogLine
from server.web.access import Access
from server.web.listing import Listing
from server.web.routes import handle
from server.web.web import Web

IP, MAC = "10.9.0.11", "52:54:00:00:00:01"
INVENTORY = Inventory((Machine(MAC, IP, "node-1"),))


def lookup(path: str, client: str, mac: str | None) -> Content:
    match path:
        case "/ltsp/amd64/lts.conf":
            return BytesContent(f"{client} {mac}".encode())
        case "/ltsp/amd64/vmlinuz":
            return FileContent(Path("/store/vmlinuz"), 7)
        case "/ltsp/amd64/refused":
            raise Refused("not yours")
    raise NotFound("no such file")


class Site:
    def __init__(self, tmp_path: Path) -> None:
        (tmp_path / "arp").write_text("")
        identifier = make_identifier(INVENTORY, {}, None, tmp_path / "arp")

        def identify(ip: str) -> tuple[str | None, str | None]:
            identity = identifier.identify(ip)
            return identity.mac, identity.hostname

        self.nodes = Nodes(identify)
        self.events: list[Event] = []
        self.allowed = True
        self.problems: list[str] = []
        self.web = Web(
            listing=Listing(lambda: 0.0),  # however slow this machine is, no answer is kept
            lookup=lookup,
            identifier=identifier,
            nodes=self.nodes,
            overview=Overview(self.nodes),
            health=lambda: {"status": "ok", "problems": self.problems, "images": {}},
            emit=self.emit,
            allow=lambda client: self.allowed,
            clock=lambda: 5000.0,
        )

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self.nodes.record(event)

    def ask(
        self,
        path: str,
        method: str = "GET",
        query: Mapping[str, str] | None = None,
        client: str = IP,
        body: bytes = b"",
        content_type: str = "application/x-www-form-urlencoded",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        sent = {"content-type": content_type, **(headers or {})}
        path, _, words = path.partition("?")
        asked = query or dict(parse_qsl(words))
        return handle(self.web, Request(method, path, asked, sent, body, client))

    def beacon(self, client: str = IP, **fields: str) -> Response:
        return self.ask("/beacon", "POST", client=client, body=urlencode(fields).encode())

    def json(self, path: str) -> Any:
        response = self.ask(path)
        assert isinstance(response.body, bytes)
        return json.loads(response.body)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_boot_tree(site: Site) -> None:
    conf = site.ask("/ltsp/amd64/lts.conf", query={"mac": MAC})
    assert (conf.status, conf.body) == (200, f"{IP} {MAC}".encode())
    assert conf.transfer == "/ltsp/amd64/lts.conf"
    kernel = site.ask("/ltsp/amd64/vmlinuz")
    assert kernel.body == FileRange(Path("/store/vmlinuz"), 0, 7)
    assert kernel.etag
    assert kernel.etag != conf.etag
    assert site.ask("/ltsp/amd64/vmlinuz", "HEAD").transfer == ""
    assert site.ask("//ltsp/amd64/vmlinuz").body == kernel.body, "as GRUB and some firmware ask"
    assert site.ask("/ltsp/amd64/nothing").status == 404
    assert site.ask("/ltsp/amd64/refused").status == 403


@pytest.mark.parametrize(
    "path", ["/nothing", "/ltsp", "/api", "/api/nodes/x/y", "/healthz/x", "//x"]
)
def test_nothing_else_is_here(site: Site, path: str) -> None:
    assert site.ask(path).status == 404


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("/beacon", "GET", "POST"),
        ("/", "POST", "GET, HEAD"),
        ("/api/events", "DELETE", "GET, HEAD"),
    ],
)
def test_other_methods(site: Site, path: str, method: str, allowed: str) -> None:
    response = site.ask(path, method)
    assert response.status == 405
    assert ("Allow", allowed) in response.headers


def test_health_and_time(site: Site) -> None:
    assert site.json("/healthz")["status"] == "ok"
    assert site.ask("/api/time").body == b"5000.000\n"


def test_a_beacon_goes_to_the_asking_nodes_timeline(site: Site) -> None:
    response = site.beacon(
        mac=MAC, phase="rcfile", status="error", detail="RCFILE_07: exit 1", boot="b"
    )
    assert (response.status, response.body) == (204, b"")
    assert site.events == [
        Event(
            5000.0,
            IP,
            "beacon",
            "rcfile",
            {"status": "error", "detail": "RCFILE_07: exit 1", "boot": "b"},
        )
    ]
    (summary,) = site.json("/api/nodes")
    assert summary["error"] == "rcfile: RCFILE_07: exit 1"
    node = site.json(f"/api/nodes/{MAC}")
    assert node["boot"]["phases"]["rcfile"]["status"] == "error"
    assert node["events"][0]["detail"]["detail"] == "RCFILE_07: exit 1"
    assert site.json("/api/nodes/52:54:00:00:00:99")["error"] == "no such node was seen"


def test_a_corrupt_image_is_a_fact_of_the_boot(site: Site) -> None:
    facts = {"cause": "image_corrupt", "corrupted": "data 17089, hash 61004", "served": "10.9.0.2"}
    assert (
        site.beacon(mac=MAC, phase="root", status="error", detail="2 blocks", **facts).status == 204
    )
    boot = site.json(f"/api/nodes/{MAC}")["boot"]
    assert boot["phases"]["root"]["cause"] == "image_corrupt"
    assert boot["facts"]["corrupted"] == "data 17089, hash 61004"
    assert boot["facts"]["served"] == "10.9.0.2"


def test_a_beacon_for_another_node_is_refused(site: Site) -> None:
    response = site.beacon(mac="52:54:00:00:00:02", phase="join")
    assert response.status == 403
    assert site.events == []


def test_a_beacon_of_a_stranger_is_kept_under_its_address(site: Site) -> None:
    assert site.beacon(client="10.9.0.99", mac=MAC, phase="join").status == 204
    assert site.events[0].node == "10.9.0.99"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "unknown phase"),
        ({"phase": "kernel"}, "unknown phase"),
        ({"phase": "join", "status": "maybe"}, "unknown status"),
        ({"phase": "join", "extra": "x"}, "unknown field"),
        ({"phase": "initramfs", "memory": "much"}, "is no number of MiB"),
        ({"phase": "initramfs", "memory": "-1"}, "is no number of MiB"),
        ({"phase": "space"}, "goes with the phase space"),
        ({"phase": "join", "space": "/:1:1:1"}, "goes with the phase space"),
        ({"phase": "space", "space": "/:1:1"}, "is not PATH:PERCENT:FILES:MIB"),
        ({"phase": "space", "space": "/:1:1:-1"}, "has no three numbers"),
        ({"phase": "space", "space": "/:1:1:1 " * 9}, "more than 8 file systems"),
        ({"phase": "join", **{f"f{n}": "x" for n in range(40)}}, "not a form"),
    ],
)
def test_a_bad_beacon(site: Site, fields: dict[str, str], words: str) -> None:
    response = site.beacon(**fields)
    assert response.status == 400
    assert isinstance(response.body, bytes)
    assert words in response.body.decode()


def test_a_beacon_of_another_type_or_too_many(site: Site) -> None:
    body = json.dumps({"phase": "join"}).encode()
    assert site.ask("/beacon", "POST", body=body, content_type="application/json").status == 400
    site.allowed = False
    assert site.beacon(phase="join").status == 429


def test_a_beacon_tells_memory_and_serial_number_of_the_machine(site: Site) -> None:
    assert site.beacon(mac=MAC, phase="initramfs", memory="2048", serial="SN\n1").status == 204
    site.beacon(mac=MAC, phase="network", memory="", serial="")
    facts = site.json(f"/api/nodes/{MAC}")["boot"]["facts"]
    assert facts == {"memory": 2048, "serial": "SN 1"}
    assert site.beacon(mac=MAC, phase="initramfs", memory="9999999999").status == 204
    assert site.events[-1].detail["memory"] == 1 << 30


def test_a_beacon_tells_how_full_the_file_systems_are(site: Site) -> None:
    site.beacon(mac=MAC, phase="initramfs", boot="b")
    told = "/:63:2:650 /srv/data:7:97:2048"
    assert site.beacon(mac=MAC, phase="space", status="ok", boot="b", space=told).status == 204
    node = site.json(f"/api/nodes/{MAC}")
    assert node["boot"]["facts"] == {"space": told, "space_at": 5000.0}
    assert [event["phase"] for event in node["events"]] == ["initramfs"]
    assert node["finding"]["rule"] == "disk-full"


def test_what_a_beacon_says_is_bounded_and_printable(site: Site) -> None:
    site.beacon(phase="join", detail="a\x00b\x1b[2Jc" + "x" * 3000, boot="y" * 300)
    detail = site.events[0].detail
    assert str(detail["detail"]).startswith("a b [2Jc")
    assert len(str(detail["detail"])) == 1000
    assert len(str(detail["boot"])) == 64


def test_the_api_says_what_is_the_matter(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.beacon(mac=MAC, phase="root", status="error", detail="no root: x", cause="nbd_refused")
    (row,) = site.json("/api/nodes")
    assert row["finding"]["rule"] == "nbd-unreachable"
    assert row["finding"]["severity"] == "error"
    assert "NBD port 10809 of the server refuses" in row["finding"]["headline"]
    assert site.json(f"/api/nodes/{MAC}")["finding"] == row["finding"]
    site.beacon(mac=MAC, phase="root", status="ok", detail="RAM")
    assert site.json("/api/nodes")[0]["finding"] is None
    assert site.json(f"/api/nodes/{MAC}")["finding"] is None


def test_a_list_that_took_long_is_given_again_for_a_while() -> None:
    now = [0.0]
    made: list[int] = []

    def make(cost: float) -> Callable[[], Response]:
        def work() -> Response:
            now[0] += cost
            made.append(len(made))
            return Response(200, b"%d" % made[-1])

        return work

    listing = Listing(lambda: now[0])
    assert [listing.get({}, make(0.01)).body for _ in range(3)] == [b"0", b"1", b"2"]
    assert listing.get({}, make(0.5)).body == b"3"
    assert listing.get({"state": "look"}, make(0.01)).body == b"4", "another question"
    now[0] += 9.9
    assert listing.get({}, make(0.5)).body == b"3"
    now[0] += 0.2
    assert listing.get({}, make(0.01)).body == b"5"
    assert listing.get({}, make(0.01)).body == b"6"


def test_nodes_by_filter_and_what_is_the_matter(site: Site) -> None:
    site.beacon(mac=MAC, phase="join", status="error", detail="try 1: x")
    site.nodes.record(Event(4990.0, "10.9.0.12", "beacon", "ready", {"status": "ok"}))
    assert [node["ip"] for node in site.json("/api/nodes?state=ready")] == ["10.9.0.12"]
    assert len(site.json("/api/nodes?limit=1")) == 1
    assert site.json("/api/nodes?phase=join")[0]["state"] == "look"
    told = site.json("/api/overview")
    assert told["total"] == 2
    assert told["states"]["ready"] == told["states"]["look"] == 1
    (cause,) = told["causes"]
    assert cause["count"] == 1
    assert cause["nodes"] == [MAC]
    assert site.json(f"/api/nodes?cause={cause['cause']}")[0]["mac"] == MAC
    assert site.json("/api/overview?state=ready")["causes"] == []


def test_a_node_is_forgotten_by_who_may(site: Site) -> None:
    site.beacon(mac=MAC, phase="ready")
    site.web.logbook.add(MAC, 1, "netconsole", [LogLine("one")], 1000.0)
    for client in ("10.9.0.99", IP):
        assert site.ask(f"/api/nodes/{MAC}", "DELETE", client=client).status == 403
    here = "127.0.0.1"
    assert site.ask("/api/nodes/52:54:00:00:00:99", "DELETE", client=here).status == 404
    assert site.ask("/api/nodes", "DELETE", client=here).status == 400
    assert site.ask("/api/nodes?older_than=5", "DELETE", client=here).status == 400
    answer = site.ask(f"/api/nodes/{MAC}", "DELETE", client=here)
    assert (answer.status, answer.body) == (200, b'{"forgotten":1}\n')
    assert site.json("/api/nodes") == []
    assert site.web.logbook.boots(MAC) == []
    for ip, at in (("10.9.0.12", 100.0), ("10.9.0.13", 4999.0), ("127.64.0.9", 4999.0)):
        site.nodes.record(Event(at, ip, "beacon", "ready", {"status": "ok"}))
    assert site.ask("/api/nodes?older_than=3600", "DELETE", client=here).body == (
        b'{"forgotten":1}\n'
    )
    assert site.ask("/api/nodes?state=played", "DELETE", client=here).body == (b'{"forgotten":1}\n')
    assert [node["ip"] for node in site.json("/api/nodes")] == ["10.9.0.13"]


def test_with_a_token_who_has_it_may_forget(site: Site) -> None:
    token = b"a-token-of-many-letters"
    web = dataclasses.replace(site.web, access=Access(lambda: token))
    site.beacon(mac=MAC, phase="ready")

    def forget(**headers: str) -> int:
        path = f"/api/nodes/{MAC}"
        return handle(web, Request("DELETE", path, {}, headers, b"", "127.0.0.1")).status

    assert forget() == 401
    assert forget(authorization="Bearer another") == 401
    assert len(site.nodes) == 1
    assert forget(authorization=f"Bearer {token.decode()}") == 200
    assert len(site.nodes) == 0


def test_a_note_and_maintenance(site: Site) -> None:
    def put(key: str, client: str = "127.0.0.1", **query: str) -> int:
        return handle(site.web, Request("PUT", f"/api/nodes/{key}", query, {}, b"", client)).status

    assert put(MAC, note="x") == 404, "nothing was heard of it"
    site.beacon(mac=MAC, phase="root", status="error", detail="no export")
    assert put(MAC, client=IP, note="x") == 403
    assert put(MAC) == 400
    assert put(MAC, maintenance="yes") == 400
    assert put("nosuch", note="x") == 404
    assert put(MAC, note="disk ordered\x1b[31m\n" + "x" * 1000, maintenance="1") == 200
    (row,) = site.json("/api/nodes")
    assert row["maintenance"] is True
    assert row["note"].startswith("disk ordered[31mxxx")
    assert len(row["note"]) == NOTE_MAX
    assert put(MAC, note="") == 200
    (row,) = site.json("/api/nodes")
    assert (row["note"], row["maintenance"]) == ("", True)
    assert put(MAC, maintenance="0") == 200
    assert site.json("/api/nodes")[0]["maintenance"] is False


def test_another_sites_page_writes_no_note(site: Site) -> None:
    site.beacon(mac=MAC, phase="ready")
    headers = {"host": "127.0.0.1", "sec-fetch-site": "cross-site"}
    request = Request("PUT", f"/api/nodes/{MAC}", {"note": "x"}, headers, b"", "127.0.0.1")
    assert handle(site.web, request).status == 403


def test_who_says_that_it_plays_is_no_machine_unless_it_is_listed(site: Site) -> None:
    for ip in (IP, "10.9.0.12"):
        headers = {"user-agent": "bootfarm-simulate"}
        request = Request("GET", "/ltsp/amd64/lts.conf", {}, headers, b"", ip)
        assert handle(site.web, request).status == 200
        site.nodes.record(Event(4990.0, ip, "http", "transfer", {"file": "/ltsp/amd64/lts.conf"}))
    assert [node["ip"] for node in site.json("/api/nodes")] == [IP]
    assert [node["ip"] for node in site.json("/api/nodes?state=played")] == ["10.9.0.12"]


def test_what_is_not_here_is_told_with_a_way_home(site: Site) -> None:
    request = Request("GET", "/nothing", {}, {"accept": "text/html"}, b"", IP)
    answer = handle(site.web, request)
    assert answer.status == 404
    assert isinstance(answer.body, bytes)
    assert b'href="/"' in answer.body


OPERATORS = ["/", "/nodes/x", "/api/nodes", "/api/events", "//api/time", "/metrics", "/logout"]


@pytest.mark.parametrize("path", OPERATORS)
def test_a_page_that_was_led_here_by_another_name_reads_nothing(site: Site, path: str) -> None:
    answer = site.ask(path, headers={"host": "evil.example"})
    assert answer.status == 421
    assert site.ask(path, headers={"host": "10.9.0.1:8080"}).status == site.ask(path).status


@pytest.mark.parametrize(
    "path", ["/ltsp/amd64/lts.conf", "/ltsp/amd64/vmlinuz", "/api/time", "/healthz", "/livez"]
)
@pytest.mark.parametrize("host", ["evil.example", "", "?", None])
def test_what_boots_asks_under_any_name(site: Site, path: str, host: str | None) -> None:
    assert site.ask(path, headers={} if host is None else {"host": host}).status == 200


def test_only_our_own_pages_and_programs_write(site: Site) -> None:
    form = urlencode({"phase": "ready"}).encode()
    for headers in (
        {"host": "evil.example"},
        {"host": "10.9.0.1", "origin": "https://evil.example"},
        {"host": "10.9.0.1", "sec-fetch-site": "cross-site"},
    ):
        for path in ("/beacon", "/login"):
            assert site.ask(path, "POST", body=form, headers=headers).status in (403, 421)
    assert site.events == []
    assert site.ask("/beacon", "POST", body=form, headers={"host": "10.9.0.1"}).status == 204


def test_who_shows_the_token_may_use_any_name(site: Site) -> None:
    web = dataclasses.replace(site.web, access=Access(lambda: b"0123456789abcdef"))
    named = {"host": "scrape.example", "authorization": "Bearer 0123456789abcdef"}
    assert handle(web, Request("GET", "/api/nodes", {}, named, b"", IP)).status == 200
    for wrong in (
        {**named, "authorization": "Bearer 0123456789abcdeg"},
        {**named, "authorization": "Basic 0123456789abcdef"},
        {"host": "scrape.example"},
    ):
        assert handle(web, Request("GET", "/api/nodes", {}, wrong, b"", IP)).status == 421


def test_no_browser_reads_under_another_name_what_is_made_for_a_node(site: Site) -> None:
    browser = {"host": "evil.example", "accept-encoding": "gzip, deflate"}
    assert site.ask("/ltsp/amd64/lts.conf", headers=browser).status == 421
    assert site.ask("/ltsp/amd64/vmlinuz", headers=browser).status == 200
    assert site.ask("/ltsp/amd64/lts.conf", headers={**browser, "host": IP}).status == 200


def test_an_address_that_changes_its_machine_within_a_connection_gets_no_lts_conf(
    site: Site, tmp_path: Path
) -> None:
    """The neighbour table is flipped for a moment (attack F8)."""
    head = "IP address HW type Flags HW address Mask Device\n"
    other = "52:54:00:00:00:66"

    def ask(now: str, before: str, path: str = "/ltsp/amd64/lts.conf") -> int:
        (tmp_path / "arp").write_text(head + (f"{IP} 0x1 0x2 {now} * br0\n" if now else ""))
        identifier = make_identifier(INVENTORY, {}, None, tmp_path / "arp")
        web = dataclasses.replace(site.web, identifier=identifier)
        return handle(web, Request("GET", path, {}, {}, b"", IP, before)).status

    assert ask(MAC, MAC) == 200
    assert ask(MAC, other) == 403
    assert ask(MAC, other, "/ltsp/amd64/vmlinuz") == 200
    assert ask(MAC, IP) == 200, "no neighbour when it connected"
    assert ask("", MAC) == 200, "the table has forgotten it"


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"state": "redy"}, "state= is some of "),
        ({"state": "ready,bootin"}, "not 'bootin'"),
        ({"phase": "rooot"}, "phase= is one of "),
        ({"sort": "nam"}, "sort= is one of "),
        ({"cause": "token-expird"}, "cause= is a rule of docs/diagnosis.md"),
        ({"limit": "-1"}, "limit= is a whole number"),
        ({"limit": "\u0662"}, "limit= is a whole number"),
    ],
)
def test_a_filter_that_is_none_gives_no_other_list(
    site: Site, query: dict[str, str], says: str
) -> None:
    for path in ("/api/nodes", "/api/overview"):
        answer = handle(site.web, Request("GET", path, query, {}, b"", IP))
        assert answer.status == 400
        assert isinstance(answer.body, bytes)
        assert says in json.loads(answer.body)["error"]
    fits = {"state": "ready,played", "phase": "root", "sort": "label.rack", "limit": "5"}
    assert handle(site.web, Request("GET", "/api/nodes", fits, {}, b"", IP)).status == 200


def test_a_word_that_can_fit_no_machine_is_told_beside_the_empty_list(site: Site) -> None:
    site.beacon(mac=MAC, phase="ready")
    for query, words in (
        ("image=amd65", "image='amd65': neither the store nor a machine has it; there are none"),
        ("label.r\u00e4ck=r1", "it has none (labels in farm.yaml)"),
        ("lable.rack=r1", "'lable.rack' is no filter and counts for nothing"),
    ):
        (note,) = site.json(f"/api/overview?{query}")["notes"]
        assert words in note
        answer = site.ask(f"/api/nodes?{query}")
        assert answer.status == 200, "a script that counts what has gone goes on"
        header = dict(answer.headers)["X-Bootfarm-Note"]
        assert header.isascii()
        assert header == note.encode("ascii", "backslashreplace").decode()
    ask = Request("GET", "/api/nodes", {"state": "ready"}, {}, b"", IP, doubled=("state",))
    header = dict(handle(site.web, ask).headers)["X-Bootfarm-Note"]
    assert header == "'state' stands more than once: only the last counts"
    assert site.json("/api/overview?state=ready&q=x")["notes"] == []
    assert "X-Bootfarm-Note" not in dict(site.ask("/api/nodes?state=ready&q=x").headers)


def test_a_note_on_a_machine_of_the_inventory_that_was_never_seen(site: Site) -> None:
    overview = Overview(site.nodes, inventory=lambda: INVENTORY)
    site.web = dataclasses.replace(site.web, overview=overview)

    def put(key: str, **query: str) -> Response:
        return handle(site.web, Request("PUT", f"/api/nodes/{key}", query, {}, b"", "127.0.0.1"))

    answer = put("node-1", note="comes in May", maintenance="1")
    assert (answer.status, answer.body) == (200, b'{"note":"comes in May","maintenance":true}\n')
    (row,) = site.json("/api/nodes?state=unseen")
    assert (row["mac"], row["note"], row["maintenance"]) == (MAC, "comes in May", True)
    assert overview.counts()["unseen"] == 1, "on the page it is one that was never seen"
    assert overview.gauge()["unseen"] == 0, "and none that an alert goes by"
    assert overview.gauge()["maintenance"] == 1
    site.beacon(phase="ready")
    (row,) = site.json("/api/nodes")
    assert (row["state"], row["note"]) == ("ready", "comes in May")
    assert overview.gauge()["ready"] == 0
    assert put("node-1", maintenance="0").status == 200
    overview.turn(5000.0)
    assert overview.gauge()["ready"] == 1
    assert put("52:54:00:00:00:99", note="x").status == 404
