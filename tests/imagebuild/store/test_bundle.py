"""Bundles: whole out and whole in, the same bytes, and nothing taken that is not announced."""

import hashlib
import io
import json
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bootfarm import main
from imagebuild.errors import BuildError
from imagebuild.store import bundle
from imagebuild.store.bundle import BundleError, Wanted, gather_files, load_bundle, write_bundle
from imagebuild.store.images import Store
from tests.imagebuild.store.test_images import make_image

BOOTFARM = (sys.executable, "-c", "from bootfarm import main; main()")


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["bundle", *map(str, words)])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """amd64 with `current` and a `canary` of other content."""
    store = Store(tmp_path / "store")
    for content, tag in (("old", "current"), ("new", "canary")):
        store.import_image(make_image(tmp_path / "made", content, size=9000), tags=(tag,))
    return store


@pytest.fixture
def added(tmp_path: Path) -> Path:
    """A directory of further files."""
    (tmp_path / "debs" / "pool").mkdir(parents=True)
    (tmp_path / "debs" / "pool" / "a.deb").write_bytes(random.Random(1).randbytes(300_000))
    (tmp_path / "debs" / "lock.json").write_text("{}")
    return tmp_path / "debs"


def made(store: Store, *files: Path, names: tuple[str, ...] = ("current", "canary")) -> bytes:
    wanted = [Wanted(store.get("amd64", name), (name,)) for name in names]
    out = io.BytesIO()
    digest = write_bundle(out, wanted, gather_files(files))
    assert digest == hashlib.sha256(out.getvalue()).hexdigest()
    return out.getvalue()


def listing(store: Store) -> dict[str, tuple[str, ...]]:
    return {image.digest: image.tags for image in store.images()}


def test_images_tags_and_files_arrive(store: Store, added: Path, tmp_path: Path) -> None:
    file = tmp_path / "farm.bundle"
    done = run("make", "--store", store.path, file, "amd64", "amd64:canary", "--add", added)
    assert done.exit_code == 0, done.output
    sum_of_it = hashlib.sha256(file.read_bytes()).hexdigest()
    assert done.output.splitlines()[-1].startswith("2 added files, ")
    assert done.output.splitlines()[-1].endswith(f", sha256 {sum_of_it}")
    there = Store(tmp_path / "there")
    done = run("load", file, "--store", there.path, "--files", tmp_path / "came")
    assert done.exit_code == 0, done.output
    assert listing(there) == listing(store)
    for image in there.images():
        there.verify(image)
        assert f"amd64@{image.digest}" in done.output.splitlines()
    for name in ("pool/a.deb", "lock.json"):
        assert (tmp_path / "came/debs" / name).read_bytes() == (added / name).read_bytes()
    assert list((there.path / "tmp").iterdir()) == []


def test_without_names_each_current_image_goes_along(store: Store, tmp_path: Path) -> None:
    assert run("make", "--store", store.path, tmp_path / "b").exit_code == 0
    there = Store(tmp_path / "there")
    assert run("load", tmp_path / "b", "--store", there.path).exit_code == 0
    assert listing(there) == {store.get("amd64").digest: ("current",)}


def test_it_goes_through_a_pipe(store: Store, tmp_path: Path) -> None:
    make = subprocess.Popen(
        [*BOOTFARM, "bundle", "make", "--store", store.path, "-", "amd64"], stdout=subprocess.PIPE
    )
    done = subprocess.run(
        [*BOOTFARM, "bundle", "load", "--store", tmp_path / "there", "-"],
        stdin=make.stdout,
        capture_output=True,
        text=True,
    )
    assert make.stdout is not None
    make.stdout.close()
    assert make.wait() == 0
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"amd64@{store.get('amd64').digest}"]


def test_the_same_content_gives_the_same_bytes(store: Store, added: Path, tmp_path: Path) -> None:
    again = Store(tmp_path / "again")
    for image in reversed(store.images()):
        again.import_image(image.path, tags=image.tags)
    (added / "lock.json").chmod(0o600)
    (added / "lock.json").touch()
    assert made(store, added) == made(again, added, names=("canary", "current"))


