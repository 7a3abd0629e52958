"""`bootfarm images` and `bootfarm container` as their users meet them."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from bootfarm import main
from imagebuild.store.images import Image, Store
from imagebuild.store.inuse import InUseRecord
from imagebuild.store.manifest import MANIFEST_NAME, FileEntry, Manifest

OLD = {"bash": "5.2-1", "docker": "26.0", "nano": "7.2"}
NEW = {"bash": "5.2-2", "docker": "26.0", "vim": "9.0"}
OLD_FILES = "0755 0 0 d 0 /\n0755 0 0 f 1000 /bin/bash\n0644 0 0 f 7 /etc/old\n"
NEW_FILES = (
    "0755 0 0 d 0 /\n4755 0 0 f 1200 /bin/bash\n0777 0 0 l 0 /bin/sh -> bash\n"
    "0644 0 0 f 5000 /usr/share/a name with blanks\n"
)


def publish(store: Store, listing: str, packages: Mapping[str, str], **more: Any) -> Image:
    with store.writing() as staging:
        (staging / "rootfs.squashfs").write_text(listing * 40)
        (staging / "rootfs.list").write_text(listing)
        files = {name: FileEntry.of(staging / name) for name in ("rootfs.squashfs", "rootfs.list")}
        facts = {"kernel": "6.1.0-20-cloud-amd64", "versions": {"kubelet": "1.29.1"}, **more}
        manifest = Manifest(
            "amd64", "debian", "bookworm", "amd64", files=files, packages=packages, **facts
        )
        (staging / MANIFEST_NAME).write_bytes(manifest.to_bytes())
        return store.publish("amd64", staging)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two images of amd64: the one before, and `current`."""
    store = Store(tmp_path / "store")
    publish(store, OLD_FILES, OLD, lts_defaults={"TIMEZONE": "UTC", "ROOT_PASSWORD": "hush"})
    publish(
        store,
        NEW_FILES,
        NEW,
        kernel="6.1.0-21-cloud-amd64",
        cmdline=("quiet",),
        versions={"kubelet": "1.29.2", "kubeadm": "1.29.2", "containerd": "1.7.13", "runc": "1.1"},
        lts_defaults={"TIMEZONE": "UTC", "ROOT_PASSWORD": "other"},
    )
    return store


def run(store: Store, verb: str, *words: str | Path) -> Result:
    arguments = ["images", verb, "--store", str(store.path), *map(str, words)]
    return CliRunner().invoke(main, arguments)


def widest(result: Result) -> int:
    return max(map(len, result.output.splitlines()))


def test_list_and_show_fit_80_columns(store: Store) -> None:
    store.tag("amd64", "current", "a-tag-of-some-length")
    for verb, words in (("list", []), ("show", ["amd64"])):
        result = run(store, verb, *words)
        assert result.exit_code == 0, result.output
        path = str(store.path)
        assert all(len(line) <= 80 for line in result.output.splitlines() if path not in line)
        assert "containerd" in result.output


def test_list_as_json(store: Store, tmp_path: Path) -> None:
    (first, second) = json.loads(run(store, "list", "--json").output)
    current = store.get("amd64")
    assert (first["name"], first["digest"], first["tags"]) == ("amd64", current.digest, ["current"])
    assert (first["size"], first["in_use"]) == (current.size, None)
    published = time.strptime(first["published"], "%Y-%m-%dT%H:%M:%SZ")
    assert abs(time.mktime(published) - time.timezone - current.path.stat().st_mtime) < 3601
    assert second["versions"] == {"kubelet": "1.29.1"}
    server = InUseRecord(tmp_path, now=time.time())
    server.note({current.digest}, now=time.time())
    found = json.loads(run(store, "list", "--json", "--state", tmp_path).output)
    assert [image["in_use"] for image in found] == [True, False]
    wide = run(store, "list", "-o", "wide", "--state", tmp_path).output.splitlines()
    assert [line.split()[0] for line in wide[1:3]] == [f"amd64@{one['digest']}" for one in found]
    assert found[0]["published"] in wide[1]
    assert ["  yes  " in line for line in wide[1:3]] == [True, False]
    assert "  not asked  " in run(store, "list", "-o", "wide").output


def test_list_and_show_in_the_other_formats(store: Store) -> None:
    names = [f"amd64@{image.digest}" for image in store.images()]
    assert run(store, "list", "-o", "name").output.splitlines() == names
    found = json.loads(run(store, "list", "-o", "json").output)
    assert yaml.safe_load(run(store, "list", "-o", "yaml").output) == found
    shown = json.loads(run(store, "show", "amd64", "-o", "json").output)
    assert yaml.safe_load(run(store, "show", "amd64", "-o", "yaml").output) == shown
    assert run(store, "show", "amd64:previous", "-o", "name").output == f"{names[1]}\n"
    wide = run(store, "show", "amd64", "-o", "wide").output
    assert "\nvim 9.0\n" in wide
    assert "containerd 1.7.13, kubeadm 1.29.2, kubelet 1.29.2, runc 1.1\n" in wide


