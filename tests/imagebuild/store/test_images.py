import multiprocessing
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from imagebuild.store.images import CURRENT, PREVIOUS, Image, Store, StoreError
from imagebuild.store.manifest import MANIFEST_NAME, FileEntry, Manifest


def make_image(directory: Path, content: str, name: str = "amd64", size: int = 1) -> Path:
    """An image's directory whose digest depends on `content`."""
    image = directory / f"made-{name}-{content}"
    (image / "boot").mkdir(parents=True)
    (image / "rootfs.squashfs").write_bytes(content.encode() * size)
    (image / "boot/core.0").write_bytes(b"core")
    files = {path: FileEntry.of(image / path) for path in ("rootfs.squashfs", "boot/core.0")}
    manifest = Manifest(name, "debian", "bookworm", "amd64", "6.1", files=files)
    (image / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    return image


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def publish(store: Store, content: str, name: str = "amd64") -> Image:
    with store.writing() as staging:
        return store.publish(name, make_image(staging, content, name))


def test_an_empty_store_has_nothing_and_is_not_made(store: Store) -> None:
    assert store.images() == []
    assert store.names() == []
    assert not store.path.exists()
    with pytest.raises(StoreError, match="no image 'amd64' in the store") as caught:
        store.get("amd64")
    assert "bootfarm build" in caught.value.hint


def test_publish_makes_an_image_that_current_names(store: Store) -> None:
    image = publish(store, "one")
    assert image.path == store.path / "images/amd64" / image.digest
    assert image.tags == (CURRENT,)
    assert (image.path / "rootfs.squashfs").read_bytes() == b"one"
    assert store.get("amd64") == image
    assert store.get("amd64", image.digest) == image
    assert store.get("amd64", image.digest[:12]) == image
    assert store.images() == [image]
    assert os.readlink(store.path / "images/amd64/tags/current") == f"../{image.digest}"
    assert os.listdir(store.path / "tmp") == []
    store.verify(image)


def test_the_next_one_keeps_the_last_as_previous(store: Store) -> None:
    one, two = publish(store, "one"), publish(store, "two")
    assert store.get("amd64").digest == two.digest
    assert store.get("amd64", PREVIOUS).digest == one.digest


def test_publishing_the_same_again_changes_nothing(store: Store) -> None:
    one = publish(store, "one")
    two = publish(store, "two")
    again = publish(store, "two")
    assert again == two
    assert store.get("amd64", PREVIOUS).digest == one.digest


def test_rollback_swaps(store: Store) -> None:
    one, two = publish(store, "one"), publish(store, "two")
    assert store.rollback("amd64").digest == one.digest
    assert store.get("amd64", PREVIOUS).digest == two.digest
    assert store.rollback("amd64").digest == two.digest


def test_rollback_without_a_previous_one(store: Store) -> None:
    publish(store, "one")
    with pytest.raises(StoreError, match="no previous image"):
        store.rollback("amd64")


def test_publish_with_a_tag_leaves_current_alone(store: Store, tmp_path: Path) -> None:
    one = publish(store, "one")
    canary = store.publish("amd64", make_image(tmp_path, "two"), tags=["canary"])
    assert canary.tags == ("canary",)
    assert store.get("amd64").digest == one.digest


def test_files_that_servers_of_other_users_can_read(store: Store, tmp_path: Path) -> None:
    made = make_image(tmp_path, "one")
    (made / "rootfs.squashfs").chmod(0o600)
    (made / "boot").chmod(0o700)
    image = store.publish("amd64", made)
    assert (image.path / "rootfs.squashfs").stat().st_mode & 0o777 == 0o644
    assert (image.path / "boot").stat().st_mode & 0o777 == 0o755
    assert image.path.stat().st_mode & 0o777 == 0o755


def damage_size(image: Path) -> None:
    (image / "rootfs.squashfs").write_bytes(b"longer than before")


def damage_bytes(image: Path) -> None:
    (image / "rootfs.squashfs").write_bytes(b"ONE")


def remove_file(image: Path) -> None:
    (image / "boot/core.0").unlink()


def add_file(image: Path) -> None:
    (image / "extra").write_bytes(b"")


def link_file(image: Path) -> None:
    (image / "boot/core.0").unlink()
    (image / "boot/core.0").symlink_to("/etc/passwd")


def reformat(image: Path) -> None:
    manifest = image / MANIFEST_NAME
    manifest.write_bytes(manifest.read_bytes().replace(b",", b", "))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_size, "rootfs.squashfs is not what the manifest says"),
        (damage_bytes, "rootfs.squashfs is not what the manifest says"),
        (remove_file, "core.0 is in the manifest, but not a file"),
        (add_file, "extra is not in the manifest"),
        (link_file, "core.0 is in the manifest, but not a file"),
        (reformat, "not in canonical form"),
        (lambda image: (image / MANIFEST_NAME).unlink(), "cannot read .*manifest.json"),
    ],
)
def test_a_damaged_image_is_not_published(
    store: Store, tmp_path: Path, damage: object, message: str
) -> None:
    one = publish(store, "first")
    made = make_image(tmp_path, "one")
    assert callable(damage)
    damage(made)
    with pytest.raises(StoreError, match=message):
        store.publish("amd64", made)
    if damage is not add_file:  # an import copies only what the manifest names
        with pytest.raises(StoreError):
            store.import_image(made)
    assert store.images() == [one]


