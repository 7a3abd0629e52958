"""The pages as a parser sees them; tests/server/web/test_browser.py has a browser's view."""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from imagebuild.store import Store
from server.boottree import Site
from server.events import Event
from server.explaining import Explainer
from server.feed import Changes
from server.identity import make_identifier
from server.inventory import Inventory, Machine
from server.ltsconf import LtsConf, LtsTemplate, is_template
from server.nodes import Boot, Nodes, Phase
from server.overview import Overview
from server.protocols.http import Request, Response
from server.quantities import name_age, name_size
from server.secrecy import Secrecy
from server.web.nodepage import view_phases
from server.web.page import ROWS
from server.web.rendering import format_span
from server.web.routes import Web, handle
from tests.server.farm import publish

NOW = 5000.0
MAC, IP = "52:54:00:00:00:01", "10.9.0.11"
INVENTORY = Inventory((Machine(MAC, IP, "node-1", serial="SN-77"),))
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
        identifier = make_identifier(INVENTORY, {}, None, tmp_path / "arp")

        def identify(ip: str) -> tuple[str | None, str | None]:
            identity = identifier.identify(ip)
            return identity.mac, identity.hostname

        self.nodes = Nodes(identify, limit=20_000)
        self.secrets: dict[str, Any] = {}
        self.secrecy = Secrecy(lambda: self.secrets)
        self.text = b""
        self.problems: list[str] = []
        self.overview = Overview(
            self.nodes, serial=lambda mac: INVENTORY.by_mac[mac].serial or "" if mac == MAC else ""
        )
        self.web = Web(
            lookup=lambda path, client, mac: pytest.fail("nothing is looked up"),
            identifier=identifier,
            nodes=self.nodes,
            overview=self.overview,
            health=lambda: {"status": "ok", "problems": self.problems, "images": {}},
            emit=lambda event: None,
            changes=Changes(),
            explainer=Explainer(self.site, identifier, self.secrecy),
            clock=lambda: NOW,
        )

    def site(self) -> Site:
        conf = LtsTemplate.parse(self.text) if is_template(self.text) else LtsConf.parse(self.text)
        return Site(tuple(Store(self.store).images()), conf, secrets=self.secrets)

    def see(self, phase: str, ip: str = IP, time: float = NOW - 60, **detail: Any) -> None:
        event = self.secrecy.mask_event(Event(time, ip, "beacon", phase, {"status": "ok"} | detail))
        node = self.nodes.record(event)
        assert node is not None
        self.overview.note(node.key)

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
    assert farm.overview.counts() == {"look": 1, "booting": 1, "ready": 1, "off": 1}
    for state, ip in (("booting", 1), ("look", 2), ("ready", 3), ("off", 4)):
        assert farm.page(f"/?state={state}").rows == [f"10.8.0.{ip}"]
    assert farm.page("/?state=look&q=0.3").rows == []
    assert len(farm.page("/?state=nonsense").rows) == 4
    farm.see("join", ip="10.8.0.2")
    farm.see("ready", ip="10.8.0.2")
    farm.settle()
    assert farm.page("/?state=look").rows == []
    assert farm.page("/?state=ready").rows == ["10.8.0.2", "10.8.0.3"]


def test_pages(farm: Farm) -> None:
    for number in range(2 * ROWS + 5):
        farm.see("systemd", ip=f"10.8.{number // 250}.{number % 250}")
    first = farm.page()
    assert len(first.rows) == ROWS
    assert first.rows[0] == "10.8.0.204", "last heard of first"
    assert "page 1 of 3" in first.text
    assert "/?page=2" in first.links
    assert len(farm.page("/?page=3").rows) == 5
    assert farm.page("/?page=99").rows == farm.page("/?page=3").rows
    for odd in ("x", "-1", "0", "1e9", "²", "99999999999"):
        assert farm.page(f"/?page={odd}").rows == first.rows
    assert farm.page("/?q=10.8.0.204").rows == ["10.8.0.204"]
    assert "/?q=10.8&page=2" in farm.page("/?q=10.8").links


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
