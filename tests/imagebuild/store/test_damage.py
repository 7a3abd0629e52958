"""A store in which something is wrong, as `images` and the store's own functions meet it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bootfarm import main
from imagebuild.store.damage import find_damage
from imagebuild.store.images import Image, Store
from imagebuild.store.manifest import MANIFEST_NAME
from tests.imagebuild.store.test_cli import NEW, NEW_FILES, publish


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    publish(store, NEW_FILES, NEW)
    return store


def run(store: Store, verb: str, *words: str) -> Result:
    return CliRunner().invoke(main, ["images", verb, "--store", str(store.path), *words])


def cut_manifest(image: Image) -> None:
    path = image.path / MANIFEST_NAME
    path.write_bytes(path.read_bytes()[:-9])


def cut_root(image: Image) -> None:
    (image.path / "rootfs.squashfs").write_bytes(b"short")


def lose_root(image: Image) -> None:
    (image.path / "rootfs.squashfs").unlink()


BREAKS = [
    (cut_manifest, "is not JSON"),
    (cut_root, "rootfs.squashfs has 5 bytes, and its manifest says"),
    (lose_root, "rootfs.squashfs cannot be read: No such file or directory"),
]


@pytest.mark.parametrize(("damage", "words"), BREAKS)
@pytest.mark.parametrize("output", ["table", "json", "name", "wide"])
def test_a_list_says_what_is_damaged_and_ends_with_1(
    store: Store, damage: Callable[[Image], None], words: str, output: str
) -> None:
    assert run(store, "list", "--output", output).exit_code == 0
    damage(store.get("amd64"))
    result = run(store, "list", "--output", output)
    assert result.exit_code == 1
    assert words in result.output
    assert "which replaces it, or take it away: bootfarm images rm amd64@" in result.output


def test_a_tag_that_leads_nowhere_is_told(store: Store) -> None:
    assert find_damage(store) == []
    (store.path / "images/amd64/tags/canary").symlink_to(f"../{'0' * 64}")
    (error,) = find_damage(store)
    assert error.message.endswith("tags/canary leads to no image")
    assert run(store, "list").exit_code == 1
    store.tag("amd64", "current", "canary")
    assert find_damage(store) == []


@pytest.mark.parametrize(("damage", "words"), BREAKS)
def test_a_damaged_image_can_be_replaced_and_removed(
    store: Store, tmp_path: Path, damage: Callable[[Image], None], words: str
) -> None:
    """The remedies that are told are ones that work."""
    image = store.get("amd64")
    other = Store(tmp_path / "other")
    other.import_image(image.path)
    damage(image)
    assert words in find_damage(store)[0].message
    whole = other.get("amd64")
    assert store.import_image(whole.path).digest == image.digest
    store.verify(store.get("amd64"))
    damage(image)
    assert publish(store, NEW_FILES, NEW).digest == image.digest
    store.verify(store.get("amd64"))
    damage(image)
    name = f"amd64@{image.digest[:12]}"
    refused = run(store, "rm", name, "--no-server")
    assert (refused.exit_code, image.path.exists()) == (1, True)
    assert run(store, "rm", name, "--force").exit_code == 0
    assert not image.path.exists()
    assert find_damage(store) == []
    assert store.images() == []


def test_what_is_in_use_is_named_by_its_first_digits_or_refused(store: Store) -> None:
    """A digest that is misspelt would spare nothing."""
    image = store.get("amd64")
    store.remove("amd64", "current")
    for text in ("zz", image.digest[:11], "0" * 12):
        result = run(store, "gc", "--no-server", "--in-use", text)
        assert (result.exit_code, image.path.exists()) == (1, True)
        assert f"--in-use {text!r} is no digest of an image" in result.output
    for text in (image.digest[:12], f"amd64@{image.digest[:14]}", image.digest):
        assert run(store, "gc", "--no-server", "--in-use", text).exit_code == 0
        assert image.path.exists()
    assert run(store, "gc", "--no-server", "--in-use", "0" * 64).exit_code == 0
    assert not image.path.exists()
