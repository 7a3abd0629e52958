import dataclasses
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from server.boot.rehearsal import Rehearser
from server.farm.config import Config
from server.farm.flags import override
from server.ltsconf import LtsConf
from server.site import Site
from server.sources.farm import FarmFile, FarmSource
from server.sources.images import StoreSource
from server.sources.ltsconf import LtsConfSource
from server.sources.sources import Sources
from server.sources.trial import Audience
from tests.kubelet import Mount
from tests.server.farm import publish

ONE = "- {mac: 52:54:00:00:00:01, ip: 10.9.0.11, hostname: node-1}\n"
TWO = ONE + "- {mac: 52:54:00:00:00:02}\n"
OLD = 1_000_000_000
WALL = 2_000_000_000.0


class Edited:
    """A farm.yaml that somebody edits, by rename."""

    def __init__(self, base: Path, text: str, **flags: object) -> None:
        self.path = base / "farm.yaml"
        self.write(text)
        self.file = FarmFile(self.path, lambda config: override(config, **flags))
        self.source = FarmSource(self.file.load(), self.file, wall=lambda: WALL)

    def write(self, text: str, name: str = "farm.yaml") -> None:
        beside = self.path.with_name("beside")
        beside.write_text(text)
        beside.rename(self.path.with_name(name))

    def look(self) -> Config | None:
        """What comes of a look, after the reading in the background."""
        found = self.source.poll()
        while found is None and self.source.is_reading:
            found = self.source.poll()
        return found

    def take(self) -> bool:
        found = self.look()
        return found is not None and self.source.take(found)


@pytest.mark.parametrize("text", ["", "# all gone\n", "~\n"])
def test_a_file_that_is_emptied_is_refused(tmp_path: Path, text: str) -> None:
    farm = Edited(tmp_path, f"inventory:\n{ONE}")
    farm.write(text)
    assert farm.look() is None
    assert "there is nothing in it any more" in farm.source.problem
    assert len(farm.source.current.inventory.machines) == 1


def test_an_inventory_of_its_own_that_is_emptied_is_refused(tmp_path: Path) -> None:
    (tmp_path / "machines.yaml").write_text(TWO)
    farm = Edited(tmp_path, "inventory: machines.yaml\n")
    farm.write("# none\n", "machines.yaml")
    assert farm.look() is None
    assert "machines.yaml: there is no machine in it" in farm.source.problem
    assert len(farm.source.current.inventory.machines) == 2
    farm.write("[]\n", "machines.yaml")
    assert farm.take()
    assert farm.source.problem == ""


def test_a_fault_of_our_own_is_a_refusal_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    farm = Edited(tmp_path, "default_image: amd64\n")

    def fail() -> Config:
        raise KeyError("maybe")

    monkeypatch.setattr(farm.file, "load", fail)
    farm.source.look_again()
    assert farm.look() is None
    assert "KeyError: 'maybe'" in farm.source.problem


def test_no_edit_costs_no_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    farm = Edited(tmp_path, "default_image: amd64\n")
    monkeypatch.setattr(farm.file, "load", lambda: pytest.fail("it was read"))
    assert farm.source.poll() is None
    assert FarmSource(Config()).poll() is None


def test_what_needs_no_bind_is_in_force_after_an_edit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    farm = Edited(tmp_path, "facts: {api: a}\n")
    farm.write(
        "facts: {api: b}\ndefault_image: arm64\ncmdline: [quiet]\nunlisted: menu\n"
        "http: {names: [Boot]}\n"
    )
    with caplog.at_level(logging.INFO):
        assert farm.take()
    now = farm.source.current
    assert (now.facts, now.default_image, now.cmdline) == ({"api": "b"}, "arm64", ("quiet",))
    assert now.unlisted == "menu"
    assert now.http_names == ("boot",)
    assert "http.names, default_image, cmdline, facts, unlisted" in caplog.text
    assert farm.source.problems == []
    assert farm.take() is False


