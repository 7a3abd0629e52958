import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bootfarm import main
from imagebuild.errors import BuildError
from imagebuild.store.cli import parse_reference
from imagebuild.store.images import Store
from imagebuild.store.inuse import GRACE_SECONDS, InUseRecord
from imagebuild.store.manifest import MANIFEST_NAME, FileEntry, Manifest
from imagebuild.store.shown import format_size


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with two images of amd64, `two` being current."""
    store = Store(tmp_path / "store")
    for content in ("one", "two"):
        with store.writing() as staging:
            (staging / "rootfs.squashfs").write_text(content)
            files = {"rootfs.squashfs": FileEntry.of(staging / "rootfs.squashfs")}
            manifest = Manifest(
                "amd64", "debian", "x", "amd64", "6.1", versions={"kubelet": "1.20.2"}, files=files
            )
            (staging / MANIFEST_NAME).write_bytes(manifest.to_bytes())
            store.publish("amd64", staging)
    return store


def bootfarm(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def images(store: Store, verb: str, *words: str | Path) -> Result:
    return bootfarm("images", verb, "--store", store.path, *words)


def test_list(store: Store) -> None:
    result = images(store, "list")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].split() == ["IMAGE", "TAGS", "SIZE", "KERNEL", "VERSIONS"]
    current = store.get("amd64")
    assert lines[1].split() == [
        *(f"amd64@{current.digest[:12]}", "current", "3", "B", "6.1", "kubelet=1.20.2"),
    ]
    assert lines[2].split()[1] == "previous"
    assert lines[3].startswith("2 images; the store takes ")


def test_tag_rollback_rm_gc(store: Store) -> None:
    one, two = store.get("amd64", "previous"), store.get("amd64")
    assert images(store, "rollback", "amd64").output == f"amd64:current is {one.digest}\n"
    assert images(store, "tag", f"amd64@{two.digest[:12]}", "canary").exit_code == 0
    assert store.get("amd64", "canary").digest == two.digest
    assert "removed the tag" in images(store, "rm", "amd64:canary").output
    assert images(store, "rm", "amd64:previous").exit_code == 0
    kept = images(store, "gc", "--no-server", "--in-use", two.digest).output
    assert kept.startswith("freed 0 B; the store takes ")
    assert f"removed amd64@{two.digest} (3 B)\n" in images(store, "gc", "--no-server").output
    assert [image.digest for image in store.images()] == [one.digest]


def test_gc_spares_what_the_servers_nodes_read(store: Store, tmp_path: Path) -> None:
    two = store.get("amd64")
    images(store, "rollback", "amd64")
    images(store, "rm", "amd64:previous")
    asked = images(store, "gc")
    assert asked.exit_code == 1
    assert "cannot tell which images nodes still read" in asked.output
    server = InUseRecord(tmp_path, now=0.0)
    server.note({two.digest}, now=1.0)
    assert "removed" not in images(store, "gc", "--state", str(tmp_path)).output
    server.note((), now=time.time() - GRACE_SECONDS + 100)
    assert "removed" not in images(store, "gc", "--state", str(tmp_path)).output
    server.note({two.digest}, now=1.0)
    server.note((), now=2.0)
    assert f"removed amd64@{two.digest}" in images(store, "gc", "--state", str(tmp_path)).output


def test_import(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    image = store.get("amd64")
    result = images(other, "import", image.path, "--tag", "baked")
    assert result.output == f"amd64@{image.digest}\n"
    assert other.get("amd64", "baked").digest == image.digest


@pytest.mark.parametrize(
    ("verb", "words", "message"),
    [
        ("rm", ["amd64"], "which one?"),
        ("rm", ["amd64:"], "nothing after the :"),
        ("tag", ["amd64:nope", "x"], "no tag or digest 'nope'"),
        ("rollback", ["other"], "no previous image"),
        ("import", ["/tmp"], "cannot read /tmp/manifest.json"),
    ],
)
def test_an_error_is_one_line_and_a_hint(
    store: Store, verb: str, words: list[str], message: str
) -> None:
    result = images(store, verb, *words)
    assert result.exit_code == 1
    assert message in result.output
    assert result.output.startswith("Error: ")
    assert "Traceback" not in result.output


def test_build_says_what_is_wrong_with_a_recipe(tmp_path: Path) -> None:
    text = "name: a\nrelease: b\nkernel: {package: cd}\npackges: []\n"
    (tmp_path / "x.yaml").write_text(text)
    result = bootfarm("build", tmp_path / "x.yaml", "--store", tmp_path / "store")
    assert result.exit_code == 1
    assert result.output == (
        f"Error: {tmp_path}/x.yaml:4: packges: unknown key\n  hint: did you mean 'packages'?\n"
    )
    assert not (tmp_path / "store").exists()


def test_build_takes_no_repository_that_the_recipe_has_not(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "name: a\nrelease: trixie\nkernel: {package: linux-image-amd64}\n"
    )
    words = ("build", tmp_path / "x.yaml", "--store", tmp_path / "store")
    result = bootfarm(*words, "--repository", "kubernetes=http://x")
    assert result.exit_code == 1
    assert result.output == (
        f"Error: --repository kubernetes: {tmp_path}/x.yaml has no repository named"
        " 'kubernetes'\n  hint: it has no repositories\n"
    )


def test_references() -> None:
    assert parse_reference("amd64") == ("amd64", "current")
    assert parse_reference("amd64:canary") == ("amd64", "canary")
    assert parse_reference("amd64@abc") == ("amd64", "abc")
    with pytest.raises(BuildError):
        parse_reference("amd64@")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "2 kB"), (70_300_000, "70.3 MB"), (2**31, "2.15 GB")],
)
def test_sizes(size: int, text: str) -> None:
    assert format_size(size) == text
