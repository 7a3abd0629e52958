"""A text tried on machines: refused when none can use it, told of when some cannot."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuild.store.images import Image, Store
from server.boot.rehearsal import Survey, decide, survey
from server.farm.inventory import Inventory, Machine
from server.ltsconf import LtsConf, LtsConfError, LtsTemplate, NodeId
from server.ltsconf.template import Renderer
from server.site import Site
from server.sources.trial import MADE_UP, Audience, Subject, Verdict
from tests.server.farm import publish

ONE = Subject(NodeId("r1-n001", "10.9.1.1", "52:54:00:00:00:01"), {"serial": "S-1"})
TWO = Subject(NodeId("r1-n002", "10.9.1.2", "52:54:00:00:00:02"))
OTHER = Subject(MADE_UP)
HEAD = b"# jinja2\n[default]\n"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Image, ...]:
    store = tmp_path_factory.mktemp("store")
    publish(store)
    return tuple(Store(store).images())


def make_site(images: tuple[Image, ...], text: bytes, **more: object) -> Site:
    conf = LtsTemplate.parse(text) if text.startswith(b"# jinja2") else LtsConf.parse(text)
    return Site(images, conf, facts={"api": "10.9.0.1"}, secrets={"token": "abcdef"}, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "line", "says"),
    [
        (b"A = {{ farm.apl }}\n", 3, "farm.apl is undefined"),
        (b"A = {{ 1 / 0 }}\n", 3, "division by zero"),
        (b"{% if node.mac %}A=1\n[x\n{% endif %}\n", 4, "inside the brackets of a header"),
        (b"A = {{ node.serial }}\n", 3, "node.serial is undefined"),
    ],
)
def test_what_no_machine_can_use_is_refused_with_the_line(
    images: tuple[Image, ...], renderer: Renderer, body: bytes, line: int, says: str
) -> None:
    site = make_site(images, HEAD + body)
    with pytest.raises(LtsConfError) as caught:
        decide(site.ltsconf, site, [TWO, OTHER], renderer)
    assert says in caught.value.message
    assert "each of the 2 machines" in caught.value.message
    assert (caught.value.path, caught.value.line) == ("lts.conf", line)
    assert caught.value.hint


def test_a_text_is_taken_when_one_machine_can_use_it(
    images: tuple[Image, ...], renderer: Renderer
) -> None:
    site = make_site(images, HEAD + b"A = {{ node.serial }}\n")
    assert decide(site.ltsconf, site, [TWO, ONE, OTHER], renderer)


def test_an_image_that_the_store_lacks_is_no_fault_of_the_text(
    images: tuple[Image, ...], renderer: Renderer
) -> None:
    for text in (b'[default]\nIMAGE = ":nosuch"\n', HEAD + b'IMAGE = ":nosuch"\n'):
        site = make_site(images, text)
        assert decide(site.ltsconf, site, [ONE, OTHER], renderer)
        (line,) = survey(site, [ONE, OTHER]).describe("lts.conf")
        assert "none of 2 machines can boot" in line
        assert "has no tag 'nosuch'" in line


def test_an_empty_store_is_no_reason_to_take_a_broken_text(renderer: Renderer) -> None:
    site = make_site((), HEAD + b"A = {{ farm.apl }}\n")
    with pytest.raises(LtsConfError, match=r"farm\.apl"):
        decide(site.ltsconf, site, [ONE], renderer)
    site = make_site((), HEAD + b"A = {{ image.versions.kubelet }}\n")
    assert decide(site.ltsconf, site, [ONE], renderer)


def test_a_like_cycle_that_every_machine_meets_is_refused(images: tuple[Image, ...]) -> None:
    site = make_site(images, b"[*]\nLIKE = a\n[a]\nLIKE = a\n")
    with pytest.raises(LtsConfError, match="cycle"):
        decide(site.ltsconf, site, [ONE, TWO])
    site = make_site(images, b"[r1-n001]\nLIKE = a\n[a]\nLIKE = a\n")
    assert decide(site.ltsconf, site, [ONE, TWO])
    verdict = survey(site, [ONE, TWO])
    assert (verdict.failed, verdict.tried, verdict.reasons[0].names) == (1, 2, ("r1-n001",))


def test_machines_are_grouped_by_what_fails(images: tuple[Image, ...]) -> None:
    body = b"A = {{ node.serial }}\n{% if node.ip == '192.0.2.1' %}B = {{ nosuch }}{% endif %}\n"
    three = Subject(NodeId("r1-n003", "10.9.1.3", "52:54:00:00:00:03"))
    verdict = survey(make_site(images, HEAD + body), [ONE, TWO, three, OTHER])
    assert (verdict.total, verdict.tried, verdict.failed) == (4, 4, 3)
    (line, lint_line) = verdict.describe("lts.conf")
    assert line.startswith("3 of 4 machines cannot boot with lts.conf: lts.conf:3:1: node.serial")
    assert "(r1-n002, r1-n003, any machine that the inventory does not have)" in line
    assert "1 error of `lts check`: lts.conf:4:1: a template has no name 'nosuch'" in lint_line


def test_values_that_a_template_computes_for_some_machine(images: tuple[Image, ...]) -> None:
    """What `lts check --config` calls an error of a machine's values, the server tells, too."""
    body = (
        b"TIMEZONE = {{ 'Europe/Pragu' if node.hostname == 'r1-n002' else 'UTC' }}\n"
        b"DNS_SERVER = {{ farm.api }}\n"
        b"SYSLOG_HOST = {{ secrets.token }}\n"
    )
    site = make_site(images, HEAD + body)
    verdict = survey(site, [ONE, TWO, OTHER])
    assert (verdict.failed, verdict.errors) == (0, 1)
    (told,) = verdict.describe("lts.conf")
    assert told.startswith("lts.conf is in force with 1 error of `lts check`: lts.conf:3:1: ")
    assert "TIMEZONE: 'Europe/Pragu' is no time zone (1: r1-n002)" in told
    assert "abcdef" not in told
    assert survey(site, [ONE, OTHER]).errors == 0


