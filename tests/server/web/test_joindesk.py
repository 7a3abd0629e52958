"""`POST /join` by the routes: who asks, what is answered, and what stands in the timeline."""

import base64
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from server.causes import CAUSES
from server.events import Event
from server.farm.inventory import Inventory, Machine
from server.farm.join import Join
from server.join.cluster import Cluster
from server.machines.identity import make_identifier
from server.nodes.timelines import Nodes
from server.observe.overview import Overview
from server.protocols.http import Request, Response
from server.web.access import Access
from server.web.joindesk import JoinDesk
from server.web.nodepage import describe_join
from server.web.routes import handle
from server.web.web import Web
from tests.server.join.cluster import BOOT, MAC, FakeApi, make_csr

IP, OTHER_IP, STRANGER_IP = "10.9.0.11", "10.9.0.12", "10.9.0.99"
OTHER = "52:54:00:00:00:02"
INVENTORY = Inventory((Machine(MAC, IP, "node-1"), Machine(OTHER, OTHER_IP, "node-2")))
ARP = f"""IP address HW type Flags HW address Mask Device
{IP} 0x1 0x2 {MAC} * eth0
{OTHER_IP} 0x1 0x2 {OTHER} * eth0
{STRANGER_IP} 0x1 0x2 52:54:00:00:00:99 * eth0
"""


class Site:
    """A server's routes with certificates, before a cluster in memory."""

    def __init__(self, directory: Path, settings: Join) -> None:
        self.arp = directory / "arp"
        self.arp.write_text(ARP)
        self.api = FakeApi()
        self.api.settings["now"] = time.time()
        self.allowed = True
        self.events: list[Event] = []
        identifier = make_identifier(INVENTORY, {}, None, self.arp)

        def identify(ip: str) -> tuple[str | None, str | None]:
            identity = identifier.identify(ip)
            return identity.mac, identity.hostname

        self.nodes = Nodes(identify)
        self.desk = JoinDesk(
            settings=settings,
            cluster=Cluster(self.api),
            identifier=identifier,
            inventory=lambda: INVENTORY,
            find_node=self.nodes.get,
            emit=self.emit,
            post=lambda action: action(),
            allow=lambda client: self.allowed,
        )
        self.web = Web(
            lookup=lambda path, client, mac: pytest.fail("the boot tree was asked"),
            identifier=identifier,
            nodes=self.nodes,
            overview=Overview(self.nodes),
            health=lambda: {"status": "ok", "problems": [], "images": {}},
            emit=self.emit,
            join=self.desk.answer,
        )

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self.nodes.record(event)

    def begin(self, ip: str = IP, boot: str = BOOT) -> None:
        """The machine boots, and says so."""
        detail = {"status": "ok", "boot": boot}
        self.emit(Event(time.time(), ip, "beacon", "initramfs", detail))
        self.emit(Event(time.time(), ip, "beacon", "join", {**detail, "status": "start"}))

    def ask(self, csr: str, ip: str = IP, boot: str = BOOT, card: str = "") -> Response:
        """One request; again while it is under way."""
        body = urlencode({"boot": boot, "csr": csr}).encode()
        headers = {"content-type": "application/x-www-form-urlencoded"}
        request = Request("POST", "/join", {}, headers, body, ip, card)
        end = time.monotonic() + 20
        while (response := handle(self.web, request)).status == 202:
            assert ("Retry-After", "1") in response.headers
            assert time.monotonic() < end
            time.sleep(0.01)
        return response

    def node(self, ip: str = IP) -> Any:
        node = self.nodes.get(ip)
        assert node is not None
        return node


def fields(response: Response) -> dict[str, str]:
    assert isinstance(response.body, bytes)
    lines = response.body.decode().splitlines()
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, Join(certificates=True))


def test_a_machine_gets_its_certificate(site: Site) -> None:
    site.begin()
    csr = make_csr("node-1")
    response = site.ask(csr, card=MAC)
    assert response.status == 200, response.body
    found = fields(response)
    assert set(found) == {"node", "api", "ca", "certificate"}
    assert (found["node"], found["api"]) == ("node-1", "https://a:6443")
    for name in ("ca", "certificate"):
        assert b"-----BEGIN CERTIFICATE-----" in base64.b64decode(found[name])
    assert fields(site.ask(csr)) == found
    (event,) = [event for event in site.events if event.source == "join"]
    assert (event.node, event.phase, event.detail["status"]) == (IP, "issued", "ok")
    # It is told in its timeline, and is no join yet.
    entry = site.node().events.last
    assert (entry["source"], entry["phase"], entry["what"]) == ("join", "join", "issued")
    boot = site.node().boot
    assert boot.phases["join"].status == "start"
    assert boot.facts["join_until"] == int(site.api.settings["now"]) + 600
    assert boot.facts["join_issued"] >= site.api.settings["now"]
    assert "joins by certificate issued" in describe_join(boot)
    assert "PRIVATE" not in str(site.events)
    page = handle(site.web, Request("GET", f"/nodes/{MAC}", {}, {}, b"", IP))
    assert isinstance(page.body, bytes)
    assert b"joins by certificate issued" in page.body


