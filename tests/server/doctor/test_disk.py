"""Faults on the server's own disks."""

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from server.doctor.disk import check_space, check_store
from tests.server.doctor.site import FakeSite
from tests.server.farm import publish

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("free", "expected"),
    [(10**12, []), (65 * 2**20, []), (1000, ["space.store", "space.state"])],
)
def test_room(
    site: FakeSite, monkeypatch: pytest.MonkeyPatch, free: int, expected: list[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free, 0, free))
    assert site.ids(check_space) == expected


def test_room_of_a_state_that_is_not_made_yet(site: FakeSite, tmp_path: Path) -> None:
    site.target = replace(site.target, state=tmp_path / "later" / "state", store=None)
    (verdict,) = site.look(check_space)
    assert verdict.id == "space.ok"


def test_no_store_is_named(site: FakeSite, tmp_path: Path) -> None:
    site.target = replace(site.target, store=None)
    assert site.ids(check_store) == ["store.unknown"]
    site.target = replace(site.target, store=tmp_path / "nothing")
    assert site.ids(check_store) == ["store.unknown"]


def test_store_without_images(site: FakeSite) -> None:
    assert site.target.store is not None
    shutil.rmtree(site.target.store / "images")
    assert site.ids(check_store) == ["store.empty"]


@pytest.mark.parametrize("damage", ["changed", "gone", "more"])
def test_damaged_image(site: FakeSite, damage: str) -> None:
    file = site.image.path / "vmlinuz"
    if damage == "changed":
        data = file.read_bytes()
        file.chmod(0o644)
        file.write_bytes(data[:-1] + b"!")
    elif damage == "gone":
        file.unlink()
    else:
        (site.image.path / "more").write_bytes(b"")
    assert site.ids(check_store) == ["store.damaged"]


def test_damaged_manifest(site: FakeSite) -> None:
    manifest = site.image.path / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_bytes(b"{}")
    assert site.ids(check_store) == ["store.empty", "store.damaged"]


def test_images_without_the_tag_are_read_with_full_only(site: FakeSite) -> None:
    assert site.target.store is not None
    old = publish(site.target.store, kernel="5.0", tags=("old",))
    (old.path / "vmlinuz").unlink()
    assert site.ids(check_store) == []
    site.target = replace(site.target, full=True)
    assert site.ids(check_store) == ["store.damaged"]
