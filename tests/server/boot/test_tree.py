import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.store.images import Image, Store
from server.background import Background
from server.boot.catalog import SiteCatalog
from server.boot.plan import BootPlan, Decision, Held, Unplanned
from server.boot.planner import MAX_STRANGE, RENDERINGS_BURST, Planner, Ports
from server.boot.settlement import plan_node
from server.boot.tree import BootTree
from server.content import BytesContent, FileContent, NotFound, Refused
from server.events import Event
from server.farm.config import Config
from server.farm.inventory import Inventory, Machine
from server.ltsconf import LtsConf, LtsTemplate, is_template
from server.ltsconf.files import read_nothing
from server.ltsconf.scan import Included
from server.ltsconf.template import RenderingFailedError
from server.machines.identity import make_identifier
from server.site import Site
from tests.server.farm import FILES, publish

TOKEN = "abcdef.0123456789abcdef"
NODE_1, NODE_2, STRANGER = "10.9.0.11", "10.9.0.12", "10.9.0.77"
CONF = b"""
[default]
A = default
[node-1]
IMAGE = amd64:canary
A = one
[52:54:00:00:00:02]
IMAGE = amd64:nonsense
[storage-1]
IMAGE = storage
"""


class Farm:
    def __init__(self, store: Path, arp: Path, background: Background | None = None) -> None:
        self.store = store
        self.now = 0.0
        self.told: list[tuple[str, str, Decision]] = []
        self.site = self.make_site(CONF)
        inventory = Inventory(
            (
                Machine("52:54:00:00:00:01", NODE_1, "node-1"),
                Machine("52:54:00:00:00:02", NODE_2, "node-2"),
                Machine("52:54:00:00:00:03", "10.9.0.13", "storage-1"),
            )
        )
        planner = Planner(
            lambda: self.site,
            make_identifier(inventory, {}, None, arp),
            Ports(8080, 10809, lambda ip: "10.9.0.1"),
            lambda *words: self.told.append(words),
            background or Background(seconds=30),
            lambda: self.now,
        )
        self.tree = BootTree(planner)

    def make_site(self, conf: bytes) -> Site:
        parse = LtsTemplate.parse if is_template(conf) else LtsConf.parse
        return Site(images=tuple(Store(self.store).images()), ltsconf=parse(conf))

    def use_template(self, template: LtsTemplate) -> None:
        site = self.make_site(CONF)
        facts, secrets = {"site": "west"}, {"token": TOKEN}
        self.site = replace(
            site, ltsconf=template, default_image="amd64", facts=facts, secrets=secrets
        )

    def image(self, name: str, tag: str) -> Image:
        return Store(self.store).get(name, tag)

    def text(self, path: str, ip: str) -> str:
        content = self.tree.lookup(path, ip)
        assert isinstance(content, BytesContent)
        return content.data.decode()

    def path(self, path: str, ip: str) -> Path:
        content = self.tree.lookup(path, ip)
        assert isinstance(content, FileContent)
        assert content.size == content.path.stat().st_size
        return content.path


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    store = tmp_path / "store"
    publish(store, "amd64", kernel="1")
    publish(store, "amd64", kernel="2", tags=["canary"])
    publish(store, "storage", kernel="3")
    (tmp_path / "arp").write_text("")
    return Farm(store, tmp_path / "arp")


def test_each_node_gets_the_image_of_its_plan(farm: Farm) -> None:
    current, canary = farm.image("amd64", "current"), farm.image("amd64", "canary")
    assert farm.path("/ltsp/amd64/vmlinuz", STRANGER) == current.path / "vmlinuz"
    assert farm.path("/ltsp/amd64/vmlinuz", NODE_1) == canary.path / "vmlinuz"
    assert farm.path("ltsp//amd64/initrd.img", NODE_1) == canary.path / "initrd.img"
    core = "/ltsp/amd64/grub/i386-pc/core.0"
    assert farm.path(core, NODE_1) == canary.path / "boot/grub/i386-pc/core.0"
    # IMAGE wins over the name in DHCP's filename.
    storage = farm.image("storage", "current")
    assert farm.path("/ltsp/amd64/vmlinuz", "10.9.0.13") == storage.path / "vmlinuz"
    assert f"/ltsp/storage/@{storage.digest}/vmlinuz" in farm.text(
        "/ltsp/amd64/grub/grub.cfg", "10.9.0.13"
    )