def test_other_tools_read_it(store: Store, added: Path, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(made(store, added))
    names = subprocess.run(
        ["tar", "--list", "--file", tmp_path / "b"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert names[0] == "bundle.json"
    assert names[-2:] == ["files/debs/lock.json", "files/debs/pool/a.deb"]


def test_tags_are_the_bundles_or_those_that_are_given(store: Store, tmp_path: Path) -> None:
    digest = store.get("amd64").digest
    assert run("make", "--store", store.path, tmp_path / "b", f"amd64@{digest}").exit_code == 0
    there = Store(tmp_path / "there")
    bare = run("load", tmp_path / "b", "--store", there.path)
    assert f"bootfarm images tag amd64@{digest[:12]} TAG" in bare.output
    assert listing(there) == {digest: ()}
    assert run("load", tmp_path / "b", "--store", there.path, "--tag", "next").exit_code == 0
    assert listing(there) == {digest: ("next",)}


def test_previous_stays_the_stores_own_affair(store: Store, tmp_path: Path) -> None:
    store.tag("amd64", "canary", "current")
    done = run("make", "--store", store.path, tmp_path / "b", "amd64:previous", "amd64")
    assert done.exit_code == 0, done.output
    there = Store(tmp_path / "there")
    run("load", tmp_path / "b", "--store", there.path)
    assert sorted(listing(there).values()) == [(), ("current",)]


def test_files_without_a_directory_are_checked_and_told(store: Store, added: Path) -> None:
    loaded = load_bundle(io.BytesIO(made(store, added)), Store(added.parent / "there"))
    assert (len(loaded.files), loaded.written) == (2, False)


@pytest.mark.parametrize("have", [False, True], ids=["new", "there already"])
@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_bundle_changes_nothing(
    store: Store, added: Path, tmp_path: Path, seed: int, have: bool
) -> None:
    """A byte of content that is another one, wherever, or an end too early."""
    data = bytearray(made(store, added))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [one for one in tar if one.size]
    dice = random.Random(seed)
    if seed % 3 == 2:
        last = members[-1]
        del data[dice.randrange(1, last.offset_data + last.size) :]
    else:
        member = dice.choice(members)
        data[member.offset_data + dice.randrange(member.size)] ^= 1 << dice.randrange(8)
    there = Store(tmp_path / "there")
    if have:
        there.import_image(store.get("amd64").path, tags=("mine",))
    before = listing(there)
    with pytest.raises(BuildError):
        load_bundle(io.BytesIO(data), there, files=tmp_path / "came")
    assert listing(there) == before
    assert not (tmp_path / "came").exists()
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(".came")]
    assert not (there.path / "tmp").exists() or list((there.path / "tmp").iterdir()) == []


Edit = Callable[[tarfile.TarInfo], None]


def rewrite(data: bytes, edit: Edit, index: Callable[[bytes], bytes] = lambda old: old) -> bytes:
    """The bundle with other heads of members, or another bundle.json."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old:
            content = old.extractfile(member).read()  # type: ignore[union-attr]
            if member.name == "bundle.json":
                content = index(content)
                member.size = len(content)
            edit(member)
            new.addfile(member, io.BytesIO(content))
    return out.getvalue()


def rename(old: str, new: str) -> Edit:
    def edit(member: tarfile.TarInfo) -> None:
        member.name = member.name.replace(old, new)

    return edit


def make_link(member: tarfile.TarInfo) -> None:
    if member.name.endswith("rootfs.squashfs"):
        member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 0


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (rename("rootfs.squashfs", "../../../evil"), "where images/amd64/"),
        (rename("files/", "/"), "should come"),
        (make_link, "should come"),
    ],
)
def test_members_are_those_that_were_announced(
    store: Store, added: Path, tmp_path: Path, edit: Edit, says: str
) -> None:
    data = rewrite(made(store, added), edit)
    with pytest.raises(BundleError, match=says):
        load_bundle(io.BytesIO(data), Store(tmp_path / "there"), files=tmp_path / "came")
    assert not (tmp_path / "came").exists()


def with_path(path: str) -> Callable[[bytes], bytes]:
    def change(old: bytes) -> bytes:
        data = json.loads(old)
        data["files"][0]["path"] = path
        return json.dumps(data).encode()

    return change


@pytest.mark.parametrize(
    "path", ["../evil", "/evil", "a/../../evil", "a//b", ".", "", "a\0b", "\n"]
)
def test_no_file_leads_out_of_its_directory(
    store: Store, added: Path, tmp_path: Path, path: str
) -> None:
    data = rewrite(made(store, added), lambda member: None, with_path(path))
    with pytest.raises(BundleError, match="is no file with path"):
        load_bundle(io.BytesIO(data), Store(tmp_path / "there"), files=tmp_path / "came")


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "format None"),
        (b'{"format": 2, "images": [], "files": []}', "format 2 is not 1"),
        (b'{"format": 1, "images": []}', "exactly"),
        (b'{"format": 1, "images": 7, "files": []}', "no list"),
        (b'{"format": 1, "images": [{"name": "../x"}], "files": []}', "no image with name"),
        (b'{"format": 1, "images": [], "files": []}', "which nothing announced"),
    ],
)
def test_another_bundle_json_is_refused(
    store: Store, tmp_path: Path, index: bytes, says: str
) -> None:
    data = rewrite(made(store), lambda member: None, lambda old: index)
    with pytest.raises(BundleError, match=says):
        load_bundle(io.BytesIO(data), Store(tmp_path / "there"))


def test_no_tag_is_wrong_after_the_first_image_came(store: Store, tmp_path: Path) -> None:
    def spoil(old: bytes) -> bytes:
        data = json.loads(old)
        data["images"][1]["tags"] = ["../evil"]
        return json.dumps(data).encode()

    there = Store(tmp_path / "there")
    for data, tags in (
        (rewrite(made(store), lambda member: None, spoil), None),
        (made(store), ("../evil",)),
    ):
        with pytest.raises(BuildError, match="is not a tag"):
            load_bundle(io.BytesIO(data), there, tags=tags)
    assert there.images() == []


def test_a_member_takes_no_more_memory_than_it_may(tmp_path: Path) -> None:
    for kind, size in ((tarfile.XHDTYPE, 1 << 33), (tarfile.REGTYPE, bundle.MOST_INDEX + 1)):
        head = tarfile.TarInfo("bundle.json")
        head.type, head.size = kind, size
        data = head.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)
        with pytest.raises(BundleError, match=r"has a head of|more than"):
            load_bundle(io.BytesIO(data), Store(tmp_path / "there"))


@pytest.mark.parametrize("data", [b"", b"no tar at all\n" * 1000, bytes(10240)])
def test_what_is_no_bundle_is_told(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "b").write_bytes(data)
    done = run("load", tmp_path / "b", "--store", tmp_path / "there")
    assert done.exit_code == 1
    assert done.output.startswith("Error: ")
    assert "hint: " in done.output


def test_a_damaged_image_makes_no_bundle(store: Store, tmp_path: Path) -> None:
    rootfs = store.get("amd64").path / "rootfs.squashfs"
    content = rootfs.read_bytes()
    for damaged in (content[:-1], content + b"x", b"x" + content[1:]):
        rootfs.write_bytes(damaged)
        done = run("make", "--store", store.path, tmp_path / "b", "amd64")
        assert done.exit_code == 1
        assert f"{rootfs} " in done.output
        assert not (tmp_path / "b").exists()
    rootfs.unlink()
    done = run("make", "--store", store.path, tmp_path / "b", "amd64")
    assert f"cannot read {rootfs}: No such file" in done.output
    assert sorted(one.name for one in tmp_path.iterdir()) == ["made", "store"]


def test_links_and_two_of_one_name_do_not_go_along(store: Store, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "link").symlink_to(".")
    for path in ("link", "dir"):
        with pytest.raises(BundleError, match="no plain file"):
            gather_files([tmp_path / path])
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same").write_text(name)
    with pytest.raises(BundleError, match="would both be same"):
        gather_files([tmp_path / "one/same", tmp_path / "two/same"])


def test_files_go_into_a_new_directory_only(store: Store, added: Path, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(made(store, added))
    done = run("load", tmp_path / "b", "--store", tmp_path / "there", "--files", added)
    assert done.exit_code == 1
    assert f"{added} is there already" in done.output
    assert not (tmp_path / "there").exists()


def test_a_full_disk_is_one_line(store: Store) -> None:
    done = run("make", "--store", store.path, "/proc/nosuch/b", "amd64")
    assert done.exit_code == 1
    assert done.output.startswith("Error: cannot write /proc/nosuch/b: ")
