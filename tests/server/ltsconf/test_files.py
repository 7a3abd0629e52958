"""Includes are looked up below the root and never leave it."""

import os
from pathlib import Path

import pytest

from server.ltsconf import LtsConf, LtsConfError, NodeId

NODE = NodeId("pc7", None, None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside.conf").write_text("[base]\nA=outside\n")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/inside.conf").write_text("[base]\nA=inside\n")
    return root


def load(root: Path, path: str) -> dict[str, str]:
    main = root / "lts.conf"
    main.write_text(f"include {path}\n[pc7]\nLIKE=base\n")
    return LtsConf.load(main, root).resolve(NODE)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/inside.conf",
        "etc/inside.conf",
        "../etc/inside.conf",
        "/../../etc/./inside.conf",
        "//etc//inside.conf",
        '"/etc/inside.conf"',
    ],
)
def test_the_root_is_like_a_chroot(root: Path, path: str) -> None:
    assert load(root, path) == {"A": "inside"}


def test_paths_do_not_lead_out(root: Path) -> None:
    for path in ("../outside.conf", str(root.parent / "outside.conf"), "/etc/passwd"):
        with pytest.raises(LtsConfError, match="does not exist"):
            load(root, path)


@pytest.mark.parametrize("target", ["../../outside.conf", "/outside.conf"])
def test_links_do_not_lead_out(root: Path, target: str) -> None:
    (root / "etc/link.conf").symlink_to(target)
    with pytest.raises(LtsConfError, match="does not exist"):
        load(root, "/etc/link.conf")


def test_a_link_to_a_directory_outside(root: Path) -> None:
    (root / "out").symlink_to(root.parent)
    with pytest.raises(LtsConfError, match="does not exist"):
        load(root, "/out/outside.conf")


@pytest.mark.parametrize("target", ["inside.conf", "/etc/inside.conf", "../../etc/inside.conf"])
def test_links_inside_are_followed_inside(root: Path, target: str) -> None:
    (root / "etc/link.conf").symlink_to(target)
    assert load(root, "/etc/link.conf") == {"A": "inside"}


def test_a_mounted_configmap(root: Path) -> None:
    """kubelet's links: file -> ..data/file, ..data -> a directory with a time."""
    data = root / "..2026"
    data.mkdir()
    (data / "rooms.conf").write_text("[base]\nA=mounted\n")
    (root / "..data").symlink_to("..2026")
    (root / "rooms.conf").symlink_to("..data/rooms.conf")
    assert load(root, "rooms.conf") == {"A": "mounted"}


def test_a_circle_of_links_ends(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(LtsConfError, match="does not exist"):
        load(root, "/a")


def test_a_fifo_is_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(LtsConfError, match="does not exist"):
        load(root, "/pipe")


def test_a_file_is_no_directory(root: Path) -> None:
    with pytest.raises(LtsConfError, match="does not exist"):
        load(root, "/etc/inside.conf/x")


def test_the_main_file_is_etc_lts_conf_to_its_includes(tmp_path: Path) -> None:
    (tmp_path / "one.conf").write_text("[one]\nA=1\ninclude /etc/lts.conf\n")
    main = tmp_path / "any-name.conf"
    main.write_text("include one.conf\n[pc7]\nLIKE=one\n")
    conf = LtsConf.load(main, tmp_path)
    assert conf.resolve(NODE) == {"A": "1"}
    assert [problem.code for problem in conf.problems] == ["include-again"]