def test_files_of_exactly_one_image(farm: Farm) -> None:
    current = farm.image("amd64", "current")
    for file in (*FILES, "manifest.json"):
        path = f"/ltsp/amd64/@{current.digest}/{file}"
        assert farm.path(path, NODE_1) == current.path / file
    for path in (
        f"/ltsp/storage/@{current.digest}/vmlinuz",
        f"/ltsp/amd64/@{current.digest[:12]}/vmlinuz",
        "/ltsp/amd64/@current/vmlinuz",
        f"/ltsp/amd64/@{current.digest}/tags",
        f"/ltsp/amd64/@{current.digest}",
        f"/ltsp/amd64/@{current.digest}/",
    ):
        with pytest.raises(NotFound):
            farm.tree.lookup(path, NODE_1)


def test_rendered_for_who_asks(farm: Farm) -> None:
    canary = farm.image("amd64", "canary")
    for path in ("/ltsp/amd64/grub/grub.cfg", "/ltsp/amd64/grub/x86_64-efi/grub.cfg"):
        assert f"/ltsp/amd64/@{canary.digest}/vmlinuz" in farm.text(path, NODE_1)
    assert f"http://10.9.0.1:8080/ltsp/amd64/@{canary.digest}/vmlinuz" in farm.text(
        "/ltsp/amd64/boot.ipxe", NODE_1
    )
    assert {plan.image.digest for _, _, plan in farm.told if isinstance(plan, BootPlan)} == {
        canary.digest
    }
    assert 'A="one"' in farm.text("/ltsp/amd64/lts.conf", NODE_1)
    assert 'A="default"' in farm.text("/ltsp/amd64/lts.conf", STRANGER)


def test_a_node_without_a_plan_is_told_why_and_others_are_not_concerned(farm: Farm) -> None:
    text = farm.text("/ltsp/amd64/grub/grub.cfg", NODE_2)
    assert "image amd64 has no tag " in text
    assert "nonsense" in text
    assert "sleep --interruptible 30" in text
    ((client, path, why),) = farm.told
    assert (client, path) == (NODE_2, "/ltsp/amd64/grub/grub.cfg")
    assert isinstance(why, Unplanned)
    assert "it has: canary, current" in why.reason
    assert why.cause == "no_image"
    assert "no tag" in farm.text("/ltsp/amd64/boot.ipxe", NODE_2)
    # Its loader still comes, or it could not say so.
    farm.told.clear()
    current = farm.image("amd64", "current")
    core = "/ltsp/amd64/grub/x86_64-efi/core.efi"
    assert farm.path(core, NODE_2) == current.path / "boot/grub/x86_64-efi/core.efi"
    assert farm.told == []
    for path in ("/ltsp/amd64/vmlinuz", "/ltsp/amd64/lts.conf"):
        with pytest.raises(NotFound, match="no tag"):
            farm.tree.lookup(path, NODE_2)
    assert "menuentry 'amd64:current" in farm.text("/ltsp/amd64/grub/grub.cfg", STRANGER)


def test_the_name_that_grub_asks_for_first(farm: Farm) -> None:
    base = "/ltsp/amd64/grub/grub.cfg"
    for name in ("01-52-54-00-00-00-01", "0A09000B", "01-52-54-00-00-00-02"):
        # Whatever the name says: the menu is that of who asks.
        assert farm.text(f"{base}-{name}", NODE_1) == farm.text(base, NODE_1)


def test_bytes_that_are_no_utf8_reach_the_node_as_they_are(farm: Farm) -> None:
    farm.site = farm.make_site(b'[default]\nA = "caf\xe9"\nIMAGE = amd64\n')
    content = farm.tree.lookup("/ltsp/amd64/lts.conf", NODE_1)
    assert isinstance(content, BytesContent)
    assert b'A="caf\xe9"\n' in content.data