def test_the_inventory_is_watched_in_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "nodes.yaml").write_text(ONE)
    farm = Edited(tmp_path, "inventory: nodes.yaml\n")
    assert len(farm.source.current.inventory.machines) == 1
    farm.write(TWO, "nodes.yaml")
    assert farm.take()
    assert len(farm.source.current.inventory.machines) == 2
    farm.write(ONE, "others.yaml")
    farm.write("inventory: others.yaml\n")
    assert farm.take()
    assert len(farm.source.current.inventory.machines) == 1
    farm.write(TWO, "others.yaml")
    assert farm.take()


def test_a_large_inventory_is_read_without_keeping_anybody_waiting(tmp_path: Path) -> None:
    farm = Edited(tmp_path, "default_image: amd64\n")
    lines = [f'- {{mac: "52:54:00:00:{n >> 8:02x}:{n & 255:02x}"}}' for n in range(1000)]
    farm.write("\n".join(lines), "nodes.yaml")
    farm.write(f"# {'x' * 9000}\ninventory: nodes.yaml\n")
    assert farm.source.poll() is None
    assert farm.source.is_reading
    assert farm.take()
    assert len(farm.source.current.inventory.machines) == 1000


@pytest.mark.parametrize(
    "edit",
    ["listn: 10.9.0.1\n", "\tx: 1\n", "inventory: nosuch.yaml\n", "inventory: [{mac: x}]\n"],
)
def test_a_bad_edit_is_refused_and_told(
    tmp_path: Path, edit: str, caplog: pytest.LogCaptureFixture
) -> None:
    farm = Edited(tmp_path, "default_image: amd64\n")
    farm.write(f"default_image: arm64\n{edit}")
    assert farm.take() is False
    assert farm.source.current.default_image == "amd64"
    (problem,) = farm.source.problems
    assert problem.startswith("refused, the last good text stays in force: ")
    assert str(tmp_path) in problem
    assert problem in caplog.text
    assert farm.source.refusals == 1
    assert farm.source.poll() is None, "refused once, not at each look"
    farm.write("default_image: amd64\n")
    assert farm.take() is False
    assert farm.source.problems == []


def test_a_file_that_goes_is_told(tmp_path: Path) -> None:
    farm = Edited(tmp_path, "default_image: amd64\n")
    farm.path.unlink()
    assert farm.take() is False
    assert "No such file" in farm.source.problems[0]
    farm.write("default_image: amd64\n")
    assert farm.take() is False
    assert farm.source.problems == []


