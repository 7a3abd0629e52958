"""/healthz, metrics, log and events of a farm that loses what machines need to boot."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imagebuild.store.images import Store
from server.app import App
from server.assemble.parts import make_parts
from server.events import Event
from server.farm.config import Config, Transport
from server.farm.inventory import Inventory, Machine
from server.services.hotloop import HotLoop
from server.sources.farm import FarmFile
from server.sources.images import NEWS_AT_ONCE, StoreSource, list_news
from server.troubles import KINDS
from tests.server.asking import ask
from tests.server.farm import publish
from tests.server.metrics.scrape import Scrape

MACHINES = tuple(
    Machine(f"52:54:00:00:00:0{number}", f"127.0.1.{number}", f"node-{number}")
    for number in range(1, 4)
)
TEMPLATE = '# jinja2\n[default]\nTIMEZONE = UTC\nRCFILE_01 = "login {{ secrets.login }}"\n'


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., App]]:
    publish(tmp_path / "store")
    loop = HotLoop()
    config = Config(
        store=tmp_path / "store",
        services=("http",),
        listen="127.0.0.1",
        http=Transport(0),
        inventory=Inventory(MACHINES),
    )
    apps: list[App] = []

    def make_app(**more: Any) -> App:
        apps.append(App(make_parts(dataclasses.replace(config, **more), loop)))
        return settle(apps[-1])

    yield make_app
    for app in apps:
        app.parts.sources.close()
    loop.close()


def settle(app: App) -> App:
    """Look at everything, and wait for the trial on all machines."""
    sources = app.parts.sources
    sources.reload()
    while sources._survey is not None or sources.farm.is_reading:
        time.sleep(0.01)
        sources.poll()
    return app


def get(app: App, path: str) -> Any:
    response = ask(app, path)
    assert response.status == 200
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


def scrape(app: App) -> Scrape:
    body = ask(app, "/metrics").body
    assert isinstance(body, bytes)
    return Scrape(body)


def kinds(app: App) -> set[str]:
    """The kinds of problems that /metrics counts; each of them has a line on /healthz."""
    seen = scrape(app)
    counts = {kind: seen.get("bootfarm_problems_by_kind", kind=kind) for kind in KINDS}
    assert sum(count or 0 for count in counts.values()) == len(get(app, "/healthz")["problems"])
    return {kind for kind, count in counts.items() if count}


def is_failing(app: App) -> bool:
    failing: bool = get(app, "/healthz")["failing"]
    assert scrape(app).get("bootfarm_failing") == int(failing)
    return failing


def test_a_farm_that_is_well(make: Callable[..., App]) -> None:
    app = make()
    health = get(app, "/healthz")
    assert (health["status"], health["failing"], health["problems"]) == ("ok", False, [])
    assert kinds(app) == set()
    assert is_failing(app) is False


def test_the_lost_tag_current_is_told_with_what_to_do(
    make: Callable[..., App], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app, store = make(), Store(tmp_path / "store")
    digest = store.get("amd64").digest
    store.remove("amd64", "current")
    settle(app)
    assert kinds(app) == {"current", "machines"}
    assert is_failing(app)
    (line,) = [text for text in get(app, "/healthz")["problems"] if text.startswith("image amd64")]
    assert f"has no tag `current`; it was {digest[:12]}" in line
    remedy = f"bootfarm images tag amd64@{digest[:12]} current"
    assert remedy in line
    assert f"the tag amd64:current was removed; it was {digest[:12]}" in caplog.text
    assert ask(app, "/livez").status == 200
    page = ask(app, "/").body
    assert isinstance(page, bytes)
    assert b"No machine can boot" in page
    store.tag("amd64", digest[:12], "current")
    settle(app)
    assert kinds(app) == set()


def test_a_tag_that_was_lost_before_the_start_is_told(
    make: Callable[..., App], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    publish(store, kernel="2")  # amd64 has a previous image now
    publish(store, "other")
    Store(store).remove("amd64", "current")
    assert "current" in kinds(make(default_image="other"))


def test_an_image_that_is_published_under_other_tags_only_is_no_trouble(
    make: Callable[..., App], tmp_path: Path
) -> None:
    publish(tmp_path / "store", "storage", tags=("canary",))
    assert kinds(make(default_image="amd64")) == set()


def test_one_of_two_images_loses_current(make: Callable[..., App], tmp_path: Path) -> None:
    store = tmp_path / "store"
    publish(store, "storage")
    app = make(default_image="amd64")
    Store(store).remove("storage", "current")
    settle(app)
    assert kinds(app) == {"current"}
    assert is_failing(app) is False, "machines of the other image boot"


def test_a_default_image_that_the_store_has_not(make: Callable[..., App]) -> None:
    app = make(default_image="arm64")
    assert "default_image" in kinds(app)
    text = " ".join(get(app, "/healthz")["problems"])
    assert "default_image 'arm64' of farm.yaml is not in the store" in text
    assert "which has amd64" in text


def test_an_image_line_that_no_machine_has_met_is_told_with_its_line(
    make: Callable[..., App], tmp_path: Path
) -> None:
    conf = tmp_path / "lts.conf"
    conf.write_text('[default]\nTIMEZONE = UTC\n[canary]\nIMAGE = ":canary"\n')
    app = make(lts_conf=conf)
    assert kinds(app) == {"image"}
    assert is_failing(app) is False
    (line,) = get(app, "/healthz")["problems"]
    assert line.startswith(f"{conf}:4: IMAGE ':canary': image amd64 has no tag 'canary'")
    Store(tmp_path / "store").tag("amd64", "current", "canary")
    assert kinds(settle(app)) == set()


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("amd64", False),
        ("amd64:current", False),
        ("NONE", False),
        ("amd64:previous", True),
        ("arm64", True),
        ("amd64@000000000000", True),
    ],
)
def test_values_of_image(make: Callable[..., App], tmp_path: Path, value: str, wrong: bool) -> None:
    conf = tmp_path / "lts.conf"
    conf.write_text(f"[elsewhere]\nIMAGE = {value}\n")
    assert ("image" in kinds(make(lts_conf=conf))) is wrong


def test_a_tag_that_any_image_has_will_do_where_dhcp_names_the_image(
    make: Callable[..., App], tmp_path: Path
) -> None:
    publish(tmp_path / "store", "storage", tags=("current", "canary"))
    conf = tmp_path / "lts.conf"
    conf.write_text("[elsewhere]\nIMAGE = :canary\n")
    assert kinds(make(lts_conf=conf)) == set()


def test_image_lines_of_a_template_and_a_secret_that_goes(
    make: Callable[..., App], tmp_path: Path
) -> None:
    conf, secrets = tmp_path / "lts.conf", tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "login").write_text("hush-hush\n")
    conf.write_text(TEMPLATE)
    app = make(lts_conf=conf, secrets=secrets)
    assert kinds(app) == set()
    (secrets / "login").rename(secrets / "other")
    settle(app)
    assert {"secret", "machines"} <= kinds(app)
    assert is_failing(app)
    text = "\n".join(get(app, "/healthz")["problems"])
    assert f"{conf}:4: the template names secrets.login" in text
    assert "hush-hush" not in text
    (secrets / "other").rename(secrets / "login")
    assert kinds(settle(app)) == set()
    beside = tmp_path / "beside"
    beside.write_text(TEMPLATE + "[canary]\nIMAGE = amd64:canary\nIMAGE={{ node.hostname }}\n")
    beside.rename(conf)
    settle(app)
    assert kinds(app) == {"image"}
    assert f"{conf}:6: IMAGE 'amd64:canary'" in get(app, "/healthz")["problems"][0]


def test_a_secret_that_may_lack_is_no_trouble(make: Callable[..., App], tmp_path: Path) -> None:
    conf, secrets = tmp_path / "lts.conf", tmp_path / "secrets"
    secrets.mkdir()
    conf.write_text(TEMPLATE.replace("secrets.login", "secrets.login | default('none')"))
    assert kinds(make(lts_conf=conf, secrets=secrets)) == set()


def test_a_directory_of_secrets_that_goes(make: Callable[..., App], tmp_path: Path) -> None:
    conf, secrets = tmp_path / "lts.conf", tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "login").write_text("hush-hush\n")
    conf.write_text(TEMPLATE)
    app = make(lts_conf=conf, secrets=secrets)
    secrets.rename(tmp_path / "away")
    settle(app)
    assert kinds(app) == {"secret"}
    assert is_failing(app) is False, "the last good ones stay in force"


def test_a_store_that_is_emptied_stops_every_boot(make: Callable[..., App], tmp_path: Path) -> None:
    app = make()
    (tmp_path / "store" / "images").rename(tmp_path / "away")
    settle(app)
    assert "store" in kinds(app)
    assert is_failing(app)


def test_edits_that_are_not_in_force_are_told_by_kind(
    make: Callable[..., App], tmp_path: Path
) -> None:
    path = tmp_path / "farm.yaml"

    def write(text: str) -> None:
        beside = tmp_path / "beside"
        beside.write_text(f"listen: 127.0.0.1\nservices: [http]\nstore: store\n{text}")
        beside.rename(path)

    write("http: {port: 0}\n")
    file = FarmFile(path, lambda config: config)
    loop = HotLoop()
    app = settle(App(make_parts(file.load(), loop, (), file)))
    assert kinds(app) == set()
    write("http: {port: 81}\n")
    assert kinds(settle(app)) == {"restart"}
    write("inventory: [{mac: x}]\n")
    assert kinds(settle(app)) == {"farm", "restart"}
    write("http: {port: 0}\n")
    assert kinds(settle(app)) == set()
    app.parts.sources.close()
    loop.close()


def test_machines_that_were_never_seen_are_counted(make: Callable[..., App]) -> None:
    app = make()
    assert get(app, "/healthz")["unseen"] == 3
    beacon = {"status": "ok", "boot": "a"}
    app.parts.door.record(Event(time.time(), "127.0.1.2", "beacon", "initramfs", beacon))
    assert get(app, "/healthz")["unseen"] == 2
    app.parts.upkeep.overview.turn(time.time())
    assert scrape(app).get("bootfarm_machines", state="unseen") == 2
    assert get(app, "/healthz")["status"] == "ok", "a rack that is being filled is well"


def test_moved_tags_and_new_images_are_logged_and_events(
    make: Callable[..., App], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "store"
    app = make()
    first = Store(store).get("amd64").digest
    assert get(app, "/api/events") == [], "what was there at the start is no news"
    caplog.set_level("INFO")
    second = publish(store, kernel="2").digest
    settle(app)
    words = {event["what"]: event for event in get(app, "/api/events")}
    events = get(app, "/api/events")
    assert [event["source"] for event in events] == ["store"] * 3
    assert words["image"]["detail"]["digest"] == second
    moved = next(event for event in events if event["detail"]["tag"] == "current")
    assert moved["detail"]["digest"] == second
    assert moved["detail"]["before"] == first[:12]
    sentence = f"the tag amd64:current moved from {first[:12]} to {second[:12]}"
    assert moved["detail"]["message"] == sentence
    assert sentence in caplog.text
    assert scrape(app).get("bootfarm_events_total", source="store") == 3
    Store(store).rollback("amd64")
    settle(app)
    assert len(get(app, "/api/events")) == 5, "current and previous were swapped"


def test_news_are_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path / "store")
    image = publish(tmp_path / "store")
    source = StoreSource(tmp_path / "store")
    told: list[object] = []
    source.tell = told.append
    source.poll()
    caplog.set_level("INFO")
    for number in range(NEWS_AT_ONCE + 7):
        store.tag("amd64", image.digest, f"tag-{number}")
    source.poll()
    assert len(told) == NEWS_AT_ONCE
    assert "7 more changes" in caplog.text
    assert list_news(source.images, source.images) == []
    assert list_news([image], [])[0].words == f"amd64@{image.digest[:12]} is gone from the store"


def test_nothing_is_the_matter_with_what_somebody_works_on(make: Callable[..., App]) -> None:
    app = make()
    detail = {"status": "error", "boot": "a", "detail": "no such export", "cause": "not_found"}
    app.parts.door.record(Event(time.time(), "127.0.1.2", "beacon", "root", detail))
    (node,) = app.parts.nodes.nodes()

    def look() -> tuple[str, float]:
        app.parts.upkeep.overview.turn(time.time())
        app.parts.upkeep.metrics.findings.advance(time.time())
        seen = scrape(app)
        found = sum(
            value
            for (name, _), value in seen.samples.items()
            if name == "bootfarm_nodes_with_finding"
        )
        return get(app, f"/api/nodes/{node.key}")["state"], found

    assert look() == ("look", 1)
    app.parts.nodes.annotate(node.key, "disk ordered", True)
    assert look() == ("booting", 0)
    app.parts.nodes.annotate(node.key, "", False)
    assert look() == ("look", 1)


def test_a_hosts_file_that_is_gone_is_told(make: Callable[..., App], tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("10.9.0.1 node-1\n")
    app = make(hosts_file=tmp_path / "hosts")
    assert get(app, "/healthz")["problems"] == []
    (tmp_path / "hosts").unlink()
    (problem,) = get(app, "/healthz")["problems"]
    assert "sections by its names match nothing" in problem
