from pathlib import Path

from imagebuild.store.images import Store
from server.sources.images import StoreSource
from tests.server.farm import publish


def test_new_tags_and_images_without_a_restart(tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = publish(store, kernel="1")
    source = StoreSource(store)
    assert source.poll() is True
    assert source.poll() is False
    second = publish(store, kernel="2")
    assert source.poll(quick=True) is True
    tags = {image.digest: image.tags for image in source.images}
    assert tags == {first.digest: ("previous",), second.digest: ("current",)}
    Store(store).tag("amd64", first.digest, "canary")
    assert source.poll() is True
    publish(store, "storage")
    assert source.poll() is True
    assert {image.name for image in source.images} == {"amd64", "storage"}


def test_a_damaged_image_is_told_of_and_the_others_are_served(tmp_path: Path) -> None:
    store = tmp_path / "store"
    good = publish(store, kernel="1")
    bad = publish(store, "storage", kernel="2")
    (bad.path / "manifest.json").write_text("{}")
    source = StoreSource(store)
    source.poll()
    assert source.images == (good,)
    assert bad.digest[:12] in source.problems[0]


def test_an_image_that_lacks_a_file_is_told_of(tmp_path: Path) -> None:
    publish(tmp_path)
    image = Store(tmp_path).get("amd64")
    (image.path / "rootfs.squashfs").unlink()
    source = StoreSource(tmp_path)
    assert source.poll()
    (problem,) = source.problems
    assert problem.endswith("is damaged: rootfs.squashfs cannot be read: No such file or directory")


def test_a_store_that_vanishes_keeps_what_was_on_offer(tmp_path: Path) -> None:
    store = tmp_path / "store"
    publish(store)
    source = StoreSource(store)
    source.poll()
    (store / "images").rename(tmp_path / "away")
    assert source.poll() is False
    assert len(source.images) == 1
    assert "no image any more" in source.problems[0]
    (tmp_path / "away").rename(store / "images")
    source.poll()
    assert source.problems == ()