def test_a_new_site_counts_from_the_next_lookup_on(farm: Farm) -> None:
    assert 'A="one"' in farm.text("/ltsp/amd64/lts.conf", NODE_1)
    farm.site = farm.make_site(b"[node-1]\nA = two\n")
    assert 'A="two"' in farm.text("/ltsp/amd64/lts.conf", NODE_1)


def test_a_claimed_mac(farm: Farm) -> None:
    farm.tree.lookup("/ltsp/amd64/lts.conf", NODE_1, "52:54:00:00:00:01")
    with pytest.raises(Refused):
        farm.tree.lookup("/ltsp/amd64/lts.conf", NODE_1, "52:54:00:00:00:02")


def test_exports(farm: Farm) -> None:
    current, canary = farm.image("amd64", "current"), farm.image("amd64", "canary")
    for slash in ("", "/"):
        export = farm.tree.export(f"{slash}opt/ltsp/amd64", NODE_1)
        assert export is not None
        assert export.digest == canary.digest
        assert export.path == canary.path / "rootfs.squashfs"
        assert export.size == export.path.stat().st_size
        exact = farm.tree.export(f"{slash}opt/ltsp/amd64@{current.digest}", NODE_1)
        assert exact is not None
        assert exact.digest == current.digest
    without_plan = farm.tree.export("/opt/ltsp/amd64", NODE_2)
    assert without_plan is not None
    assert without_plan.digest == current.digest
    for name in (
        "",
        "/",
        "amd64",
        "/opt/ltsp/",
        "/opt/ltsp/..",
        "//opt/ltsp/amd64",
        "/opt/ltsp/x@",
    ):
        assert farm.tree.export(name, NODE_1) is None


def test_every_listed_export_can_be_opened(farm: Farm) -> None:
    names = farm.tree.list_exports(NODE_1)
    assert "/opt/ltsp/amd64" in names
    assert len(names) == 2 + 3
    for name in names:
        assert farm.tree.export(name, NODE_1) is not None


def test_an_image_that_vanished_is_not_found(farm: Farm) -> None:
    (farm.image("amd64", "current").path / "vmlinuz").unlink()
    with pytest.raises(NotFound, match="gone"):
        farm.tree.lookup("/ltsp/amd64/vmlinuz", STRANGER)


ESCAPES = [
    "/ltsp/amd64/../../../etc/passwd",
    "/ltsp/../etc/passwd",
    "/ltsp/amd64/grub/../../../../../etc/passwd",
    "/ltsp/amd64/grub/i386-pc/../../manifest.json",
    "/ltsp/amd64/./vmlinuz",
    "/ltsp/amd64/vmlinuz\0",
    "/ltsp/amd64\\vmlinuz",
    "/etc/passwd",
    "/ltsp",
    "/ltsp/amd64",
    "",
    "/",
    "/ltsp/AMD64/vmlinuz",
    "/ltsp/amd64/rootfs.list",
    "/ltsp/amd64/manifest.json",
    "/" + "a/" * 600,
]


@pytest.mark.parametrize("path", ESCAPES)
def test_nothing_else_is_there(farm: Farm, path: str) -> None:
    with pytest.raises(NotFound):
        farm.tree.lookup(path, NODE_1)


@pytest.fixture(scope="module")
def lookup(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Callable[[str], object]]:
    base = tmp_path_factory.mktemp("fuzzed")
    publish(base / "store")
    (base / "arp").write_text("")
    (base / "secret").write_text("secret")
    tree = Farm(base / "store", base / "arp").tree
    return base / "store", lambda path: tree.lookup(path, STRANGER)


WORDS = st.sampled_from(
    [
        "ltsp",
        "amd64",
        "grub",
        "i386-pc",
        "core.0",
        "..",
        ".",
        "",
        "@",
        "vmlinuz",
        "@" + "0" * 64,
        "%2e",
    ]
)