@pytest.mark.parametrize(
    ("edit", "key"),
    [
        ("listen: 127.0.0.1", "listen"),
        ("http: {port: 81}", "http.port"),
        ("nbd: {limits: {connections: 1}}", "nbd.limits"),
        ("tftp: {single_port: true}", "tftp.single_port"),
        ("services: [http]", "services"),
        ("workers: 3", "workers"),
        ("store: /elsewhere", "store"),
        ("state: /elsewhere", "state"),
        ("dhcp: proxy", "dhcp"),
        ("logs: {syslog: on}", "logs"),
        ("dns: {zone: rack.example.org}", "dns"),
        ("nodes: {limit: 10}", "nodes.limit"),
        ("token_file: token", "token_file"),
        ("boot_tree: /srv", "boot_tree"),
        ("configmap: x", "configmap"),
        ("record_boot: x", "record_boot"),
    ],
)
def test_what_must_be_bound_waits_for_a_restart(
    tmp_path: Path, edit: str, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    farm = Edited(tmp_path, "facts: {a: x}\n")
    before = farm.source.current
    farm.write(f"facts: {{a: y}}\n{edit}\n")
    assert farm.take()
    assert farm.source.current == dataclasses.replace(before, facts={"a": "y"})
    assert farm.source.problems == [
        f"{farm.path} on disk differs from what is in force in {key}: restart needed"
    ]
    assert f"restart needed for what was edited in {key}" in caplog.text
    farm.write("facts: {a: y}\n")
    assert farm.take() is False
    assert farm.source.problems == []


@pytest.mark.parametrize(
    ("before", "after", "live"),
    [
        ("", "address: 10.9.0.2", True),
        ("dhcp: proxy", "dhcp: proxy\naddress: 10.9.0.2", False),
        ("token_file: a", "token_file: b", True),
        ("boot_tree: /a", "boot_tree: /b", True),
        ("", "collect_after: 60", False),
        ("state: s", "state: s\ncollect_after: 60", True),
        ("dns: {zone: a.b}", "dns: {zone: a.b, names: {api: 10.9.0.20}}", True),
        ("dns: {zone: a.b}", "dns: {zone: c.d}", False),
    ],
)
def test_what_hangs_on_others(tmp_path: Path, before: str, after: str, live: bool) -> None:
    farm = Edited(tmp_path, before)
    farm.write(after)
    assert farm.take() is live
    assert (farm.source.restart == ()) is live


def test_flags_stay_above_the_file(tmp_path: Path) -> None:
    farm = Edited(tmp_path, "listen: 127.0.0.1\n", listen="127.0.0.9")
    farm.write("listen: 127.0.0.2\n")
    assert farm.take() is False
    assert farm.source.problems == []


def test_a_file_that_is_being_written_is_left_alone_for_a_moment(tmp_path: Path) -> None:
    farm = Edited(tmp_path, "default_image: amd64\n")
    with farm.path.open("w") as file:
        file.write("default_image: ")
    os.utime(farm.path, (WALL, WALL))
    assert farm.look() is None
    farm.path.write_text("default_image: arm64\n")
    os.utime(farm.path, (OLD, OLD))
    assert farm.take()


def test_kubelet_swaps_a_configmap(tmp_path: Path) -> None:
    mount = Mount(tmp_path / "mount")
    mount.swap({"farm.yaml": b"inventory: nodes.yaml\n", "nodes.yaml": ONE.encode()})
    file = FarmFile(tmp_path / "mount" / "farm.yaml", lambda config: config)
    source = FarmSource(file.load(), file)
    mount.swap({"farm.yaml": b"inventory: nodes.yaml\n", "nodes.yaml": TWO.encode()})
    found = source.poll()
    assert found is not None
    assert len(found.inventory.machines) == 2


# With what is made of it


class Whole:
    """Sources with a farm.yaml, an lts.conf and a store."""

    def __init__(self, base: Path, farm: str, ltsconf: str) -> None:
        publish(base / "store")
        self.base = base
        (base / "lts.conf").write_text(ltsconf)
        self.edited = Edited(base, farm)
        config = self.edited.source.current
        store = StoreSource(base / "store")
        store.poll()
        site = Site(store.images, LtsConf.parse(b""), facts=config.facts)
        conf = LtsConfSource(base / "lts.conf", None, site=lambda: site)
        conf.load_first()
        audience = Audience(config.inventory)
        self.sources = Sources(
            site, conf, store, rehearser=Rehearser(audience), farm=self.edited.source
        )
        self.told: list[Config] = []
        self.sources.on_farm(self.told.append)

    def until(self, what: Callable[[], bool]) -> bool:
        for _ in range(2000):
            self.sources.poll()
            if what():
                return True
            time.sleep(0.005)
        return False


def test_an_edit_makes_a_new_site_and_tells_who_keeps_a_part(tmp_path: Path) -> None:
    whole = Whole(tmp_path, f"inventory:\n{ONE}", "[default]\nA = 1\n")
    before = whole.sources.site()
    whole.edited.write(f"default_image: amd64\ncmdline: [quiet]\ninventory:\n{TWO}")
    assert whole.until(lambda: whole.sources.current is not before)
    assert whole.sources.current.default_image == "amd64"
    assert whole.sources.current.cmdline == ("quiet",)
    assert [len(config.inventory.machines) for config in whole.told] == [2]
    assert len(whole.sources.audience.inventory.machines) == 2


def test_facts_that_no_machine_can_use_are_refused(tmp_path: Path) -> None:
    whole = Whole(tmp_path, "facts: {api: a}\n", "# jinja2\n[default]\nA = {{ farm.api }}\n")
    whole.edited.write("facts: {apl: a}\n")
    assert whole.until(lambda: bool(whole.sources.farm.problem))
    assert "farm.api" in whole.sources.problems()[0] or "api" in whole.sources.problems()[0]
    assert whole.sources.current.facts == {"api": "a"}
    whole.edited.write("facts: {api: b}\n")
    assert whole.until(lambda: whole.sources.current.facts == {"api": "b"})
    assert whole.sources.farm.problem == ""


def test_a_template_and_its_new_fact_may_come_together(tmp_path: Path) -> None:
    whole = Whole(tmp_path, "facts: {api: a}\n", "# jinja2\n[default]\nA = {{ farm.api }}\n")
    whole.edited.write("facts: {api: a, zone: z}\n")
    beside = tmp_path / "beside"
    beside.write_text("# jinja2\n[default]\nA = {{ farm.api }} {{ farm.zone }}\n")
    beside.rename(tmp_path / "lts.conf")
    assert whole.until(lambda: whole.sources.ltsconf.taken == 2)
    assert whole.sources.problems() == []


def test_an_export_that_is_not_there_refuses_the_edit(tmp_path: Path) -> None:
    whole = Whole(tmp_path, "default_image: amd64\n", "[default]\nA = 1\n")
    whole.edited.write("default_image: arm64\nexports: {disk: nosuch.img}\n")
    assert whole.until(lambda: bool(whole.sources.farm.problem))
    assert "nosuch.img" in whole.sources.farm.problem
    assert whole.sources.current.default_image is None, "nothing of a refused edit counts"
    assert whole.told == []


def test_another_lts_conf_and_other_secrets(tmp_path: Path) -> None:
    whole = Whole(tmp_path, "default_image: amd64\n", "[default]\nA = 1\n")
    (tmp_path / "other").write_text("[default]\nA = 2\n")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text("x")
    whole.edited.write("lts_conf: other\nsecrets: secrets\n")
    assert whole.until(lambda: whole.sources.current.secrets == {"token": "x"})
    assert whole.until(lambda: whole.sources.ltsconf.taken == 2)
    whole.edited.write("secrets: nosuch\nlts_conf: other\n")
    assert whole.until(lambda: bool(whole.sources.farm.problem))
    assert whole.sources.current.secrets == {"token": "x"}


def test_arguments_that_no_kernel_can_be_given_are_refused(tmp_path: Path) -> None:
    whole = Whole(tmp_path, f"inventory:\n{ONE}", "[default]\nA = 1\n")
    words = ", ".join(f"word{number}=xxxxxxxxxxxxxxxxxxxx" for number in range(100))
    whole.edited.write(f"cmdline: [{words}]\ninventory:\n{ONE}")
    assert whole.until(lambda: bool(whole.sources.farm.problem))
    assert "Linux takes 2047" in whole.sources.problems()[0]
    assert whole.sources.current.cmdline == ()


def test_an_inventory_without_machines_where_only_listed_ones_boot_is_told(
    tmp_path: Path,
) -> None:
    whole = Whole(tmp_path, f"unlisted: refuse\ninventory:\n{ONE}", "[default]\nA = 1\n")
    whole.sources.audience.unlisted = "refuse"
    assert whole.sources.troubles() == []
    whole.edited.write("unlisted: refuse\ninventory: []\n")
    assert whole.until(lambda: bool(whole.told))
    (trouble,) = whole.sources.troubles()
    assert trouble.stops
    assert "the inventory lists no machine" in trouble.text