@pytest.mark.parametrize("verb", ["list", "gc", "show", "rm"])
def test_what_is_no_store_is_told(tmp_path: Path, verb: str) -> None:
    words = {"gc": ["--no-server"], "show": ["x"], "rm": ["x:y"]}.get(verb, [])
    missing = run(Store(tmp_path / "nosuch"), verb, *words)
    assert missing.exit_code == 1
    assert f"there is no store {tmp_path}/nosuch" in missing.output
    assert not (tmp_path / "nosuch").exists()
    (tmp_path / "passwd").write_text("")
    foreign = run(Store(tmp_path), verb, *words)
    assert foreign.exit_code == 1
    assert f"{tmp_path} is no store" in foreign.output


def test_an_empty_store_is_one(tmp_path: Path) -> None:
    assert run(Store(tmp_path), "list").output.endswith("0 images; the store takes 0 B\n")


def test_show(store: Store, tmp_path: Path) -> None:
    image = store.get("amd64")
    shown = run(store, "show", f"amd64@{image.digest[:12]}", "--packages").output
    assert image.digest in shown
    assert "kernel    6.1.0-21-cloud-amd64\n" in shown
    assert "tags      current\n" in shown
    assert "debian bookworm, amd64" in shown
    assert "vim 9.0\n" in shown
    assert "other" not in shown, "a default's value may be a password"
    assert "ROOT_PASSWORD" in shown
    assert "not asked" in shown
    assert "none reads it" in run(store, "show", "amd64", "--no-server").output
    InUseRecord(tmp_path, now=time.time()).note({image.digest}, now=time.time())
    assert "read it now" in run(store, "show", "amd64", "--state", tmp_path).output
    data = json.loads(run(store, "show", "amd64", "--json").output)
    assert data["packages"] == NEW
    assert data["files"]["rootfs.list"]["size"] == len(NEW_FILES)


def test_diff_tells_packages_files_kernel_and_size(store: Store) -> None:
    lines = run(store, "diff", "amd64:previous", "amd64").output.splitlines()
    for line in (
        "kernel: 6.1.0-20-cloud-amd64 -> 6.1.0-21-cloud-amd64",
        "packages: 1 added, 1 removed, 1 changed",
        "  + vim 9.0",
        "  - nano 7.2",
        "  ~ bash 5.2-1 -> 5.2-2",
        "files: 2 added, 1 removed, 1 changed",
        "  + /usr/share/a name with blanks  5 kB",
        "  + /bin/sh",
        "  - /etc/old  7 B",
        "  ~ /bin/bash  mode 0755 -> 4755, size 1000 -> 1200",
        "    + quiet",
        "defaults  ROOT_PASSWORD",
    ):
        assert line in lines, line
    assert not any("docker" in line for line in lines), "it did not change"
    (size,) = [line for line in lines if line.startswith("size: ")]
    assert "(+" in size


def test_diff_as_json_and_of_one_image_with_itself(store: Store) -> None:
    data = json.loads(run(store, "diff", "amd64:previous", "amd64", "--json").output)
    assert data["packages"]["changed"] == {"bash": ["5.2-1", "5.2-2"]}
    assert data["files"]["removed"] == {"/etc/old": "f 0644 0:0 7"}
    assert data["files"]["added"]["/bin/sh"] == "l 0777 0:0 0 -> bash"
    assert data["lts_defaults"] == ["ROOT_PASSWORD"]
    same = run(store, "diff", "amd64", "amd64:current").output
    assert same.splitlines()[-1] == "the same image"


def test_a_long_diff_is_cut_unless_all_is_wanted(store: Store) -> None:
    publish(store, NEW_FILES, {f"package-{n:03}": "1" for n in range(300)})
    short = run(store, "diff", "amd64:previous", "amd64").output
    assert "--all shows them" in short
    assert len(short.splitlines()) < 60
    assert "package-299 1" in run(store, "diff", "amd64:previous", "amd64", "--all").output


def test_a_damaged_listing_is_told(store: Store) -> None:
    (store.get("amd64").path / "rootfs.list").write_text("nonsense\n")
    result = run(store, "diff", "amd64:previous", "amd64")
    assert result.exit_code == 1
    assert "'nonsense' is no line of a listing" in result.output


def test_gc_says_beforehand_what_would_go(store: Store, tmp_path: Path) -> None:
    old = store.get("amd64", "previous")
    store.remove("amd64", "previous")
    (store.path / "tmp" / "abandoned").mkdir(parents=True)
    (store.path / "tmp" / "abandoned" / "half").write_text("x" * 10)
    told = run(store, "gc", "--no-server", "--dry-run").output
    assert f"would remove amd64@{old.digest}" in told
    assert f"({old.size + 10} bytes)" in told
    assert "would remove 1 directories" in told
    assert old.path.is_dir()
    assert (store.path / "tmp" / "abandoned" / "half").exists()
    InUseRecord(tmp_path, now=time.time()).note({old.digest}, now=time.time())
    spared = run(store, "gc", "--state", tmp_path, "--dry-run").output
    assert f"would keep amd64@{old.digest}" in spared
    assert "(10 bytes)" in spared
    done = run(store, "gc", "--no-server").output
    assert f"removed amd64@{old.digest}" in done
    assert not old.path.exists()


