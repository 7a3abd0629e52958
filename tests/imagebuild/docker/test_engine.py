import dataclasses
import io
import os
import socket
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imagebuild.docker.engine import (
    Engine,
    Reference,
    build_error,
    follow_build,
    parse_reference,
    push_error,
    unpack_images,
    write_context,
)
from imagebuild.errors import BuildError
from imagebuild.recipe.packing import unpack_recipe
from imagebuild.recipe.read import load_recipe

DIGEST = "a" * 64


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("farm", Reference("farm")),
        ("farm:canary", Reference("farm", "canary")),
        ("registry.example.org:5000/a/farm", Reference("registry.example.org:5000/a/farm")),
        ("localhost:5000/farm:1.2", Reference("localhost:5000/farm", "1.2")),
    ],
)
def test_references(text: str, reference: Reference) -> None:
    assert parse_reference(text) == reference
    assert str(reference) == text


@pytest.mark.parametrize(
    "text", ["", "Farm", "farm:", "farm:a b", "-farm", "a//b", "farm@sha256:1"]
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(BuildError, match="is not the name of a container image"):
        parse_reference(text)


def test_no_engine_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(
        BuildError, match=r"no Docker engine answers at unix:.*No such file"
    ) as caught:
        Engine(f"unix://{tmp_path}/docker.sock")
    assert "docker.io" in caught.value.hint


def test_no_permission_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0o600)
        os.chmod(tmp_path, 0o755)
        for parent in tmp_path.parents[:2]:
            os.chmod(parent, 0o755)
        said: list[BaseException] = []

        def connect_as_nobody() -> None:
            # Only this thread's file system identity changes.
            import ctypes

            libc = ctypes.CDLL(None)
            libc.setfsgid(65534)
            libc.setfsuid(65534)
            try:
                Engine(f"unix://{path}")
            except BaseException as error:
                said.append(error)

        thread = threading.Thread(target=connect_as_nobody)
        thread.start()
        thread.join()
    (error,) = said
    assert isinstance(error, BuildError)
    assert "no permission to use the Docker engine" in error.message
    assert "group docker" in error.hint


def test_a_failed_stage_says_what_the_stage_said() -> None:
    stream: list[dict[str, Any]] = [
        {"stream": "Step 3/9 : RUN python3 -m imagebuild.container basesystem\n"},
        {"stream": "+ apt-get update\n"},
        {"stream": "\x1b[91mError: demo.yaml: packages: no such package: opnssh\n\x1b[0m"},
        {"stream": "\x1b[91m  hint: did you mean 'openssh'?\n\x1b[0m"},
        {"error": "The command '/bin/sh -c python3 ...' returned a non-zero code: 1"},
    ]
    with pytest.raises(BuildError) as caught:
        follow_build(stream, lambda message: None)
    assert caught.value.message == "demo.yaml: packages: no such package: opnssh"
    assert caught.value.hint == "did you mean 'openssh'?"


def test_another_failed_step_shows_its_last_lines() -> None:
    error = build_error("returned a non-zero code: 100", ["E: no network", ""])
    assert error.message == "returned a non-zero code: 100\n    E: no network"


def test_a_full_disk_is_named() -> None:
    error = build_error("write /farm/work: no space left on device", [])
    assert error.message.startswith("the engine's disk is full")
    assert "prune" in error.hint


def test_the_image_is_the_last_id_of_the_stream() -> None:
    stream: list[dict[str, Any]] = [
        {"aux": {"ID": "sha256:1"}},
        {"stream": "x\n"},
        {"aux": {"ID": "sha256:2"}},
    ]
    seen: list[dict[str, Any]] = []
    assert follow_build(stream, seen.append) == "sha256:2"
    assert seen == stream
    with pytest.raises(BuildError, match="without an image"):
        follow_build([{"stream": "x\n"}], seen.append)


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        ("denied: requested access to the resource is denied", "docker login"),
        ("unauthorized: authentication required", "docker login"),
        ("server gave HTTP response to HTTPS client", "insecure-registries"),
        ("dial tcp 127.0.0.1:1: connect: connection refused", "run"),
        ("x509: certificate signed by unknown authority", "certs.d"),
    ],
)
def test_what_a_push_fails_of(error: str, hint: str) -> None:
    refused = push_error("registry.example.org/farm:x", error)
    assert error in refused.message
    assert hint in refused.hint


