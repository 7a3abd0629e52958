import dataclasses
import logging
from collections.abc import Iterator, Sequence

import pytest

from imagebuild.store.images import Image, Store
from server.boot.plan import BootPlan, Farm, PlanError
from server.boot.settlement import plan_node, settle
from server.ltsconf import LtsConf, LtsConfError, LtsTemplate, NodeId, Renderer
from server.ltsconf.scan import Included
from server.rollout.overlay import Overlay, Pin
from server.site import Site
from tests.server.farm import publish

NODE = NodeId("node-1", "10.9.0.11", "52:54:00:00:00:01")
TOKEN = "abcdef.0123456789abcdef"
MACHINE = {"serial": "S-1"}
FARM = Farm("10.9.0.1")


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    renderer = Renderer(seconds=30)
    yield renderer
    renderer.close()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Image]:
    store = tmp_path_factory.mktemp("store")
    publish(store, "amd64", kernel="1")
    publish(store, "amd64", kernel="2", tags=["canary"])
    publish(store, "storage", kernel="3")
    return Store(store).images()


def make_site(
    images: Sequence[Image], conf: LtsTemplate | LtsConf, default: str | None = None
) -> Site:
    facts = {"site": "west", "dns": ["10.0.0.1"]}
    return Site(tuple(images), conf, default, facts=facts, secrets={"token": TOKEN})


def plan(
    renderer: Renderer,
    images: Sequence[Image],
    body: str,
    *,
    default: str | None = "amd64",
    name: str | None = None,
) -> BootPlan:
    template = LtsTemplate.parse(f"# jinja2\n[default]\n{body}".encode(), renderer=renderer)
    return plan_node(make_site(images, template, default), NODE, FARM, MACHINE, name)


def test_all_facts(renderer: Renderer, images: Sequence[Image]) -> None:
    found = plan(
        renderer,
        images,
        'A = "{{ node.hostname }} {{ node.ip }} {{ node.mac }} {{ node.arch }} {{ node.serial }}"\n'
        'B = "{{ node.uuid | default("none") }} {{ farm.site }} {{ farm.dns[0] }}"\n'
        'C = "{{ image.name }} {{ image.kernel }} {{ image.versions.kubelet }}"\n'
        "D = {{ secrets.token }}\nE = {{ image.digest }}\n",
    )
    assert found.values == {
        "A": "node-1 10.9.0.11 52:54:00:00:00:01 amd64 S-1",
        "B": "none west 10.0.0.1",
        "C": "amd64 1 1.20.2",
        "D": TOKEN,
        "E": found.image.digest,
    }
    assert f'D="{TOKEN}"\n' in found.flat


@pytest.mark.parametrize(
    ("body", "kernel"),
    [
        ("IMAGE = {{ image.name }}:canary\n", "2"),
        ("{% if node.hostname == 'node-1' %}IMAGE = storage\n{% endif %}\n", "3"),
        ("IMAGE = amd64\n", "1"),
    ],
)
def test_rendered_with_the_facts_of_the_image_that_it_boots(
    renderer: Renderer, images: Sequence[Image], body: str, kernel: str
) -> None:
    found = plan(renderer, images, body + "K = {{ image.kernel }}\n")
    assert found.image.manifest.kernel == kernel
    assert found.values["K"] == kernel


def test_an_image_that_depends_on_itself(renderer: Renderer, images: Sequence[Image]) -> None:
    body = "IMAGE = amd64:{% if image.kernel == '1' %}canary{% else %}current{% endif %}\n"
    with pytest.raises(PlanError, match="IMAGE depends on itself") as caught:
        plan(renderer, images, body)
    assert "'amd64:canary'" in caught.value.message
    assert "'amd64:current'" in caught.value.message
    assert caught.value.hint


