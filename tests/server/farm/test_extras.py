import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.boot.planner import Planner, Ports
from server.boot.tree import BootTree
from server.content import FileContent, NotFound, Refused
from server.errors import ServerError
from server.farm.extras import Extras, Folder, check_export_name, open_extras, refuse_own
from server.farm.inventory import Inventory
from server.ltsconf import LtsConf
from server.machines.identity import make_identifier
from server.site import Site


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files and every kind of link, beside one that it must not lead to."""
    base = tmp_path_factory.mktemp("extras")
    folder = base / "tree"
    (folder / "deep/er").mkdir(parents=True)
    (folder / "pxelinux.0").write_bytes(b"loader")
    (folder / "deep/er/file").write_bytes(b"deep")
    (folder / "..data").mkdir()
    (folder / "..data/file").write_bytes(b"dots")
    (base / "tree-beside").mkdir()
    (base / "tree-beside/secret").write_bytes(b"secret")
    (base / "secret").write_bytes(b"secret")
    (folder / "inside").symlink_to("deep/er/file")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nothing")
    (folder / "out").symlink_to("../secret")
    (folder / "absolute").symlink_to("/etc/passwd")
    (folder / "parent").symlink_to("..")
    (folder / "beside").symlink_to("../tree-beside")
    os.mkfifo(folder / "pipe")
    return folder


def make_tree(extras: Extras) -> BootTree:
    site = Site(images=(), ltsconf=LtsConf.parse(b""), extras=extras)
    identifier = make_identifier(Inventory(), {}, None, Path("/dev/null"))
    return BootTree(Planner(lambda: site, identifier, Ports(80, 10809, lambda ip: "10.9.0.1")))


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("pxelinux.0", "pxelinux.0"),
        ("/pxelinux.0", "pxelinux.0"),
        ("//deep///er/file", "deep/er/file"),
        ("inside", "deep/er/file"),
        ("..data/file", "..data/file"),
    ],
)
def test_files_of_the_folder(folder: Path, path: str, file: str) -> None:
    found = make_tree(Extras({}, Folder(folder))).lookup(path, "10.9.0.5")
    assert isinstance(found, FileContent)
    assert found.path == folder / file
    assert found.size == (folder / file).stat().st_size


@pytest.mark.parametrize(
    "path", ["out", "absolute", "parent/secret", "beside/secret", "parent/tree-beside/secret"]
)
def test_links_that_leave_the_folder_are_refused(folder: Path, path: str) -> None:
    with pytest.raises(Refused, match="leads out"):
        make_tree(Extras({}, Folder(folder))).lookup(path, "10.9.0.5")


@pytest.mark.parametrize(
    "path",
    [
        *("../secret", "/../secret", "deep/../../secret", "..", ".", "./pxelinux.0", "", "/"),
        *("..\\secret", "deep\\..\\..\\secret", "pxelinux.0\0", "..%2fsecret", "%2e%2e/secret"),
        *("loop", "dangling", "deep", "pipe", "pxelinux.0/", "pxelinux.0/x", "nothing"),
        *("x" * 300, "d/" * 400 + "x", "\udcff", "/etc/passwd", "deep/er/file/../file"),
    ],
)
def test_what_is_no_file_of_the_folder(folder: Path, path: str) -> None:
    tree = make_tree(Extras({}, Folder(folder)))
    if path == "pxelinux.0/":  # as `//`: empty parts do not count
        assert isinstance(tree.lookup(path, "10.9.0.5"), FileContent)
        return
    with pytest.raises(NotFound):
        tree.lookup(path, "10.9.0.5")


WORDS = st.sampled_from(
    ["..", ".", "", "deep", "er", "file", "parent", "beside", "secret", "out", "tree", "\\", "~"]
)


@given(parts=st.lists(st.one_of(WORDS, st.text(max_size=8)), max_size=8))
def test_no_spelling_leads_out_of_the_folder(folder: Path, parts: list[str]) -> None:
    try:
        found = make_tree(Extras({}, Folder(folder))).lookup("/".join(parts), "10.9.0.5")
    except (NotFound, Refused):
        return
    assert isinstance(found, FileContent)
    assert found.path.resolve().is_relative_to(folder)


def test_an_edited_file_has_another_stamp(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    os.utime(tmp_path / "a", (1, 1))
    before = Folder(tmp_path).find(["a"])
    os.utime(tmp_path / "a", (1, 2))
    after = Folder(tmp_path).find(["a"])
    assert before is not None
    assert after is not None
    assert before.stamp != after.stamp


def test_the_folder_may_be_swapped_by_a_link(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "now").symlink_to("one")
    folder = Folder(tmp_path / "now")
    assert folder.find(["file"]) == Folder(tmp_path / "one").find(["file"])
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(tmp_path / "now")
    assert folder.find(["file"]) == Folder(tmp_path / "two").find(["file"])


def test_exports(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(4096))
    tree = make_tree(open_extras({"disk": disk, "/a=b": disk}, None))
    assert list(tree.list_exports("10.9.0.5")) == ["disk", "/a=b"]
    for name in ("disk", "/disk"):
        export = tree.export(name, "10.9.0.5")
        assert export is not None
        assert (export.name, export.path, export.size, export.digest) == ("disk", disk, 4096, "")
    assert tree.export("a=b", "10.9.0.5") is not None
    for name in ("", "/", "//disk", "dis", "opt/ltsp/disk", str(disk)):
        assert tree.export(name, "10.9.0.5") is None
    disk.write_bytes(bytes(8192))
    export = tree.export("disk", "10.9.0.5")
    assert export is not None
    assert export.size == 8192
    disk.unlink()
    assert tree.export("disk", "10.9.0.5") is None


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 257, "opt/ltsp/amd64", "/opt/ltsp/x", "\ud800"])
def test_names_that_no_export_may_have(name: str) -> None:
    assert check_export_name(name)


def test_what_is_wrong_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "file").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    for file, said in (
        ("nothing", "No such file"),
        ("empty", "the file is empty"),
        ("pipe", "not a regular file"),
        (".", "Is a directory"),
    ):
        with pytest.raises(ServerError, match=said) as caught:
            open_extras({"disk": tmp_path / file}, None)
        assert f"--export disk={tmp_path / file}" in str(caught.value)
        assert caught.value.hint
    with pytest.raises(ServerError, match="differ in a leading slash"):
        open_extras({"a": tmp_path / "file", "/a": tmp_path / "file"}, None)
    for folder in ("nothing", "file"):
        with pytest.raises(ServerError, match=f"--boot-tree {tmp_path / folder}"):
            open_extras({}, tmp_path / folder)


def test_nobody_is_served_what_only_the_server_may_read(tmp_path: Path) -> None:
    folder, beside = tmp_path / "tree", tmp_path / "tree-beside"
    for path in (folder / "state", beside):
        path.mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder / "state")
    refuse_own(folder, {"state": beside, "secrets": None, "token_file": tmp_path / "nosuch"})
    refuse_own(None, {"state": folder})
    for own in (folder / "state", folder, tmp_path / "link", folder / "not/yet"):
        with pytest.raises(ServerError, match=r"token_file .* lies in it, and would be served"):
            refuse_own(folder, {"state": beside, "token_file": own})
    with pytest.raises(ServerError, match=r"state .* lies in it"):
        refuse_own(Path("/"), {"state": beside})
