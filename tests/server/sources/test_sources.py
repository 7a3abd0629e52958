import logging
from pathlib import Path

import pytest

from server.boot.rehearsal import Rehearser, Survey
from server.rollout.overlay import Overlay, Pin
from server.site import Site
from server.sources.images import StoreSource
from server.sources.ltsconf import LtsConfSource
from server.sources.secrets import SecretsSource
from server.sources.sources import Sources
from server.sources.trial import Audience
from tests.server.farm import publish
from tests.server.sources.edited import TEMPLATE, Farm, resolve


def test_the_site_is_replaced_as_a_whole(farm: Farm, tmp_path: Path) -> None:
    farm.rename_in(b"[default]\nA = 1\n")
    conf = farm.source()
    conf.load_first()
    store = StoreSource(tmp_path / "store")
    sources = Sources(Site((), conf.current, default_image="amd64"), conf, store)
    before = sources.site()
    assert sources.site() is before
    assert "no image" in sources.problems()[0]
    publish(tmp_path / "store")
    farm.rename_in(b"[default]\nA = 2\n")
    after = sources.site()
    assert after is not before
    assert after.default_image == "amd64"
    assert len(after.images) == 1
    assert resolve(after.ltsconf) == {"A": "2"}
    assert sources.problems() == []


def test_new_secrets_make_a_new_site(farm: Farm, tmp_path: Path) -> None:
    farm.rename_in(TEMPLATE)
    conf = farm.source()
    conf.load_first()
    directory = tmp_path / "secrets"
    directory.mkdir()
    (directory / "token").write_text("first-secret")
    secrets = SecretsSource(directory)
    secrets.load_first()
    store = StoreSource(tmp_path / "store")
    store.poll()
    changes: list[int] = []
    sources = Sources(Site((), conf.current, facts={"site": "x"}), conf, store, secrets)
    sources.on_change(lambda: changes.append(1))
    before = sources.site()
    assert before.secrets == {"token": "first-secret"}
    assert "first-secret" not in repr(before)
    (tmp_path / "beside").write_text("second-secret")
    (tmp_path / "beside").rename(directory / "token")
    sources.poll()
    assert sources.site().secrets == {"token": "second-secret"}
    assert sources.site().facts == {"site": "x"}
    assert changes == [1]
    (directory / "more").write_bytes(b"\xff")
    sources.poll()
    assert sources.current.secrets == {"token": "second-secret"}
    assert any("secrets refused" in problem for problem in sources.problems())
    (directory / "more").unlink()
    sources.poll()
    assert not any("secrets refused" in problem for problem in sources.problems())


def test_a_warning_is_told_with_its_words_and_none_where_nothing_was_written(
    farm: Farm, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path / "store")
    store = StoreSource(tmp_path / "store")
    store.poll()
    nothing = LtsConfSource(None, None)
    with caplog.at_level(logging.INFO):
        bare = Sources(Site((), nothing.current), nothing, store, None, Rehearser(Audience()))
        bare.poll()
    assert bare.verdict.tried == 1
    assert caplog.messages == []
    farm.rename_in(b"[default]\nTIMEZON = Europe/Prague\nDNS_SERVR = 10.9.0.1\n")
    conf = farm.source()
    conf.load_first()
    with caplog.at_level(logging.INFO):
        Sources(Site((), conf.current), conf, store, None, Rehearser(Audience())).poll()
    (line,) = caplog.messages
    assert ": in force, with 2 warnings of `lts check`: the first: " in line
    assert "lts.conf:2:1: " in line
    assert "TIMEZONE" in line


def test_a_rollout_lays_its_images_over_and_lts_conf_is_not_tried_again(
    farm: Farm, tmp_path: Path
) -> None:
    farm.rename_in(b"[default]\nA = 1\n")
    conf = farm.source()
    conf.load_first()
    digest = publish(tmp_path / "store").digest
    store = StoreSource(tmp_path / "store")
    store.poll()
    rehearser = Rehearser(Audience())
    started: list[Site] = []
    start = rehearser.start

    def note(site: Site) -> Survey:
        started.append(site)
        return start(site)

    rehearser.start = note  # type: ignore[method-assign]
    sources = Sources(Site((), conf.current), conf, store, None, rehearser)
    sources.poll()
    changes: list[int] = []
    sources.on_change(lambda: changes.append(1))
    overlay = Overlay({"52:54:00:00:00:01": Pin("amd64", digest)})
    before = sources.current
    sources.lay_over(overlay)
    assert sources.current is not before
    assert sources.current.overlay == overlay
    sources.lay_over(Overlay(dict(overlay.pins)))
    assert changes == [1], "the same again is nothing new"
    sources.poll()
    assert len(started) == 1
    # It stays when anything else changes.
    farm.rename_in(b"[default]\nA = 2\n")
    sources.poll()
    assert resolve(sources.site().ltsconf) == {"A": "2"}
    assert sources.site().overlay == overlay