def test_no_piece_of_a_secret_stands_in_what_is_told_of_a_value(
    images: tuple[Image, ...],
) -> None:
    body = b"TIMEZONE = {{ 'Europe/' ~ secrets.zone[:9] }}\n"
    site = make_site(images, HEAD + body)
    site = dataclasses.replace(site, secrets={"zone": "hunter2-and-more"})
    (told,) = survey(site, [ONE, TWO, OTHER]).describe("lts.conf")
    assert "is no time zone (3: " in told
    assert "hunter" not in told


def test_the_budget_ends_it_and_is_told(images: tuple[Image, ...]) -> None:
    ticks = iter(range(100))
    site = make_site(images, b'[default]\nIMAGE = ":nosuch"\n')
    clock: Callable[[], float] = lambda: float(next(ticks))  # noqa: E731
    verdict = survey(site, [ONE, TWO, OTHER], seconds=1.5, clock=clock)
    assert (verdict.total, verdict.tried) == (3, 2)
    assert "was tried on 2 of 3 machines" in verdict.describe("x")[1]


def test_no_secret_is_told(images: tuple[Image, ...], renderer: Renderer) -> None:
    site = make_site(images, HEAD + b"A = {{ {}[secrets.token] }}\n")
    assert "abcdef" not in " ".join(survey(site, [ONE]).describe("x"))
    with pytest.raises(LtsConfError) as caught:
        decide(site.ltsconf, site, [ONE], renderer)
    assert "abcdef" not in caught.value.format_message()


@pytest.mark.parametrize("sign", ["\\", "'"])
def test_a_command_line_that_holds_one_is_not_told_either(
    images: tuple[Image, ...], sign: str
) -> None:
    line = f'KERNEL_CMDLINE = "a{sign}{{{{ secrets.token }}}}"\n'
    verdict = survey(make_site(images, HEAD + line.encode()), [ONE])
    assert (verdict.tried, verdict.failed) == (1, 1)
    assert "KERNEL_CMDLINE" in verdict.reasons[0].words
    assert "abcdef" not in verdict.reasons[0].words


@pytest.mark.parametrize("words", ["a #b", "a ; b", "a || b", "${net0/mac}", "it's", "x" * 3000])
def test_arguments_that_no_kernel_gets_are_refused_with_their_line(
    images: tuple[Image, ...], renderer: Renderer, words: str
) -> None:
    text = f'[default]\nA = 1\nKERNEL_CMDLINE = "{words}"\n'.encode()
    for head, lines in ((b"", (3,)), (b"# jinja2\n", (0, 4))):
        site = make_site(images, head + text)
        with pytest.raises(LtsConfError, match="so it is for each of the 2 machines") as caught:
            decide(site.ltsconf, site, [ONE, TWO], renderer)
        assert caught.value.path
        assert caught.value.line in lines
        assert survey(site, [ONE, TWO]).stops