def test_without_a_default_image_the_template_names_one(
    renderer: Renderer, images: Sequence[Image]
) -> None:
    body = "IMAGE = storage\nK = {{ image.kernel | default('none') }}\n"
    assert plan(renderer, images, "IMAGE = storage\nA=1\n", default=None).image.name == "storage"
    with pytest.raises(LtsConfError, match="'image' is undefined"):
        plan(renderer, images, "IMAGE = storage\nK = {{ image.kernel }}\n", default=None)
    with pytest.raises(PlanError, match="nothing says which image"):
        plan(renderer, images, "A = 1\n", default=None)
    with pytest.raises(PlanError, match="holds no image"):
        plan(renderer, [], body, default=None)
    assert plan(renderer, images, "A = 1\n", default=None, name="storage").image.name == "storage"


def test_an_error_names_line_node_and_variable(renderer: Renderer, images: Sequence[Image]) -> None:
    with pytest.raises(LtsConfError) as caught:
        plan(renderer, images, "A = 1\nB = {{ node.uuid }}\n")
    assert str(caught.value) == (
        "lts.conf:4:1: node.uuid is undefined (for node 52:54:00:00:00:01)"
    )
    assert "default(" in caught.value.hint


@pytest.mark.parametrize(
    "body",
    [
        "A = {{ {'x': 1}[secrets.token] }}\n",
        "A = {{ secrets.token }} = x\n",
        "IMAGE = amd64:{{ secrets.token }}\n",
        "IMAGE = {{ secrets.token[:12] }}\n",
        'KERNEL_CMDLINE = "it\'s {{ secrets.token }}"\n',
        "[{{ secrets.token }}\nA = 1\n",
        "include {{ secrets.token }}\n",
    ],
)
def test_no_error_quotes_a_secret(renderer: Renderer, images: Sequence[Image], body: str) -> None:
    with pytest.raises((PlanError, LtsConfError)) as caught:
        plan(renderer, images, body)
    said = caught.value.format_message()
    assert not any(TOKEN[start : start + 6] in said for start in range(len(TOKEN) - 5)), said
    assert caught.value.__cause__ is None