def test_an_image_of_another_name_is_not_published(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="of image 'amd64', not 'arm'"):
        store.publish("arm", make_image(tmp_path, "one"))


@pytest.mark.parametrize("tag", ["", "a/b", "..", "x" * 64, "0" * 64, "0123456789ab"])
def test_bad_tags(store: Store, tmp_path: Path, tag: str) -> None:
    one = publish(store, "one")
    with pytest.raises(StoreError, match="is not a tag"):
        store.tag("amd64", CURRENT, tag)
    with pytest.raises(StoreError, match="is not a tag"):
        store.publish("amd64", make_image(tmp_path, "two"), tags=[tag])
    assert store.images() == [one]


@pytest.mark.parametrize("name", ["..", "/etc", "a/b", ""])
def test_a_name_never_leaves_the_store(store: Store, name: str) -> None:
    publish(store, "one")
    with pytest.raises(StoreError, match="not an image name"):
        store.get(name)


@pytest.mark.parametrize("reference", ["nothing", "0" * 64, "../x", "00", "ffffffffffff"])
def test_what_is_not_there_names_what_is(store: Store, reference: str) -> None:
    publish(store, "one")
    with pytest.raises(StoreError, match="no tag or digest") as caught:
        store.get("amd64", reference)
    assert "current" in caught.value.hint


def test_one_damaged_image_does_not_hide_the_others(store: Store) -> None:
    one, two = publish(store, "one"), publish(store, "two")
    (one.path / MANIFEST_NAME).write_bytes(b"{}")
    assert [image.digest for image in store.images()] == [two.digest]
    with pytest.raises(StoreError, match="format None"):
        store.get("amd64", one.digest)


def test_a_manifest_with_another_digest_is_damaged(store: Store) -> None:
    one, two = publish(store, "one"), publish(store, "two")
    (one.path / MANIFEST_NAME).write_bytes((two.path / MANIFEST_NAME).read_bytes())
    with pytest.raises(StoreError, match="does not match its digest"):
        store.get("amd64", one.digest)


def test_remove_a_tag_then_the_image(store: Store) -> None:
    one, two = publish(store, "one"), publish(store, "two")
    with pytest.raises(StoreError, match="is tagged previous"):
        store.remove("amd64", one.digest)
    store.remove("amd64", PREVIOUS)
    store.remove("amd64", one.digest)
    assert [image.digest for image in store.images()] == [two.digest]
    assert not one.path.exists()
    store.remove("amd64", two.digest, force=True)
    assert store.images() == []
    assert os.listdir(store.path / "images/amd64/tags") == []


def test_garbage_is_what_nobody_names_or_reads(store: Store) -> None:
    one, two, three = (publish(store, text) for text in ("one", "two", "three"))
    kept = store.collect_garbage(in_use={one.digest})
    assert kept.images == ()
    collected = store.collect_garbage()
    assert [image.digest for image in collected.images] == [one.digest]
    assert collected.freed == one.size
    assert {image.digest for image in store.images()} == {two.digest, three.digest}


def test_a_living_writer_is_not_garbage(store: Store) -> None:
    with store.writing() as staging:
        (staging / "file").write_bytes(b"x")
        dead = store.path / "tmp/dead"
        dead.mkdir()
        (dead / "file").write_bytes(b"1234")
        collected = store.collect_garbage()
        assert collected.abandoned == 1
        assert collected.freed == 4
        assert (staging / "file").exists()
    assert os.listdir(store.path / "tmp") == []


