"""The lock, its archive, and a view of it: real .deb files and a real apt, no mirror."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuild.apt import NoPackageError
from imagebuild.errors import BuildError
from imagebuild.lock import archive
from imagebuild.lock.lockfile import Lock, LockedPackage, read_lock
from imagebuild.lock.view import LockedView, make_lock, other_machine
from imagebuild.recipe.ingredients import Recipe
from imagebuild.run import Log, run

RecipeOf = Callable[..., Recipe]
VERSIONS = {"base": "1:1.0-2", "apt": "2.6", "tool": "3"}


def make_deb(directory: Path, package: str, version: str) -> Path:
    """A .deb named as a mirror names it; `base` is essential."""
    tree = directory / f"tree-{package}"
    (tree / "DEBIAN").mkdir(parents=True)
    essential = "Essential: yes\n" if package == "base" else ""
    (tree / "DEBIAN/control").write_text(
        f"Package: {package}\nVersion: {version}\nArchitecture: amd64\n{essential}"
        "Maintainer: nobody <nobody@example.org>\nDescription: a stand-in\n"
    )
    path = directory / f"{package}_{version.partition(':')[2] or version}_amd64.deb"
    run(["dpkg-deb", "--root-owner-group", "-b", tree, path])
    return path


@pytest.fixture
def lock(tmp_path: Path) -> Lock:
    """Of three packages of a mirror at tmp_path/mirror."""
    (tmp_path / "mirror").mkdir()
    packages = []
    for name, version in VERSIONS.items():
        path = make_deb(tmp_path / "mirror", name, version)
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        packages.append(
            LockedPackage(name, version, "amd64", len(data), sha256, "archive", path.name)
        )
    return Lock(
        tmp_path / "x.lock", "debian", "bookworm", "amd64", {}, {"ipxe": "1"}, tuple(packages)
    )


def fetch(lock: Lock, cache: Path, base: Path | str) -> list[str]:
    """What was said meanwhile."""
    said: list[str] = []
    uri = f"file:{base}" if isinstance(base, Path) else base
    archive.fetch(lock, cache, {"archive": uri}, os.environ, said.append)
    return said


def test_a_lock_is_read_as_it_was_written_one_package_a_line(lock: Lock) -> None:
    lock.write()
    assert read_lock(lock.file).to_bytes() == lock.to_bytes()
    assert set(read_lock(lock.file).packages) == set(lock.packages)
    lines = lock.file.read_text().splitlines()
    assert [line for line in lines if '"tool"' in line] == [
        f"  {json.dumps(vars(lock.packages[2]))}"
    ]


def test_where_packages_came_from_and_what_a_machine_adds_is_no_part_of_the_digest(
    lock: Lock,
) -> None:
    moved = [LockedPackage(**{**vars(one), "path": "elsewhere"}) for one in lock.packages]
    other = Lock(lock.file, "debian", "bookworm", "amd64", {}, {}, tuple(reversed(moved)))
    assert other.digest() == lock.digest()
    newer = LockedPackage(**{**vars(lock.packages[0]), "sha256": "0" * 64})
    changed = Lock(lock.file, "debian", "bookworm", "amd64", {}, {}, (newer, *lock.packages[1:]))
    assert changed.digest() != lock.digest()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: "", "is no lock"),
        (lambda text: "[]", "is no lock of format 1"),
        (lambda text: text.replace('"lock": 1', '"lock": 2'), "is no lock of format 1"),
        (lambda text: text.replace('"release"', '"released"'), "no whole lock: 'release'"),
        (lambda text: text.replace('"tool"', '"base"'), "names a package twice"),
        (lambda text: text.replace('"tool"', '"../x"'), "no whole lock: '../x'"),
        (lambda text: text.replace('"tool_3', '"../tool_3'), "no whole lock: path of tool"),
        (lambda text: text.replace('"size": ', '"size": -'), "no whole lock: size of"),
        (lambda text: text.replace('"sha256": "', '"sha256": "z'), "is no SHA-256"),
        (lambda text: text[:-200], "is no lock"),
    ],
)
def test_a_damaged_lock_is_refused_in_words(
    lock: Lock, change: Callable[[str], str], said: str
) -> None:
    lock.write()
    text = lock.file.read_text()
    assert change(text) != text
    lock.file.write_text(change(text))
    with pytest.raises(BuildError, match=said) as caught:
        read_lock(lock.file)
    assert str(lock.file) in str(caught.value)


def test_a_lock_of_another_release_is_refused(lock: Lock, recipe_of: RecipeOf) -> None:
    lock.check(recipe_of())
    recipe = recipe_of(least="name: a\nrelease: trixie\nkernel: {package: linux-image-amd64}\n")
    with pytest.raises(BuildError, match=r"is of release bookworm, and .* of trixie"):
        lock.check(recipe)


def test_packages_are_fetched_once_and_by_content(lock: Lock, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    said = fetch(lock, cache, tmp_path / "mirror")
    assert said == ["locked packages: 0 of 3 fetched, 0 of 0 MiB"]
    assert {path.stem for path in (cache / "debs").iterdir()} == {
        one.sha256 for one in lock.packages
    }
    assert fetch(lock, cache, tmp_path / "gone") == []


def test_what_apt_has_in_its_cache_is_not_fetched(lock: Lock, tmp_path: Path) -> None:
    held = tmp_path / "cache/apt/archives"
    held.mkdir(parents=True)
    for one in lock.packages:
        (tmp_path / "mirror" / one.path).rename(held / one.file)
    assert (held / "base_1%3a1.0-2_amd64.deb").is_file()
    assert fetch(lock, tmp_path / "cache", tmp_path / "mirror") == []


def test_another_file_under_the_locked_name_is_as_none(lock: Lock, tmp_path: Path) -> None:
    path = tmp_path / "mirror" / lock.packages[2].path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BuildError, match=r"do not have, as locked: tool 3$") as caught:
        fetch(lock, tmp_path / "cache", tmp_path / "mirror")
    assert "--mirrors" in caught.value.hint
    left = {path.name for path in (tmp_path / "cache/debs").iterdir()}
    assert left == {f"{one.sha256}.deb" for one in lock.packages[:2]}


def test_a_mirror_that_is_not_there(lock: Lock, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"base 1:1\.0-2, apt 2\.6, tool 3$"):
        fetch(lock, tmp_path / "cache", "http://127.0.0.1:9/debian")
    assert list((tmp_path / "cache/debs").iterdir()) == []


def laid_out(lock: Lock, recipe: Recipe, tmp_path: Path) -> LockedView:
    """A view of the lock's archive, updated."""
    cache = tmp_path / "cache"
    fetch(lock, cache, tmp_path / "mirror")
    view = LockedView(recipe, cache, lock, Log())
    view.lay_out(lambda text: None)
    view.update()
    return view