def test_refusals_in_the_servers_words(site: Site) -> None:
    site.begin()
    good = make_csr("node-1")
    for status, cause, csr, ip, card in (
        (400, "join_request", "garbage", IP, ""),
        (403, "join_name", make_csr("node-2"), IP, ""),
        (403, "join_not_listed", good, STRANGER_IP, ""),
        (403, "join_not_listed", good, "10.9.0.200", ""),
        # Who answered for the address when it connected is somebody else now.
        (403, "join_not_listed", good, IP, OTHER),
    ):
        response = site.ask(csr, ip, card=card)
        assert response.status == status, response.body
        assert fields(response)["cause"] == cause
        assert fields(response)["words"]
        event = site.events[-1]
        assert (event.source, event.phase, event.detail["cause"]) == ("join", "refused", cause)
        assert event.detail["message"] == fields(response)["words"]
    assert site.api.calls == []
    assert site.node().boot.phases["join"].errors == 0


def test_a_mac_in_the_request_counts_for_nothing(site: Site) -> None:
    body = urlencode({"boot": BOOT, "csr": make_csr("node-1"), "mac": MAC}).encode()
    headers = {"content-type": "application/x-www-form-urlencoded"}
    request = Request("POST", "/join", {"mac": MAC}, headers, body, STRANGER_IP)
    assert handle(site.web, request).status == 400


def test_another_key_of_the_boot(site: Site) -> None:
    site.begin()
    assert site.ask(make_csr("node-1")).status == 200
    response = site.ask(make_csr("node-1"))
    assert (response.status, fields(response)["cause"]) == (409, "join_twice")
    # Also when the cluster has removed its own objects, after an hour.
    site.api.csrs.clear()
    response = site.ask(make_csr("node-1"))
    assert (response.status, fields(response)["cause"]) == (409, "join_twice")
    assert site.api.csrs == {}
    # The next boot.
    site.begin(boot="the-boot-after-it")
    assert site.ask(make_csr("node-1"), boot="the-boot-after-it").status == 200


def test_a_made_up_boot_takes_nothing_from_the_real_one(site: Site) -> None:
    """A process on the node, before its join: the boot's own request is answered all the same."""
    site.begin()
    assert site.ask(make_csr("node-1"), boot="made-up-boot").status == 200
    assert site.ask(make_csr("node-1")).status == 200


def test_a_living_kubelet_and_what_is_told_of_it(site: Site) -> None:
    site.begin()
    site.emit(Event(time.time(), IP, "beacon", "ready", {"status": "ok", "boot": BOOT}))
    site.api.leases["node-1"] = {
        "metadata": {"resourceVersion": "1"},
        "spec": {"renewTime": time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())},
    }
    response = site.ask(make_csr("node-1"), boot="made-up-boot")
    assert (response.status, fields(response)["cause"]) == (403, "join_alive")
    assert site.events[-1].detail["cause"] == "join_alive"
    # The machine that runs is not in trouble for it.
    assert site.node().boot.error() == ""
    assert len(site.node().past) == 0


def test_a_lease_that_is_watched_is_no_failure(site: Site) -> None:
    site.begin()
    site.api.leases["node-1"] = {
        "metadata": {"resourceVersion": "1"},
        "spec": {"renewTime": "2020-01-01T00:00:00.000000Z"},
    }
    response = site.ask(make_csr("node-1"))
    assert response.status == 403
    found = fields(response)
    assert (found["cause"], found["wait"]) == ("join_watched", "5")
    event = site.events[-1]
    assert (event.phase, event.detail["status"]) == ("watched", "start")
    assert event.detail["message"] == found["words"]
    assert site.node().boot.error() == ""


def test_the_cluster_is_away(site: Site) -> None:
    site.begin()
    site.api.settings["down"] = True
    response = site.ask(make_csr("node-1"))
    assert (response.status, fields(response)["cause"]) == (503, "join_api")
    site.api.settings["down"] = False
    assert site.ask(make_csr("node-1")).status == 200


def test_who_asks_too_often(site: Site) -> None:
    site.allowed = False
    response = site.ask(make_csr("node-1"))
    assert (response.status, fields(response)["cause"]) == (429, "join_limit")


def test_off_is_said_in_words(site: Site) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    off = Web(
        lookup=site.web.lookup,
        identifier=site.web.identifier,
        nodes=site.nodes,
        overview=site.web.overview,
        health=dict,
        emit=site.emit,
    )
    response = handle(off, Request("POST", "/join", {}, headers, b"", IP))
    assert (response.status, fields(response)["cause"]) == (403, "join_off")
    assert "join: {certificates: true}" in fields(response)["words"]
    assert handle(off, Request("GET", "/join", {}, {}, b"", IP)).status == 405


def test_open_to_nodes_where_there_is_a_token_and_to_no_other_sites_page(site: Site) -> None:
    object.__setattr__(site.web, "access", Access(lambda: b"0123456789abcdef"))
    assert site.ask(make_csr("node-1")).status == 200
    body = urlencode({"boot": BOOT, "csr": "x"}).encode()
    foreign = {"origin": "https://evil.example", "host": "127.0.0.1:8080"}
    assert handle(site.web, Request("POST", "/join", {}, foreign, body, IP)).status == 403
    rebound = {"host": "evil.example"}
    assert handle(site.web, Request("POST", "/join", {}, rebound, body, IP)).status == 421


def test_each_refusal_has_its_status() -> None:
    from server.web.join import render_refusal

    statuses = {cause: render_refusal(cause, "x").status for cause in CAUSES["join"]}
    assert statuses == {
        **dict.fromkeys(("join_off", "join_not_listed", "join_name", "join_alive"), 403),
        "join_watched": 403,
        "join_request": 400,
        "join_twice": 409,
        "join_limit": 429,
        "join_api": 503,
    }