@given(path=st.one_of(st.lists(WORDS | st.text(max_size=8), max_size=9).map("/".join), st.text()))
def test_no_path_leads_out_of_the_store(
    lookup: tuple[Path, Callable[[str], object]], path: str
) -> None:
    store, look = lookup
    try:
        content = look(path)
    except (NotFound, Refused):
        return
    if isinstance(content, FileContent):
        assert content.path.resolve().is_relative_to(store.resolve())


TEMPLATE = b"""# jinja2
[default]
A = {{ farm.site }} {{ node.hostname }}
K = {{ image.kernel }}
T = {{ secrets.token }}
{% if node.hostname == "node-1" %}
IMAGE = amd64:canary
{% elif node.hostname == "node-2" %}
U = {{ node.uuid }}
{% endif %}
"""


def test_a_template_is_rendered_for_who_asks(farm: Farm) -> None:
    farm.use_template(LtsTemplate.parse(TEMPLATE))
    canary = farm.image("amd64", "canary")
    text = farm.text("/ltsp/amd64/lts.conf", NODE_1)
    assert 'A="west node-1"' in text
    assert 'K="2"' in text
    assert f'T="{TOKEN}"' in text
    assert f"amd64@{canary.digest}" in farm.text("/ltsp/amd64/grub/grub.cfg", NODE_1)
    export = farm.tree.export("/opt/ltsp/amd64", NODE_1)
    assert export is not None
    assert export.digest == canary.digest
    assert 'A="west storage-1"' in farm.text("/ltsp/amd64/lts.conf", "10.9.0.13")


def test_a_rendering_error_is_one_nodes_trouble(farm: Farm) -> None:
    farm.use_template(LtsTemplate.parse(TEMPLATE))
    said = "lts.conf:9:1: node.uuid is undefined (for node "
    for path in ("/ltsp/amd64/grub/grub.cfg", "/ltsp/amd64/boot.ipxe"):
        text = farm.text(path, NODE_2)
        assert "node.uuid is undefined" in text
        assert "menuentry 'amd64" not in text
    assert len(farm.told) == 2
    for _, _, outcome in farm.told:
        assert isinstance(outcome, Unplanned)
        assert outcome.reason.startswith(said)
        assert outcome.cause == "template"
    with pytest.raises(NotFound) as caught:
        farm.tree.lookup("/ltsp/amd64/lts.conf", NODE_2)
    assert caught.value.reason.startswith(said)
    assert 'K="2"' in farm.text("/ltsp/amd64/lts.conf", NODE_1)
    # The loader is there, so that the menu can say it.
    farm.path("/ltsp/amd64/grub/i386-pc/core.0", NODE_2)


class Gated(LtsTemplate):
    """A template whose renderings take as long as the test wants."""

    def __init__(self) -> None:
        super().__init__(Included("main", "lts.conf", b""), read_nothing)
        self.gate = threading.Event()
        self.count = 0
        self.error: Exception | None = None

    def render_text(self, facts: object, *, placeholders: bool = False) -> bytes:
        self.count += 1
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return b"[default]\nIMAGE = amd64\nA = slow\n"


def test_nobody_waits_long_for_a_slow_rendering(tmp_path: Path, farm: Farm) -> None:
    background = Background(seconds=0)
    farm = Farm(tmp_path / "store", tmp_path / "arp", background)
    template = Gated()
    farm.use_template(template)
    assert "still being rendered" in farm.text("/ltsp/amd64/grub/grub.cfg", NODE_1)
    with pytest.raises(NotFound, match="still being rendered"):
        farm.tree.lookup("/ltsp/amd64/lts.conf", NODE_1)
    with pytest.raises(NotFound, match="still being rendered"):
        farm.tree.lookup("/ltsp/amd64/lts.conf", NODE_2)
    assert farm.tree.export("/opt/ltsp/amd64", NODE_1) is None
    last = background.submit(lambda: None)
    template.gate.set()
    assert last.done.wait(30)
    assert 'A="slow"' in farm.text("/ltsp/amd64/lts.conf", NODE_1)
    assert 'A="slow"' in farm.text("/ltsp/amd64/lts.conf", NODE_2)
    assert template.count == 2