def test_what_nobody_thought_of_is_one_nodes_trouble(
    images: Sequence[Image], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(LtsTemplate):
        def render_text(self, facts: object, *, placeholders: bool = False) -> bytes:
            raise ZeroDivisionError(TOKEN)

    def read_nothing(path: bytes) -> Included | None:
        return None

    template = Broken(Included("main", "lts.conf", b""), read_nothing)
    with caplog.at_level(logging.DEBUG), pytest.raises(PlanError, match="its log says why"):
        plan_node(make_site(images, template), NODE, FARM, MACHINE, "amd64")
    assert "ZeroDivisionError" in caplog.text
    assert TOKEN not in caplog.text
    assert all("\n" not in record.getMessage() for record in caplog.records)
    (told,) = [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert told.getMessage().startswith("planning for 52:54:00:00:00:01: ZeroDivisionError in ")
    assert any(record.levelno == logging.DEBUG for record in caplog.records)


def test_a_plain_text_is_asked_the_same_way(images: Sequence[Image]) -> None:
    conf = LtsConf.parse(b'[default]\nA = "{{ node.mac }}"\n[node-1]\nIMAGE = ":canary"\n')
    settled = settle(make_site(images, conf, "amd64"), NODE, MACHINE)
    assert settled.conf is conf
    assert (settled.image.manifest.kernel, settled.reference) == ("2", "amd64:canary")
    found = plan_node(make_site(images, conf, "amd64"), NODE, FARM, MACHINE)
    assert found.values == {"A": "{{ node.mac }}", "IMAGE": ":canary"}
    # No template, no secret of one: what an error says is for the node's console as it is.
    conf = LtsConf.parse(f"[default]\nIMAGE = amd64:{TOKEN}\n".encode())
    with pytest.raises(PlanError, match=f"has no tag '{TOKEN}'"):
        settle(make_site(images, conf), NODE)


def test_the_default_is_found_by_the_path_too(renderer: Renderer, images: Sequence[Image]) -> None:
    assert plan(renderer, images, "K = {{ image.kernel }}\n", name="storage").values == {"K": "3"}


# A rollout


def lay_over(site: Site, tag: str, mac: str = NODE.mac or "") -> Site:
    image = next(one for one in site.images if tag in one.tags and one.name == "amd64")
    pin = Pin("amd64", image.digest)
    return dataclasses.replace(site, overlay=Overlay({mac: pin}))


def test_a_rollout_gives_its_machines_another_image(images: Sequence[Image]) -> None:
    site = make_site(images, LtsConf.parse(b"[default]\nA = 1\n"), "amd64")
    canary = lay_over(site, "canary")
    found = settle(canary, NODE)
    assert found.image.manifest.kernel == "2"
    assert found.reference == "amd64:current"
    assert found.rollout == f"amd64@{found.image.digest[:12]}, by the rollout"
    assert plan_node(canary, NODE, FARM).export.endswith(found.image.digest)
    # Others get what lts.conf says, and so does everybody without a rollout.
    other = NodeId("node-2", "10.9.0.12", "52:54:00:00:00:02")
    assert settle(canary, other) == settle(site, other)
    assert settle(canary, NodeId("node-1", "10.9.0.11", None)).rollout == ""
    assert settle(site, NODE).rollout == ""


def test_an_image_that_a_rollout_tries_reboots_what_fails(images: Sequence[Image]) -> None:
    def cmdline(conf: str, *, is_trial: bool) -> list[str]:
        site = lay_over(make_site(images, LtsConf.parse(conf.encode()), "amd64"), "canary")
        pins = {
            mac: dataclasses.replace(pin, is_trial=is_trial)
            for mac, pin in site.overlay.pins.items()
        }
        return list(plan_node(dataclasses.replace(site, overlay=Overlay(pins)), NODE, FARM).cmdline)

    plain, trial = (cmdline("", is_trial=is_trial) for is_trial in (False, True))
    assert set(trial) - set(plain) == {"panic=30", "bootfarm.on_error=reboot"}
    # What lts.conf says comes later, and counts.
    own = '[default]\nKERNEL_CMDLINE = "bootfarm.on_error=shell"\n'
    words = [word for word in cmdline(own, is_trial=True) if "on_error" in word]
    assert words == ["bootfarm.on_error=reboot", "bootfarm.on_error=shell"]


@pytest.mark.parametrize("tag", ["current", "canary"])
def test_a_template_is_rendered_with_the_facts_of_the_rollouts_image(
    renderer: Renderer, images: Sequence[Image], tag: str
) -> None:
    body = b"# jinja2\n[default]\nK = {{ image.kernel }}\n"
    site = make_site(images, LtsTemplate.parse(body, renderer=renderer), "amd64")
    found = plan_node(lay_over(site, tag), NODE, FARM, MACHINE)
    assert found.values["K"] == found.image.manifest.kernel == {"current": "1", "canary": "2"}[tag]


def test_what_lts_conf_pins_a_rollout_leaves_alone(images: Sequence[Image]) -> None:
    current = next(one for one in images if one.name == "amd64" and "current" in one.tags)
    short = current.digest[:12]
    text = f"[default]\nIMAGE = amd64@{short}\n"
    site = lay_over(make_site(images, LtsConf.parse(text.encode()), "amd64"), "canary")
    found = settle(site, NODE)
    assert found.image == current
    words = f"lts.conf pins IMAGE to amd64@{short}: the rollout leaves it alone"
    assert found.rollout == words
    text = "[default]\nIMAGE = storage\n"
    site = lay_over(make_site(images, LtsConf.parse(text.encode()), "amd64"), "canary")
    found = settle(site, NODE)
    assert found.image.name == "storage"
    assert found.rollout == "lts.conf gives it storage: the rollout of amd64 leaves it alone"


def test_a_rollouts_image_that_is_gone_is_told(images: Sequence[Image]) -> None:
    site = make_site(images, LtsConf.parse(b"[default]\nA = 1\n"), "amd64")
    gone = Overlay({NODE.mac or "": Pin("amd64", "f" * 64)})
    found = settle(dataclasses.replace(site, overlay=gone), NODE)
    assert found.reference == "amd64:current"
    assert found.rollout.startswith("the store has no amd64@ffffffffffff")