# The context


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A checkout of a few files."""
    house = tmp_path / "house"
    for path in (
        "Dockerfile",
        ".dockerignore",
        "container/door.py",
        "imagebuild/run.py",
        "imagebuild/__pycache__/run.pyc",
        "netboot-config/grub.cfg.j2",
        "server/app.py",
        "server/fastpath/_fastpath.cpython-311-x86_64-linux-gnu.so",
        "tests/test.py",
    ):
        (house / path).parent.mkdir(parents=True, exist_ok=True)
        (house / path).write_text(path)
    (house / "container/door.py").chmod(0o700)
    (house / "imagebuild/link").symlink_to("run.py")
    return house


def write_recipe(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "motd").write_text("hello")
    path = directory / "recipe.yaml"
    path.write_text(
        "name: amd64\nrelease: bookworm\nkernel: {package: linux-image-cloud-amd64}\n"
        "files: [{path: /etc/motd, source: motd}]\n"
    )
    return path


def test_the_context_is_the_code_and_the_packed_recipe(house: Path, tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "mine"))
    target = io.BytesIO()
    write_context(recipe, target, house)
    target.seek(0)
    with tarfile.open(fileobj=target) as archive:
        members = {member.name: member for member in archive}
        archive.extractall(tmp_path / "out")
    assert {name for name in members if members[name].isfile()} == {
        "Dockerfile",
        ".dockerignore",
        "container/door.py",
        "imagebuild/run.py",
        "netboot-config/grub.cfg.j2",
        "server/app.py",
        "recipes/packed/recipe.json",
        "recipes/packed/local/files/0/motd",
    }
    assert members["imagebuild/link"].linkname == "run.py"
    assert {(m.uid, m.gid, m.mtime, m.uname) for m in members.values()} == {(0, 0, 0, "")}
    assert members["container/door.py"].mode == 0o755
    assert members["server/app.py"].mode == 0o644
    packed = unpack_recipe(tmp_path / "out/recipes/packed")
    assert Path(packed.files[0].source).read_text() == "hello"
    assert dataclasses.replace(packed, files=()) == dataclasses.replace(
        recipe, files=(), file=Path("recipe.yaml")
    )


def test_the_same_files_make_the_same_context(house: Path, tmp_path: Path) -> None:
    contexts = []
    for name in ("one", "two"):
        recipe = load_recipe(write_recipe(tmp_path / name))
        target = io.BytesIO()
        write_context(recipe, target, house)
        contexts.append(target.getvalue())
    assert contexts[0] == contexts[1]


def test_without_a_checkout_there_is_nothing_to_build(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path))
    with pytest.raises(BuildError, match="no Dockerfile in"):
        write_context(recipe, io.BytesIO(), tmp_path)


# Taking the store out


class OneByOne(io.RawIOBase):
    """A stream that gives a byte at a time."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(1)
        buffer[: len(data)] = data
        return len(data)


def members() -> Iterator[tarfile.TarInfo]:
    for name, kind in (
        (f"images/amd64/{DIGEST}/manifest.json", tarfile.REGTYPE),
        (f"images/amd64/{DIGEST}/boot/grub/core.0", tarfile.REGTYPE),
        (f"images/amd64/{DIGEST}/link", tarfile.SYMTYPE),
        (f"images/amd64/{DIGEST}/../../../../escape", tarfile.REGTYPE),
        ("images/amd64/tags/current", tarfile.SYMTYPE),
        ("images/AMD64/" + DIGEST + "/x", tarfile.REGTYPE),
        ("elsewhere/x", tarfile.REGTYPE),
    ):
        member = tarfile.TarInfo(name)
        member.type = kind
        if kind == tarfile.SYMTYPE:
            member.linkname = "/etc/passwd"
        else:
            member.size = 4
        yield member


@pytest.mark.parametrize("with_escape", [False, True])
def test_only_files_of_images_are_unpacked(tmp_path: Path, with_escape: bool) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for member in members():
            if with_escape or "escape" not in member.name:
                archive.addfile(member, io.BytesIO(b"data"))
    target = tmp_path / "a/b/c"
    target.mkdir(parents=True)
    if with_escape:
        with pytest.raises(BuildError, match=r"archive holds .*escape"):
            unpack_images(OneByOne(data.getvalue()), target)
    else:
        unpack_images(OneByOne(data.getvalue()), target)
    files = sorted(
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()
    )
    image = f"a/b/c/images/amd64/{DIGEST}"
    assert files == [f"{image}/boot/grub/core.0", f"{image}/manifest.json"]
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]