def test_renderings_for_a_site_that_is_no_more_are_left_out(tmp_path: Path, farm: Farm) -> None:
    background = Background(seconds=0)
    farm = Farm(tmp_path / "store", tmp_path / "arp", background)
    template = Gated()
    farm.use_template(template)
    for number in range(20):
        with pytest.raises(NotFound):
            farm.tree.lookup("/ltsp/amd64/lts.conf", f"10.9.1.{number}")
    farm.site = farm.make_site(CONF)
    assert 'A="default"' in farm.text("/ltsp/amd64/lts.conf", STRANGER)
    last = background.submit(lambda: None)
    template.gate.set()
    assert last.done.wait(30)
    assert template.count <= 1, "but for the one that was under way"


def test_a_rendering_that_failed_for_lack_of_time_is_tried_again(farm: Farm) -> None:
    template = Gated()
    template.gate.set()
    template.error = RenderingFailedError("rendering takes longer than 2 s")
    farm.use_template(template)
    for _ in range(3):
        with pytest.raises(NotFound, match="takes longer"):
            farm.tree.lookup("/ltsp/amd64/lts.conf", NODE_1)
    assert template.count == 1
    template.error = None
    farm.now = 60.0
    assert 'A="slow"' in farm.text("/ltsp/amd64/lts.conf", NODE_1)


