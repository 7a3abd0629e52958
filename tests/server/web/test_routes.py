import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from server.content import BytesContent, Content, FileContent, NotFound, Refused
from server.events import Event
from server.identity import make_identifier
from server.inventory import Inventory, Machine
from server.nodes import Nodes
from server.overview import Overview
from server.protocols.http import FileRange, Request, Response
from server.web.routes import Listing, Web, handle

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
    ) -> Response:
        headers = {"content-type": content_type}
        return handle(self.web, Request(method, path, query or {}, headers, body, client))

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
    assert site.ask("/ltsp/amd64/nothing").status == 404
    assert site.ask("/ltsp/amd64/refused").status == 403


@pytest.mark.parametrize(
    "path", ["/nothing", "/ltsp", "/api", "/api/nodes/x/y", "/healthz/x", "//x"]
)
def test_nothing_else_is_here(site: Site, path: str) -> None:
    assert site.ask(path).status == 404


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [("/beacon", "GET", "POST"), ("/", "POST", "GET, HEAD"), ("/api/nodes", "DELETE", "GET, HEAD")],
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
    assert site.json("/api/nodes/52:54:00:00:00:99") == {"error": "no such node was seen"}


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
        ({"phase": "join", **{f"f{n}": "x" for n in range(9)}}, "not a form"),
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


def test_what_a_beacon_says_is_bounded_and_printable(site: Site) -> None:
    site.beacon(phase="join", detail="a\x00b\x1b[2Jc" + "x" * 3000, boot="y" * 300)
    detail = site.events[0].detail
    assert str(detail["detail"]).startswith("a b [2Jc")
    assert len(str(detail["detail"])) == 1000
    assert len(str(detail["boot"])) == 64


def test_the_api_says_what_is_the_matter(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.beacon(mac=MAC, phase="root", status="error", detail="no root: x (Connection refused)")
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
    assert [listing.get(make(0.01)).body for _ in range(3)] == [b"0", b"1", b"2"]
    assert listing.get(make(0.5)).body == b"3"
    now[0] += 9.9
    assert listing.get(make(0.5)).body == b"3"
    now[0] += 0.2
    assert listing.get(make(0.01)).body == b"4"
    assert listing.get(make(0.01)).body == b"5"