def test_where_machines_boot_by_grub_ipxe_is_not_asked(
    images: tuple[Image, ...], renderer: Renderer
) -> None:
    text = b'[default]\nKERNEL_CMDLINE = "a #b"\n'
    site = make_site(images, text, loader="grub")
    assert decide(site.ltsconf, site, [ONE], renderer)
    assert survey(site, [ONE]).list_troubles("x") == []


def test_a_template_that_renders_to_nothing_is_refused(
    images: tuple[Image, ...], renderer: Renderer
) -> None:
    text = b"# jinja2\n{%% if node.hostname == '%s' %%}\n[default]\nA = 1\n{%% endif %%}\n"
    site = make_site(images, text % b"nobody")
    with pytest.raises(LtsConfError, match="has no section, for none of the 2 machines") as caught:
        decide(site.ltsconf, site, [ONE, TWO], renderer)
    assert caught.value.path
    assert caught.value.hint
    site = make_site(images, text % (TWO.node.hostname or "").encode())
    assert decide(site.ltsconf, site, [ONE, TWO], renderer), "one machine gets something"


def wait_for(trial: Survey) -> Verdict:
    deadline = time.monotonic() + 60
    while trial.verdict is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert trial.verdict is not None
    return trial.verdict


def test_a_process_of_its_own_says_the_same(images: tuple[Image, ...]) -> None:
    site = make_site(images, HEAD + b"A = {{ node.serial }}\nTIMEZONE = Europe/Pragu\n")
    subjects = [ONE, TWO, OTHER]
    assert wait_for(Survey(site, subjects)) == survey(site, subjects)


def test_a_small_text_needs_none(images: tuple[Image, ...]) -> None:
    trial = Survey(make_site(images, b"[default]\nTIMEZONE = Europe/Pragu\n"), [ONE])
    assert trial.verdict is not None
    assert trial.verdict.errors == 1
    assert "lts.conf:2:1: TIMEZONE: 'Europe/Pragu' is no time zone" in trial.verdict.remark


def test_the_audience(tmp_path: Path) -> None:
    listed = Machine("52:54:00:00:00:01", "10.9.1.1", "r1-n001", serial="S-1")
    seen = [NodeId("old", "10.9.1.9", "52:54:00:00:00:01"), NodeId(None, "10.9.1.8", None)]
    audience = Audience(Inventory((listed,)), seen=lambda: seen)
    assert audience.list() == [ONE, Subject(NodeId(None, "10.9.1.8", None)), OTHER]
    audience.unlisted = "refuse"
    assert audience.list() == [ONE]
    assert Audience(unlisted="refuse").list() == [OTHER]


def test_the_refusal_says_that_the_command_line_is_to_blame(
    images: tuple[Image, ...], renderer: Renderer
) -> None:
    """So a server without a text that was good before starts with it, and says so."""
    site = make_site(images, b'[default]\nKERNEL_CMDLINE = "a #b"\n')
    with pytest.raises(LtsConfError) as caught:
        decide(site.ltsconf, site, [ONE], renderer)
    assert caught.value.cause == "command_line"


def test_a_mixed_farm_without_a_default(tmp_path: Path) -> None:
    """Which loader a machine runs is not known: any that fits its image will do."""
    publish(tmp_path, "amd64")
    publish(tmp_path, "arm64", architecture="arm64")
    images = tuple(Store(tmp_path).images())
    for name in ("amd64", "arm64"):
        site = make_site(images, f"[default]\nIMAGE = {name}\n".encode())
        assert survey(site, [ONE, OTHER]).failed == 0
    told = [Subject(ONE.node, {"arch": "arm64"}), Subject(TWO.node, {"arch": "amd64"})]
    verdict = survey(make_site(images, b"[default]\nIMAGE = amd64\n"), told)
    assert verdict.failed == 1
    assert "is for amd64 machines, and this machine is arm64" in verdict.reasons[0].words
    assert verdict.reasons[0].names == ("r1-n001",)
    both = {"amd64": "amd64", "arm64": "arm64"}
    assert survey(make_site(images, b"[default]\nA = 1\n", default_image=both), told).failed == 0


def test_the_audience_has_what_firmware_said(images: tuple[Image, ...]) -> None:
    said = {"52:54:00:00:00:01": "arm64"}
    audience = Audience(
        Inventory((Machine("52:54:00:00:00:01", serial="A"),)),
        seen=lambda: [TWO.node],
        architecture=lambda mac: said.get(mac or "", ""),
    )
    known = [dict(subject.known) for subject in audience.list()]
    assert known == [{"serial": "A", "arch": "arm64"}, {}, {}]