def test_too_many_that_wait(tmp_path: Path, farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.boot.planner.MAX_JOBS", 2)
    background = Background(seconds=0)
    farm = Farm(tmp_path / "store", tmp_path / "arp", background)
    template = Gated()
    farm.use_template(template)
    for address in (NODE_1, NODE_2):
        with pytest.raises(NotFound, match="still being rendered"):
            farm.tree.lookup("/ltsp/amd64/lts.conf", address)
    with pytest.raises(NotFound, match="2 nodes wait"):
        farm.tree.lookup("/ltsp/amd64/lts.conf", STRANGER)
    last = background.submit(lambda: None)
    template.gate.set()
    assert last.done.wait(30)
    with pytest.raises(NotFound, match="still being rendered"):
        farm.tree.lookup("/ltsp/amd64/lts.conf", STRANGER)


def test_ipxe_comes_from_the_image_that_the_node_boots(farm: Farm, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="has no ipxe loader: build it again"):
        farm.tree.lookup("/ltsp/amd64/ipxe/undionly.kpxe", NODE_1)
    ipxe = {"boot/ipxe/undionly.kpxe": b"bios", "boot/ipxe/snponly.efi": b"uefi"}
    image = publish(tmp_path / "store", kernel="4", tags=["canary"], files={**FILES, **ipxe})
    farm.site = farm.make_site(CONF)
    path = "boot/ipxe/undionly.kpxe"
    assert farm.path("/ltsp/amd64/ipxe/undionly.kpxe", NODE_1) == image.path / path
    with pytest.raises(NotFound, match="no file boot/ipxe/other"):
        farm.tree.lookup("/ltsp/amd64/ipxe/other", NODE_1)


@pytest.mark.parametrize("menu", ["grub/grub.cfg", "boot.ipxe"])
def test_an_unlisted_machine_is_held_at_the_menu(farm: Farm, menu: str) -> None:
    farm.site = replace(farm.site, unlisted="menu", default_image="amd64")
    text = farm.text(f"/ltsp/amd64/{menu}", STRANGER)
    assert f"{STRANGER} is not in the inventory" in text
    assert f"- {{mac: its MAC, ip: {STRANGER}}}" in text
    ((_, path, held),) = farm.told
    assert path == f"/ltsp/amd64/{menu}"
    assert isinstance(held, Held)
    assert held.plan.image == farm.image("amd64", "current")
    assert "its boot menu waits for somebody" in held.reason
    assert farm.path("/ltsp/amd64/vmlinuz", STRANGER), "somebody may choose to boot it"
    assert "is not in the inventory" not in farm.text(f"/ltsp/amd64/{menu}", NODE_1)
    assert isinstance(farm.told[-1][2], BootPlan)


def test_a_held_machine_that_gets_listed_boots_at_its_next_question(farm: Farm) -> None:
    farm.site = replace(farm.site, unlisted="menu")
    (farm.store.parent / "arp").write_text("")
    assert "not in the inventory" in farm.text("/ltsp/amd64/boot.ipxe", STRANGER)
    machine = Machine("52:54:00:00:00:77", STRANGER)
    arp = farm.store.parent / "arp"
    planner = Planner(
        lambda: farm.site,
        make_identifier(Inventory((machine,)), {}, None, arp),
        Ports(8080, 10809, lambda ip: "10.9.0.1"),
    )
    farm.tree = BootTree(planner)
    assert "not in the inventory" not in farm.text("/ltsp/amd64/boot.ipxe", STRANGER)


def test_an_unlisted_machine_is_refused_a_plan_and_its_secrets(farm: Farm) -> None:
    farm.site = replace(farm.site, unlisted="refuse")
    for menu in ("grub/grub.cfg", "boot.ipxe"):
        text = farm.text(f"/ltsp/amd64/{menu}", STRANGER)
        assert "only listed machines boot" in text
        assert "vmlinuz" not in text
    for file in ("lts.conf", "vmlinuz"):
        with pytest.raises(NotFound, match=r"only listed machines boot; add `- \{mac: its MAC"):
            farm.tree.lookup(f"/ltsp/amd64/{file}", STRANGER)
    for own in ("10.9.0.1", "127.0.0.1"):
        assert 'A="default"' in farm.text("/ltsp/amd64/lts.conf", own), "doctor asks from there"
    assert "vmlinuz" in farm.text("/ltsp/amd64/boot.ipxe", NODE_1)
    assert 'A="one"' in farm.text("/ltsp/amd64/lts.conf", NODE_1)
    # Its loader it gets: how else would it say what is wrong?
    assert farm.path("/ltsp/amd64/grub/i386-pc/core.0", STRANGER)


def test_names_that_no_image_has_share_one_plan(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = []

    def plan(site: Site, node: object, farm: object, known: object, name: str | None) -> object:
        planned.append(name)
        return plan_node(site, node, farm, known, name)  # type: ignore[arg-type]

    monkeypatch.setattr("server.boot.planner.plan_node", plan)
    for number in range(50):
        assert "A=" in farm.text(f"/ltsp/word{number}/lts.conf", NODE_1)
    assert planned == [None]
    farm.text("/ltsp/amd64/lts.conf", NODE_1)
    assert planned == [None, "amd64"]


def test_a_name_that_no_image_has_is_told_in_the_log_and_to_the_machines_page(
    farm: Farm, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        for number in range(50):
            farm.text(f"/ltsp/word{number}/lts.conf", NODE_1)
    farm.text("/ltsp/amd64/lts.conf", NODE_1)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == MAX_STRANGE
    assert told[0].startswith(f"{NODE_1} asks below /ltsp/word0/, and the store has no image of")
    events: list[Event] = []
    catalog = SiteCatalog(replace(farm.site, default_image="amd64"), Config(address="10.9.0.2"))
    catalog.open(events.append)
    catalog.lookup("/ltsp/amd46/grub/grub.cfg", NODE_1)
    catalog.lookup("/ltsp/amd64/grub/grub.cfg", NODE_1)
    found = [event.detail.get("unknown_image") for event in events]
    assert found == ["amd46", None]


def test_first_renderings_of_addresses_without_a_mac_are_bounded(farm: Farm) -> None:
    """A forged source in each request would have a template rendered for each."""
    farm.use_template(LtsTemplate.parse(TEMPLATE))
    told = []
    for number in range(120):
        try:
            farm.text("/ltsp/amd64/lts.conf", f"192.0.2.{number}")
        except NotFound as refusal:
            told.append(refusal.reason)
    refused = [reason for reason in told if "too many machines ask for the first time" in reason]
    assert len(refused) == 120 - RENDERINGS_BURST
    assert farm.text("/ltsp/amd64/lts.conf", NODE_1)
