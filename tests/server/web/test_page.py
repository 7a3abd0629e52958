"""The pages as a parser sees them; tests/server/web/test_browser.py has a browser's view."""

from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from imagebuild.store.images import Store
from server.events import Event
from server.farm.inventory import Inventory, Machine
from server.ltsconf import LtsConf, LtsTemplate, is_template
from server.machines.identity import make_identifier
from server.nodes.given import GivenValues, Printer
from server.nodes.node import Boot, Node, Phase
from server.nodes.timelines import Nodes
from server.observe.feed import Changes
from server.observe.overview import Overview
from server.observe.secrecy import Secrecy
from server.protocols.http import Request, Response
from server.quantities import name_age, name_size
from server.site import Site
from server.web.explainer import Explainer, Values
from server.web.nodepage import view_changes, view_phases
from server.web.page import GROUPS, ROWS
from server.web.rendering import format_span
from server.web.routes import handle
from server.web.web import Web
from tests.server.farm import publish

NOW = 5000.0
MAC, IP = "52:54:00:00:00:01", "10.9.0.11"
INVENTORY = Inventory((Machine(MAC, IP, "node-1", serial="SN-77"),))
PRINTER = Printer(b"k" * 32)
VOID = ("meta", "input", "link", "rect", "br")


class Page(HTMLParser):
    """A page's text, rows and links, and the tags that were opened and not closed."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        assert isinstance(response.body, bytes)
        self.source = response.body.decode()
        self.status = response.status
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(self.source)
        assert self.open == []
        assert len(self.ids) == len(set(self.ids)), "an id stands twice"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        known = dict(attrs)
        self.tags.append((tag, known))
        self.ids += [str(known["id"])] if "id" in known else []
        self.links += [str(known["href"])] if tag == "a" else []
        assert "style" not in known, "the policy forbids it"
        assert not any(name.startswith("on") for name in known)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    @property
    def rows(self) -> list[str]:
        return [one.removeprefix("n-") for one in self.ids if one.startswith("n-")]


class Farm:
    def __init__(self, tmp_path: Path) -> None:
        (tmp_path / "arp").write_text("")
        self.store = tmp_path / "store"
        self.image = publish(self.store, lts_defaults={"TIMEZONE": "UTC"})
        self.images = tuple(Store(self.store).images())
        identifier = make_identifier(INVENTORY, {}, None, tmp_path / "arp")

        def identify(ip: str) -> tuple[str | None, str | None]:
            identity = identifier.identify(ip)
            return identity.mac, identity.hostname

        self.nodes = Nodes(identify, limit=20_000)
        self.secrets: dict[str, Any] = {}
        self.secrecy = Secrecy(lambda: self.secrets)
        self.text = b""
        self.problems: list[str] = []
        self.inventory = INVENTORY
        self.overview = Overview(
            self.nodes, inventory=lambda: self.inventory, images=lambda: self.images
        )
        self.web = Web(
            lookup=lambda path, client, mac: pytest.fail("nothing is looked up"),
            identifier=identifier,
            nodes=self.nodes,
            overview=self.overview,
            health=lambda: {"status": "ok", "problems": self.problems, "images": {}},
            emit=lambda event: None,
            changes=Changes(),
            explainer=Explainer(self.site, identifier, self.secrecy, printer=PRINTER),
            clock=lambda: NOW,
        )

    def site(self) -> Site:
        conf = LtsTemplate.parse(self.text) if is_template(self.text) else LtsConf.parse(self.text)
        return Site(tuple(Store(self.store).images()), conf, secrets=self.secrets)

    def explain(self, node: Node) -> Values:
        assert self.web.explainer is not None
        return self.web.explainer.explain(node)

    def see(self, phase: str, ip: str = IP, time: float = NOW - 60, **detail: Any) -> None:
        event = self.secrecy.mask_event(Event(time, ip, "beacon", phase, {"status": "ok"} | detail))
        node = self.nodes.record(event)
        assert node is not None

    def settle(self) -> None:
        while self.overview.turn(NOW):
            pass

    def page(self, target: str = "/") -> Page:
        path, _, query = target.partition("?")
        request = Request("GET", path, dict(parse_qsl(query)), {}, b"", IP)
        return Page(handle(self.web, request))


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    return Farm(tmp_path)


def test_nobody_was_seen_yet(farm: Farm) -> None:
    farm.inventory = Inventory()
    assert "No node has been seen yet" in farm.page().text


def test_a_row_has_all_that_one_asks_for(farm: Farm) -> None:
    farm.see("kernel", path=f"/ltsp/amd64/@{farm.image.digest}/vmlinuz", time=NOW - 90)
    farm.see("join", status="error", detail="<script>alert(1)</script>")
    farm.problems.append("lts.conf refused: line 4")
    page = farm.page()
    for words in ("node-1", MAC, IP, "SN-77", "amd64", farm.image.digest[:12], "1 min", "line 4"):
        assert words in page.text
    assert "needs a look" in page.text
    assert "join failed, step 13 of 14" in page.text
    assert "<script>alert(1)</script>" in page.text
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    steps = [attributes["class"] for tag, attributes in page.tags if tag == "i"]
    assert steps == [*["unseen"] * 3, "ok", *["unseen"] * 8, "error", "none"]
    assert f"/nodes/{MAC}" in page.links


@pytest.mark.parametrize("path", ["/", "/nodes/x", f"/nodes/{MAC}"])
def test_scripts_and_assets_of_others_are_locked_out(farm: Farm, path: str) -> None:
    farm.see("join")
    response = handle(farm.web, Request("GET", path, {}, {}, b"", IP))
    headers = dict(response.headers)
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    page = farm.page(path)
    for _, attributes in page.tags:
        for name in ("src", "href", "action"):
            value = attributes.get(name) or "/"
            assert value.startswith(("/", "#", "data:image/svg")), value
            assert not value.startswith("//")


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ("node-1", True),
        ("NODE", True),
        ("10.9.0.11", True),
        ("sn-77", True),
        ("52:54:00:00:00:01", True),
        ("52-54-00-00-00-01", True),
        ("5254.0000.0001", True),
        ("0000.0001", True),
        ("52:54:00:00:00:02", False),
        ("nobody", False),
        ("10.9.0.1x", False),
    ],
)
def test_search(farm: Farm, wanted: str, fits: bool) -> None:
    farm.see("join")
    farm.see("join", ip="10.8.0.1")
    page = farm.page(f"/?q={wanted}")
    assert page.rows == ([MAC] if fits else [])
    assert ("No node has" in page.text) is not fits


def test_filter_by_state_and_its_counts(farm: Farm) -> None:
    farm.see("join", ip="10.8.0.1")
    farm.see("join", ip="10.8.0.2", status="error", detail="token expired")
    farm.see("ready", ip="10.8.0.3")
    farm.see("shutdown", ip="10.8.0.4")
    farm.settle()
    counts = {"look": 1, "booting": 1, "unseen": 1, "ready": 1, "off": 1, "played": 0}
    assert farm.overview.counts() == counts
    for state, ip in (("booting", 1), ("look", 2), ("ready", 3), ("off", 4)):
        assert farm.page(f"/?state={state}").rows == [f"10.8.0.{ip}"]
    assert farm.page("/?state=look&q=0.3").rows == []
    assert len(farm.page("/?state=nonsense").rows) == 5
    farm.see("join", ip="10.8.0.2")
    farm.see("ready", ip="10.8.0.2")
    farm.settle()
    assert farm.page("/?state=look").rows == []
    assert farm.page("/?state=ready").rows == ["10.8.0.2", "10.8.0.3"]


def test_pages(farm: Farm) -> None:
    for number in range(2 * ROWS + 5):
        farm.see("systemd", ip=f"10.8.{number // 250}.{number % 250}", time=NOW - 300 + number)
    farm.inventory = Inventory()
    first = farm.page()
    assert len(first.rows) == ROWS
    assert first.rows[0] == "10.8.0.0", "each has its place, whoever was heard of last"
    assert farm.page("/?sort=seen").rows[0] == "10.8.0.204"
    assert "page 1 of 3" in first.text
    assert "/?page=2" in first.links
    assert len(farm.page("/?page=3").rows) == 5
    assert farm.page("/?page=99").rows == farm.page("/?page=3").rows
    for odd in ("x", "-1", "0", "1e9", "²", "99999999999"):
        assert farm.page(f"/?page={odd}").rows == first.rows
    assert farm.page("/?q=10.8.0.204").rows == ["10.8.0.204"]
    assert "/?q=10.8&page=2" in farm.page("/?q=10.8").links


def list_rack(count: int) -> Inventory:
    """Machines r1-n01, …; in the inventory with a label and a BMC."""
    return Inventory(
        tuple(
            Machine(
                f"52:54:00:01:00:{n:02x}",
                f"10.9.1.{n}",
                f"r1-n{n:02}",
                labels=(("rack", "r1"), ("unit", str(n))),
                bmc=f"https://10.0.0.{n}/",
            )
            for n in range(1, count + 1)
        )
    )


def test_one_cause_is_one_line_with_its_machines(farm: Farm) -> None:
    for number in range(1, 41):
        words = "no root: connection refused" if number > 3 else "no root: <b>other</b>"
        farm.see("root", ip=f"10.8.0.{number}", status="error", detail=words)
    farm.settle()
    page = farm.page()
    assert "40 need a look" in page.text
    assert " ".join(page.text.split()).count("10.8.0.[4-9], 10.8.0.[10-40]") == 1
    assert "10.8.0.[1-3]" in page.text
    causes = [link for link in page.links if "cause=" in link]
    assert len(causes) == 2
    many = farm.page(causes[0])
    assert len(many.rows) == 37
    assert "10.8.0.4" in many.rows
    assert "Show all causes" in many.text
    assert len(farm.page(causes[1]).rows) == 3
    assert farm.page("/?cause=nonsense").rows == []
    assert "No machine has this trouble" in farm.page("/?cause=nonsense").text


def test_causes_without_an_end_are_counted(farm: Farm) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    for number, letter in enumerate(letters):
        for twin in range(1 + (number == 25)):
            words = f"no root: {letter}"
            ip = f"10.8.{twin}.{number + 1}"
            farm.see("root", ip=ip, status="error", detail=words)
    farm.settle()
    page = farm.page()
    assert len([link for link in page.links if "cause=" in link]) == GROUPS
    assert "no root: z" in page.text.partition("more causes")[0], "the most first"
    rest = len(letters) - GROUPS
    assert f"And {rest} more causes with {rest} machines" in page.text


def test_a_rack_of_forty_in_the_dense_view(farm: Farm) -> None:
    farm.inventory = list_rack(40)
    for number in range(1, 30):
        farm.see("ready", ip=f"52:54:00:01:00:{number:02x}")
    farm.settle()
    page = farm.page("/?view=dense&label.rack=r1")
    assert len(page.rows) == 40
    assert sum(tag == "progress" for tag, _ in page.tags) == 40
    for link in page.links:
        if link.startswith("/?") and "state=" in link:
            assert "view=dense" in link
            assert "label.rack=r1" in link
    by_rack = farm.page("/?view=dense&sort=label.rack")
    assert "by rack" in by_rack.text
    assert [one for one in by_rack.ids if one.startswith("g-")] == ["g-1"]


def test_filters_are_offered_with_counts(farm: Farm) -> None:
    farm.inventory = list_rack(3)
    other = publish(farm.store, kernel="6.2")
    path = f"/ltsp/amd64/@{farm.image.digest}/vmlinuz"
    farm.see("kernel", ip="10.8.0.1", path=path)
    farm.see("kernel", ip="10.8.0.2", path=f"/ltsp/amd64/@{other.digest}/vmlinuz")
    farm.images = tuple(Store(farm.store).images())
    page = farm.page()
    offered = {str(one.get("value")) for tag, one in page.tags if tag == "option"}
    assert {"kernel", "old", "r1", "3", "label.rack", farm.image.digest[:12]} <= offered
    assert "kernel (2)" in page.text
    assert "older than current (1)" in page.text
    assert "1 of 2 run an older image than current" in page.text
    assert farm.page("/?image=old").rows == ["10.8.0.1"]
    assert "amd64:current" in farm.page("/?image=:current").text
    assert farm.page("/?label.rack=r1&label.unit=2").rows == ["52:54:00:01:00:02"]
    assert farm.page("/?label.rack=nowhere").rows == []
    assert "No node fits" in farm.page("/?label.rack=nowhere").text
    assert farm.page("/?q=unit=2").rows == ["52:54:00:01:00:02"]


def test_the_page_of_a_machine_that_was_never_seen(farm: Farm) -> None:
    farm.inventory = list_rack(2)
    farm.text = b"[default]\nTIMEZONE=Europe/Berlin\n"
    for name in ("52:54:00:01:00:02", "525400010002", "r1-n02", "10.9.1.2"):
        page = farm.page(f"/nodes/{name}")
        assert page.status == 200
        assert "nothing was ever heard of it" in page.text
        assert "Europe/Berlin" in page.text
        assert "rack r1, unit 2" in page.text
        assert "https://10.0.0.2/" in page.links
        assert "Forget this machine" not in page.text
    assert "not seen yet" in farm.page("/?state=unseen").text


def test_sentences_have_code_and_no_backticks(farm: Farm) -> None:
    farm.see("kernel", status="error", detail="x")
    farm.nodes.nodes()[0].boot.facts["panic"] = "VFS: `dead` <i>"  # type: ignore[union-attr]
    page = farm.page(f"/nodes/{MAC}")
    assert "bootfarm images rollback" in page.text
    assert "`" not in page.text
    assert "VFS: dead <i>" in page.text


def test_a_page_of_many_is_not_larger_than_one_of_a_hundred(farm: Farm) -> None:
    for number in range(100):
        farm.see("systemd", ip=f"10.8.0.{number}")
    few = len(farm.page().source)
    for number in range(3000):
        farm.see("systemd", ip=f"10.7.{number // 250}.{number % 250}")
    looked: list[str] = []
    look = farm.overview.look
    farm.overview.look = lambda node, now: (looked.append(node.key), look(node, now))[1]  # type: ignore[func-returns-value,method-assign]
    assert len(farm.page().source) < 1.1 * few
    assert len(looked) == ROWS


def test_node_page(farm: Farm) -> None:
    farm.see("initrd", time=4000.0, path=f"/ltsp/amd64/@{farm.image.digest}/initrd.img")
    farm.nodes.record(
        Event(
            4012.0,
            IP,
            "tftp",
            "transfer",
            {
                "path": "/ltsp/amd64/initrd.img",
                "bytes": 10 * 2**20,
                "seconds": 4.0,
                "retries": 3,
                "status": "ok",
            },
        )
    )
    farm.see("join", time=4030.0, status="error", detail="token expired 3 h ago")
    page = farm.page(f"/nodes/{MAC}")
    assert page.status == 200
    for words in ("node-1", MAC, IP, "SN-77", farm.image.digest, "token expired 3 h ago"):
        assert words in page.text
    for words in ("10 MiB", "2.5 MiB/s", "failed", "fetches the initramfs", "16 min"):
        assert words in page.text
    assert farm.page("/nodes/52-54-00-00-00-01").text == page.text
    assert f"/api/nodes/{MAC}" in page.links


def test_node_page_says_how_full_its_file_systems_are(farm: Farm) -> None:
    farm.see("ready")
    assert "in use:" not in farm.page(f"/nodes/{MAC}").text
    farm.see("space", space="/:63:2:650 /srv/<b>:7:97:2048")
    text = farm.page(f"/nodes/{MAC}").text
    assert "/ 63 % of 650 MiB" in text
    assert "/srv/<b> 97 % of its files (inodes; 7 % of 2 GiB)" in text


def test_node_page_of_nobody(farm: Farm) -> None:
    page = farm.page("/nodes/<b>nobody")
    assert page.status == 404
    assert "<b>nobody" in page.text


def test_past_boots(farm: Farm) -> None:
    farm.see("ready", time=1000.0, boot="a")
    farm.see("initramfs", time=2000.0, boot="b")
    farm.see("root", time=2003.0, status="error", detail="no NBD", boot="b")
    farm.see("initramfs", time=3000.0, boot="c")
    page = farm.page(f"/nodes/{MAC}")
    assert "root: no NBD" in page.text
    assert page.text.index("root: no NBD") < page.text.index("ready")


def test_values_with_origins_and_secrets_masked(farm: Farm) -> None:
    farm.text = (
        b"[default]\nTIMEZONE=Europe/Berlin\nJOIN_TOKEN=plain-as-day\nRM_SYSTEM_SERVICES=NONE\n"
        b'[node-1]\nRCFILE_07="kubeadm join 10.9.0.1:6443 --token abcdef.0123456789abcdef"\n'
    )
    farm.see("join")
    page = farm.page(f"/nodes/{MAC}")
    for words in (
        "Europe/Berlin",
        "[default], the default",
        "lts.conf:2",
        "instead of UTC: default of the image amd64",
        "[node-1], the section of node-1",
        "kubeadm join 10.9.0.1:6443 --token (secret)",
        "unset by NONE",
    ):
        assert words in page.text
    for secret in ("plain-as-day", "abcdef.0123456789abcdef"):
        assert secret not in page.source


def test_what_has_changed_since_it_booted(farm: Farm) -> None:
    farm.text = b"[default]\nTIMEZONE = UTC\nSYSLOG_HOST = 10.9.0.15\n"
    farm.see("initramfs", boot="a")
    node = farm.nodes.get(MAC)
    assert node is not None
    farm.nodes.note_given(IP, farm.explain(node).prints)
    assert "Changed since it booted" not in farm.page(f"/nodes/{MAC}").text
    farm.text = b"[default]\nTIMEZONE = GMT\nDNS_SERVER = 10.9.0.1\n"
    words = "Changed since it booted: DNS_SERVER (new), SYSLOG_HOST (gone), TIMEZONE."
    assert words in farm.page(f"/nodes/{MAC}").text


def test_what_changed_values_were_and_will_be(farm: Farm) -> None:
    farm.web = replace(farm.web, given=GivenValues(farm.secrecy.mask_value))
    line = b'RCFILE_01 = "apt-get install one two three four five six seven '
    farm.text = b"[default]\nTIMEZONE = UTC\nROOT_PASSWORD = old\nDNS_SERVER = 10.9.0.2\n" + line
    farm.text += b'alpha"\n'
    farm.see("initramfs", boot="a")
    node = farm.nodes.get(MAC)
    assert node is not None
    assert farm.web.given is not None
    prints = farm.explain(node).prints
    farm.nodes.note_given(IP, prints)
    flat = {"TIMEZONE": "UTC", "ROOT_PASSWORD": "old", "DNS_SERVER": "10.9.0.2"}
    flat["RCFILE_01"] = line.decode().partition('"')[2] + "alpha"
    farm.web.given.keep(PRINTER.print_values(flat), flat)
    farm.text = b"[default]\nTIMEZONE = Europe/Athens\nROOT_PASSWORD = new\nSEARCH_DOMAIN = <x>\n"
    farm.text += line + b'beta"\n'
    assert farm.web.explainer is not None
    (dns, rcfile, password, domain, zone) = view_changes(
        node.boot, farm.explain(node), farm.web.given
    )
    assert (dns.name, dns.was, dns.will) == ("DNS_SERVER (gone)", "10.9.0.2", None)
    assert (rcfile.was, rcfile.will) == (
        "…ree four five six seven alpha",
        "…ree four five six seven beta",
    )
    assert (password.was, password.will) == ("(secret)", "(secret)")
    assert "secret" in password.remark
    assert (domain.was, domain.will, domain.remark) == (None, "<x>", "")
    assert (zone.was, zone.will, zone.remark) == ("UTC", "Europe/Athens", "")
    page = farm.page(f"/nodes/{MAC}")
    assert "<code>UTC</code></del>" in page.source
    assert "<code>Europe/Athens</code></ins>" in page.source
    assert "&lt;x&gt;" in page.source
    for gone in (">old<", ">new<"):
        assert gone not in page.source
    unknown = view_changes(node.boot, farm.explain(node), None)
    assert unknown[4].was is None
    assert unknown[4].remark == "what it was is not kept any more"


def test_a_word_of_the_address_that_fits_nothing_is_told(farm: Farm) -> None:
    farm.see("ready")
    farm.inventory = Inventory((Machine(MAC, IP, "node-1", labels=(("rack", "r1"),)),))
    farm.settle()
    for query, words in (
        ("image=amd65", "neither the store nor a machine has it; there are amd64:current"),
        ("label.rakc=r1", "the inventory has no label of that name; it has rack"),
        ("label.rack=r9", "no machine has that; there are r1"),
        ("stat=look", "'stat' is no filter and counts for nothing; did you mean 'state'?"),
        ("state=lost", "not 'lost'"),
        ("sort=label.rakc", "the inventory has no label of that name"),
    ):
        assert words in farm.page(f"/?{query}").text, query
    for fits in ("image=old", "image=amd64", "image=:current", "label.rack=r1&sort=label.rack"):
        assert 'class="problem"' not in farm.page(f"/?{fits}").source, fits
    assert 'class="problem"' not in farm.page(f"/?image={farm.image.digest[:8]}").source


def test_a_note_on_a_machine_that_was_never_seen(farm: Farm) -> None:
    farm.settle()
    ask = Request("PUT", f"/api/nodes/{MAC}", {"note": "board comes in May"}, {}, b"", "127.0.0.1")
    assert "Forget this machine" not in farm.page(f"/nodes/{MAC}").text
    assert handle(farm.web, ask).status == 200
    for path in ("/", f"/nodes/{MAC}"):
        page = farm.page(path)
        assert "board comes in May" in page.text
        assert "not seen yet" in page.text
    assert "Forget this machine" in farm.page(f"/nodes/{MAC}").text
    farm.see("ready")
    farm.settle()
    assert "board comes in May" in farm.page("/?state=ready").text


def test_values_of_a_template_with_a_mounted_secret(farm: Farm) -> None:
    farm.secrets = {"password": "correct horse"}
    farm.text = (
        b"# jinja2\n[default]\nNOTE={{ node.serial }}\nRCFILE_01=login {{ secrets.password }}\n"
    )
    site = farm.site()
    farm.web.explainer._site = lambda: site  # type: ignore[union-attr]
    farm.see("join", status="error", detail="login correct horse: refused")
    while "It is being rendered" in (page := farm.page(f"/nodes/{MAC}")).text:
        pass
    assert "SN-77" in page.text
    assert "login (secret)" in page.text
    assert "rendered from the template" in page.text
    assert "login (secret): refused" in page.text
    assert "correct horse" not in page.source
    assert "correct horse" not in farm.page().source


def test_values_that_cannot_be_had(farm: Farm) -> None:
    farm.see("join")
    farm.text = b"[default]\nIMAGE=amd64:canary\nTIMEZONE=UTC\n"
    page = farm.page(f"/nodes/{MAC}")
    assert "image amd64 has no tag 'canary'" in page.text
    assert "TIMEZONE" in page.text


def test_phases_are_laid_out_within_the_picture() -> None:
    boot = Boot(100.0)
    boot.phases["kernel"] = Phase(104.0, 104.0, "ok", bytes=4096, seconds=4.0)
    boot.phases["systemd"] = Phase(110.0, 110.0, "ok")
    boot.phases["rcfile"] = Phase(110.0, 120.0, "ok", count=7)
    boot.phases["join"] = Phase(120.0, 121.0, "start", count=2)
    views = {view.name: view for view in view_phases(boot, 140.0)}
    assert (views["kernel"].x, views["kernel"].width) == (0.0, 10.0)
    assert (views["kernel"].took, views["kernel"].rate) == ("4.0 s", "1 KiB/s")
    assert (views["join"].x, views["join"].width) == (50.0, 50.0)
    assert (views["join"].how, views["join"].took) == ("under way", "20 s")
    assert views["rcfile"].how == "done, 7 times"
    assert views["systemd"].took == "", "it was passed within no time"
    for view in views.values():
        assert 0 <= view.x <= 100
        assert 0 < view.width <= 100 - view.x
    assert view_phases(Boot(1.0), 5.0) == []


@pytest.mark.parametrize(
    ("format_", "value", "words"),
    [
        (name_age, -3, "0 s"),
        (name_age, 59.9, "59 s"),
        (name_age, 60, "1 min"),
        (name_age, 7500, "2 h 5 min"),
        (name_age, 200_000, "2 d 7 h"),
        (format_span, 0.21, "0.2 s"),
        (format_span, 48.3, "48 s"),
        (format_span, 125, "2 min 5 s"),
        (name_size, 512, "512 B"),
        (name_size, 14_900_000, "14.2 MiB"),
        (name_size, 240 * 2**20, "240 MiB"),
        (name_size, 2**41, "2048 GiB"),
    ],
)
def test_formats(format_: Callable[[float], str], value: float, words: str) -> None:
    assert format_(value) == words
