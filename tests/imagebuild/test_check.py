"""`bootfarm build --check`, as CI calls it."""

import hashlib
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bootfarm import main

LEAST = "name: amd64\nrelease: bookworm\nkernel: {package: linux-image-cloud-amd64}\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, for what apt fetches."""
    monkeypatch.setenv("BOOTFARM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def check(path: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["build", str(path), "--check", *words])


def write(directory: Path, text: str) -> Path:
    path = directory / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_recipe_in_order(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "motd").write_text("hello")
    path = write(tmp_path, LEAST + "files: [{path: /etc/motd, source: motd}]\n")
    result = check(path, "--no-network")
    assert result.exit_code == 0, result.output
    assert f"checked: {path}, 1 file, keys of 0 of 0 repositories: no faults" in result.output
    assert not cache.exists()


def test_the_recipes_own_faults_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, LEAST + "packges: []\ncmdline: [root=/dev/sda]\nsquashfs: {level: 0}\n")
    result = check(path)
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0] == f"{path}:4: packges: unknown key"
    assert f"{path}:5: cmdline[0]: root= is set by the server's boot menu" in lines
    assert f"{path}:6: squashfs.level: 0 is not between 1 and 22" in lines
    assert lines[-1] == f"checked: {path}: 3 faults"


def test_files_and_keys(tmp_path: Path) -> None:
    (tmp_path / "source.tar").write_bytes(b"tar")
    (tmp_path / "patches").mkdir()
    (tmp_path / "patches" / "series").write_text("# ours\n0001-why.patch\n")
    (tmp_path / "key.gpg").write_bytes(b"key")
    (tmp_path / "repo").mkdir()
    text = """\
files:
- {path: /etc/x/, source: "*.nothing"}
patches:
- {series: patches}
builds:
- name: tool
  file: source.tar
  sha256: "%s"
  commands: [make]
  outputs: [/usr/bin/tool]
repositories:
- {name: one, uri: "file:repo", suite: /, key: key.gpg,
   key_sha256: "%s"}
- {name: two, uri: "file:nowhere", suite: /, key: key.gpg, missing_hint: make it}
- {name: net, uri: "https://x.example/deb", suite: /, key: "https://x.example/key",
   key_sha256: "%s"}
"""
    path = write(tmp_path, LEAST + text % (("0" * 64,) * 3))
    result = check(path, "--no-network")
    assert result.exit_code == 1
    actual = hashlib.sha256(b"tar").hexdigest()
    for words in (
        f"{path}:5: files[0].source: no file matches {tmp_path}/*.nothing",
        f"{tmp_path}/patches/series:2: no patch '0001-why.patch' in {tmp_path}/patches",
        f"{path}:11: builds[0].sha256: the SHA-256 of {tmp_path}/source.tar is {actual}",
        f"{path}:15: repositories[0].key: its SHA-256 is ",
        f"{path}:17: repositories[1]: no directory {tmp_path}/nowhere\n  hint: make it",
    ):
        assert words in result.output, (words, result.output)
    assert result.output.rstrip().endswith("keys of 2 of 3 repositories: 5 faults") or (
        "5 faults, 1 warning" in result.output  # a machine without mmdebstrap
    )


def test_what_is_laid_over_the_recipe(tmp_path: Path) -> None:
    path = write(tmp_path, LEAST)
    result = check(path, "--no-network", "--repository", "kubernetes=http://x")
    assert result.exit_code == 1
    assert "has no repository named 'kubernetes'" in result.output


def test_no_network_is_for_check(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["build", str(write(tmp_path, LEAST)), "--no-network"])
    assert result.exit_code == 2


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_packages_that_no_mirror_has(tmp_path: Path) -> None:
    text = """\
packages:
- vim
- nosuchpackage
- vmi
builds:
- dkms: nosuch-dkms
container_runtime:
  name: containerd
  package: containerdd
"""
    path = write(tmp_path, LEAST + text)
    result = check(path)
    assert result.exit_code == 1, result.output
    for place in (
        "6: packages[1]: no such package: nosuchpackage",
        "7: packages[2]: no such package: vmi",
        "9: builds[0].dkms: no such package: nosuch-dkms",
        "12: container_runtime.package: no such package: containerdd",
    ):
        assert f"{path}:{place}" in result.output, result.output
    assert "did you mean 'containerd'?" in result.output
    good = write(tmp_path, LEAST + "packages: [vim]\ncontainer_runtime: {name: containerd}\n")
    result = check(good)
    assert result.exit_code == 0, result.output
    assert not any("stages" in names for _, names, _ in os.walk(tmp_path / "cache"))


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_a_mirror_that_does_not_answer(tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9/debian"
    path = write(tmp_path, LEAST + f"mirrors: {{archive: '{nowhere}', security: '{nowhere}'}}\n")
    result = check(path)
    assert result.exit_code == 1
    assert f"{path}: cannot read the package indexes" in result.output
    assert "check mirrors:" in result.output


def test_several_recipes_at_once(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(LEAST)
    bad.write_text(LEAST.replace("name:", "nam:"))
    words = ["build", str(good), str(bad)]
    result = CliRunner().invoke(main, [*words, "--check", "--no-network"])
    assert result.exit_code == 1
    assert f"checked: {good}" in result.output
    assert f"{bad}:1: nam: unknown key" in result.output
    assert CliRunner().invoke(main, [words[0], words[1], "--check", "--no-network"]).exit_code == 0
    assert "one after the other" in CliRunner().invoke(main, words).output