def test_apt_sees_what_is_locked_and_nothing_else(
    lock: Lock, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    view = laid_out(lock, recipe_of(), tmp_path)
    assert view.resolve(["tool"], "packages") == VERSIONS
    with pytest.raises(NoPackageError, match=r"packages: not in .*x\.lock") as caught:
        view.resolve(["curl"], "packages")
    assert list(caught.value.packages) == ["curl"]
    assert "to lock anew" in caught.value.hint


def test_a_lock_of_that_view_is_the_same_lock(
    lock: Lock, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    """make_lock asks a real apt for names, sizes and digests of files."""
    recipe = recipe_of()
    view = laid_out(lock, recipe, tmp_path)
    view.resolve(["tool"], "packages")
    place = tmp_path / "cache/locks" / lock.digest()
    view.mirrors = type(view.mirrors)(f"copy:{place}/.", "copy:/nowhere")
    again = make_lock(view, tmp_path / "again.lock")
    assert again.digest() == lock.digest()
    assert {one.source for one in again.packages} == {"archive"}
    another = tmp_path / "another"
    assert len(fetch(again, another, place)) == 1
    assert archive.lay_out(again, another, Log()).name == lock.digest()


def test_ids_of_stages_name_the_lock_and_no_mirror(
    lock: Lock, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    texts = {
        LockedView(
            recipe_of(f"mirrors: {{archive: 'http://{host}/d', security: 'http://{host}/s'}}\n"),
            tmp_path,
            lock,
        ).identity()
        for host in ("one", "another")
    }
    assert texts == {f"lock {lock.digest()}\n"}


def test_a_key_that_changed_since_is_refused(
    lock: Lock, recipe_of: RecipeOf, tmp_path: Path
) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "key.gpg").write_bytes(b"another key")
    recipe = recipe_of("repositories:\n  - {name: own, uri: 'file:repo', suite: /, key: key.gpg}\n")
    keyed = Lock(**{**vars(lock), "keys": {"own": "0" * 64}})
    view = LockedView(recipe, tmp_path / "cache", keyed)
    with pytest.raises(BuildError, match="the key of own is another than the one"):
        view.fetch_key(recipe.repositories[0])
    same = Lock(**{**vars(lock), "keys": {"own": hashlib.sha256(b"another key").hexdigest()}})
    view = LockedView(recipe, tmp_path / "cache", same)
    view.fetch_key(recipe.repositories[0])
    (tmp_path / "key.gpg").unlink()
    again = LockedView(recipe, tmp_path / "cache", same)
    again.fetch_key(recipe.repositories[0])
    assert again.key(recipe.repositories[0]).read_bytes() == b"another key"


def test_another_machine_is_told(lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"ipxe": "1"}
    monkeypatch.setattr("imagebuild.lock.view.machine_versions", lambda: versions)
    assert other_machine(lock) == ""
    versions["ipxe"] = "2"
    assert "this machine has ipxe 2 (locked with 1)" in other_machine(lock)
    del versions["ipxe"]
    assert "ipxe missing (locked with 1)" in other_machine(lock)


def test_archives_that_nobody_uses_go_and_files_of_no_archive(lock: Lock, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    fetch(lock, cache, tmp_path / "mirror")
    place = archive.lay_out(lock, cache, Log())
    (cache / "debs" / f"{'0' * 64}.deb").write_bytes(b"of no archive")
    archive.prune(cache)
    assert len(list((cache / "debs").iterdir())) == 3
    long_ago = place.stat().st_mtime - (archive.KEPT_DAYS + 1) * 86400
    os.utime(place, (long_ago, long_ago))
    archive.prune(cache)
    assert list((cache / "debs").iterdir()) == list((cache / "locks").iterdir()) == []