def test_rm_refuses_current_unless_forced(store: Store) -> None:
    result = run(store, "rm", "amd64:current")
    assert result.exit_code == 1
    assert "amd64:current is what machines boot" in result.output
    assert "--force" in result.output
    assert store.get("amd64").tags == ("current",)
    assert run(store, "rm", "--force", "amd64:current").exit_code == 0
    assert "current" not in [tag for image in store.images() for tag in image.tags]


def test_rm_refuses_what_a_tag_names(store: Store) -> None:
    image = store.get("amd64")
    result = run(store, "rm", "--no-server", f"amd64@{image.digest}")
    assert result.exit_code == 1
    assert "is tagged current" in result.output
    assert image.path.is_dir()
    assert run(store, "rm", "--force", f"amd64@{image.digest}").exit_code == 0
    assert not image.path.exists()


def test_rm_refuses_what_nodes_read(store: Store, tmp_path: Path) -> None:
    old = store.get("amd64", "previous")
    store.remove("amd64", "previous")
    name = f"amd64@{old.digest[:12]}"
    unasked = run(store, "rm", name)
    assert unasked.exit_code == 1
    assert "cannot tell whether nodes still read" in unasked.output
    record = InUseRecord(tmp_path, now=time.time())
    record.note({old.digest}, now=time.time())
    refused = run(store, "rm", "--state", tmp_path, name)
    assert refused.exit_code == 1
    assert f"nodes read {name}" in refused.output
    assert old.path.is_dir()
    assert run(store, "rm", "--state", tmp_path, "--force", name).exit_code == 0
    assert not old.path.exists()


def test_rm_of_what_nobody_reads(store: Store, tmp_path: Path) -> None:
    old = store.get("amd64", "previous")
    store.remove("amd64", "previous")
    assert run(store, "rm", "--state", tmp_path, f"amd64@{old.digest}").exit_code == 0
    assert not old.path.exists()


def test_rollback_of_an_unknown_image_names_those_that_there_are(store: Store) -> None:
    result = run(store, "rollback", "nope")
    assert result.exit_code == 1
    assert "no image 'nope'" in result.output
    assert "it holds: amd64" in result.output


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (("images", "build"), "bootfarm container build"),
        (("images", "extract"), "bootfarm container extract"),
        (("container", "list"), "bootfarm images list"),
        (("container", "rollback"), "bootfarm images rollback"),
        (("image", "list"), "bootfarm images list"),
    ],
)
def test_each_group_points_to_the_other(typed: tuple[str, str], meant: str) -> None:
    result = CliRunner().invoke(main, [*typed, "x"])
    assert result.exit_code == 2
    assert f"Did you mean `{meant}`?" in result.output


def test_container_is_documented_and_image_goes_on_working() -> None:
    front = CliRunner().invoke(main, ["--help"]).output
    commands = [line.split()[0] for line in front.partition("Commands:")[2].splitlines() if line]
    assert "container" in commands
    assert "images" in commands
    assert "image" not in commands
    for verb in ("build", "push", "extract"):
        # Not -h: click keeps a command's help option as its first caller had it.
        words = [[group, verb, "--help"] for group in ("container", "image")]
        texts = [CliRunner().invoke(main, each) for each in words]
        assert [text.exit_code for text in texts] == [0, 0]
        assert texts[0].output.replace("main container", "main image") == texts[1].output


def test_the_bill_of_materials(store: Store) -> None:
    old = run(store, "sbom", "amd64")
    assert old.exit_code == 1
    assert "brings no bill of materials: an older bootfarm built it" in old.output
    with store.writing() as staging:
        (staging / "sbom.spdx.json").write_text('{"spdxVersion": "SPDX-2.3"}\n')
        (staging / "sbom.cdx.json").write_text('{"bomFormat": "CycloneDX"}\n')
        files = {path.name: FileEntry.of(path) for path in staging.iterdir()}
        manifest = Manifest("amd64", "debian", "bookworm", "amd64", "6.1", files=files)
        (staging / MANIFEST_NAME).write_bytes(manifest.to_bytes())
        image = store.publish("amd64", staging, tags=["new"])
    assert json.loads(run(store, "sbom", "amd64:new").output) == {"spdxVersion": "SPDX-2.3"}
    told = run(store, "sbom", "amd64:new", "--format", "cyclonedx").output
    assert json.loads(told) == {"bomFormat": "CycloneDX"}
    (image.path / "sbom.spdx.json").write_text("{}")
    broken = run(store, "sbom", "amd64:new")
    assert broken.exit_code == 1
    assert "is not what the image's manifest says" in broken.output
