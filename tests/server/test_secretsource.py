import logging
import os
from pathlib import Path

import pytest

from server.errors import ServerError
from server.secretsource import SecretsSource
from server.stamp import SETTLE_SECONDS


class Secret:
    """A Secret as kubelet mounts it."""

    def __init__(self, mount: Path) -> None:
        self.mount = mount
        self.generation = 0
        mount.mkdir()

    def swap(self, **files: str) -> None:
        self.generation += 1
        new = self.mount / f"..{self.generation}"
        new.mkdir()
        for name, text in files.items():
            (new / name).write_text(text)
        data = self.mount / "..data"
        old = os.readlink(data) if data.is_symlink() else None
        (self.mount / "..data_tmp").symlink_to(new.name)
        (self.mount / "..data_tmp").rename(data)
        for name in files:
            link = self.mount / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        for link in self.mount.iterdir():
            if link.is_symlink() and not link.exists():
                link.unlink()
        if old is not None:
            for file in (self.mount / old).iterdir():
                file.unlink()
            (self.mount / old).rmdir()


def test_none(tmp_path: Path) -> None:
    source = SecretsSource(None)
    source.load_first()
    assert source.poll() is False
    assert source.current == {}
    with pytest.raises(ServerError, match="cannot be read") as caught:
        SecretsSource(tmp_path / "nosuch").load_first()
    assert caught.value.hint


def test_a_swap_is_noticed_by_the_quick_look(tmp_path: Path) -> None:
    secret = Secret(tmp_path / "secret")
    secret.swap(token="first", ca="x")
    source = SecretsSource(secret.mount)
    source.load_first()
    assert source.current == {"token": "first", "ca": "x"}
    assert source.poll(quick=True) is False
    secret.swap(token="second")
    assert source.poll(quick=True) is True
    assert source.current == {"token": "second"}
    secret.swap(token="second")
    assert source.poll() is False, "the same values are no change"
    assert source.problem == ""


def test_in_a_plain_directory_half_a_file_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "token"
    file.write_text("first")
    wall = [2_000_000_000.0]
    source = SecretsSource(tmp_path, wall=lambda: wall[0])
    source.load_first()
    file.write_text("seco")
    wall[0] = file.stat().st_mtime + SETTLE_SECONDS / 2
    assert source.poll() is False
    file.write_text("second")
    wall[0] = file.stat().st_mtime + 2 * SETTLE_SECONDS
    assert source.poll() is True
    assert source.current == {"deep": {"token": "second"}}


def test_bad_ones_are_refused_and_not_quoted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = Secret(tmp_path / "secret")
    secret.swap(token="a-good-secret")
    source = SecretsSource(secret.mount)
    source.load_first()
    secret.swap(token="\udcff".encode("utf-8", "surrogateescape").decode("latin-1") * 40000)
    assert source.poll() is False
    assert "larger than" in source.problem
    assert source.current == {"token": "a-good-secret"}
    assert source.poll() is False
    assert len(caplog.records) == 1
    secret.swap(token="a-better-secret")
    assert source.poll() is True
    assert source.problem == ""
    assert "-secret" not in caplog.text.replace(str(tmp_path), "")
