import logging
from pathlib import Path

import pytest

from server.errors import ServerError
from server.sources.secrets import SecretsSource
from server.sources.stamp import SETTLE_SECONDS
from tests.kubelet import Mount


class Secret:
    """A Secret as kubelet mounts it."""

    def __init__(self, mount: Path) -> None:
        self.mount = mount
        self._kubelet = Mount(mount)

    def swap(self, **files: str) -> None:
        self._kubelet.swap(files)


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


def test_a_secret_that_is_emptied_is_refused(tmp_path: Path) -> None:
    secret = Secret(tmp_path / "secret")
    secret.swap(token="first", note="")
    source = SecretsSource(secret.mount)
    source.load_first()
    secret.swap(token="", note="")
    assert source.poll() is False
    assert source.current["token"] == "first"
    assert "token: is empty now, and held a secret" in source.problem
    secret.swap(note="")
    assert source.poll() is True
    assert source.problem == ""


def test_a_directory_that_holds_no_secrets_is_refused(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).symlink_to(".")
    with pytest.raises(ServerError, match="holds more than") as caught:
        SecretsSource(tmp_path).load_first()
    assert caught.value.hint