def test_import_copies_and_keeps_the_source(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    theirs = publish(other, "one")
    ours = store.import_image(theirs.path, tags=["baked"])
    assert ours.digest == theirs.digest
    assert ours.tags == ("baked",)
    other.verify(theirs)
    again = store.import_image(theirs.path)
    assert again.tags == ("baked", CURRENT)


def test_an_open_file_outlives_its_image(store: Store) -> None:
    """A node that reads an image which is collected under it reads on."""
    one = publish(store, "one")
    publish(store, "two")
    publish(store, "three")
    with (one.path / "rootfs.squashfs").open("rb") as stream:
        store.collect_garbage()
        assert not one.path.exists()
        assert stream.read() == b"one"


def _publish_for_ever(path: Path, work: Path) -> None:
    store = Store(path)
    number = 0
    while True:
        number += 1
        made = make_image(work, f"{os.getpid()}-{number}", size=2000)
        store.publish("amd64", made)
        if number % 3 == 0:
            store.collect_garbage()


def test_a_writer_killed_at_any_moment_leaves_a_whole_store(store: Store, tmp_path: Path) -> None:
    first = publish(store, "first")
    context = multiprocessing.get_context("fork")
    for attempt in range(12):
        work = tmp_path / f"work-{attempt}"
        work.mkdir()
        before = len(os.listdir(store.path / "images/amd64"))
        writer = context.Process(target=_publish_for_ever, args=(store.path, work))
        writer.start()
        # Not a timed assertion: whatever moment the kill hits must be fine.
        time.sleep(0.01 * attempt)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        assert store.get("amd64").digest
        for image in store.images():
            store.verify(image)
        assert len(store.images()) + 1 >= min(before, 2)
    store.collect_garbage()
    assert os.listdir(store.path / "tmp") == []
    tagged = {image.digest for image in store.images() if image.tags}
    assert {image.digest for image in store.images()} == tagged
    assert first.name == "amd64"


class StoreMachine(RuleBasedStateMachine):
    """The store against a model of two mappings."""

    digests = Bundle("digests")

    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.directory.name) / "store")
        self.present: set[str] = set()
        self.tags: dict[str, str] = {}

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self.directory.cleanup()

    def move(self, tag: str, digest: str) -> None:
        if tag == CURRENT and CURRENT in self.tags and self.tags[CURRENT] != digest:
            self.tags[PREVIOUS] = self.tags[CURRENT]
        self.tags[tag] = digest

    @rule(target=digests, content=st.sampled_from("abcde"))
    def publish(self, content: str) -> str:
        image = publish(self.store, content)
        self.present.add(image.digest)
        self.move(CURRENT, image.digest)
        return image.digest

    @rule(digest=digests, tag=st.sampled_from([CURRENT, "canary", "stable"]))
    def tag(self, digest: str, tag: str) -> None:
        if digest not in self.present:
            with pytest.raises(StoreError):
                self.store.tag("amd64", digest, tag)
            return
        self.store.tag("amd64", digest, tag)
        self.move(tag, digest)

    @rule()
    def rollback(self) -> None:
        if PREVIOUS not in self.tags:
            with pytest.raises(StoreError):
                self.store.rollback("amd64")
            return
        self.store.rollback("amd64")
        self.move(CURRENT, self.tags[PREVIOUS])

    @rule(digest=digests, force=st.booleans())
    def remove(self, digest: str, force: bool) -> None:
        tagged = digest in self.tags.values()
        if digest not in self.present or (tagged and not force):
            with pytest.raises(StoreError):
                self.store.remove("amd64", digest, force=force)
            return
        self.store.remove("amd64", digest, force=force)
        self.present.discard(digest)
        self.tags = {tag: d for tag, d in self.tags.items() if d != digest}

    @rule(in_use=st.lists(digests, max_size=2))
    def collect(self, in_use: list[str]) -> None:
        self.store.collect_garbage(in_use)
        self.present &= set(self.tags.values()) | set(in_use)

    @invariant()
    def same_as_model(self) -> None:
        if not hasattr(self, "store"):
            return
        images = self.store.images()
        assert {image.digest for image in images} == self.present
        assert {tag: image.digest for image in images for tag in image.tags} == self.tags


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
