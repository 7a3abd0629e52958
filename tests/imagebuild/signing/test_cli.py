"""`bootfarm keys`, `bootfarm sign` and what `images` says of signatures, as users meet them."""

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bootfarm import main
from imagebuild.store.images import Image, Store
from imagebuild.store.signatures import FOLDER
from tests.server.farm import publish


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words)])


def good(*words: object) -> str:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return publish(tmp_path / "store")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    good("keys", "make", tmp_path / "ci.key", "--comment", "ci of us")
    return tmp_path / "ci.key"


@pytest.fixture
def signers(tmp_path: Path, key: Path) -> Path:
    path = tmp_path / "signers"
    path.write_text(good("keys", "export", key))
    return path


def test_a_key_is_its_owners_alone_and_is_never_overwritten(key: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    result = run("keys", "make", key)
    assert result.exit_code == 1
    assert "is there already" in result.output
    assert key.read_bytes() == before


def test_show_and_export(key: Path, signers: Path) -> None:
    of_private, of_public = good("keys", "show", key), good("keys", "show", f"{key}.pub")
    assert of_private == of_public
    assert of_private.startswith("ssh-ed25519         SHA256:")
    (found,) = json.loads(good("keys", "show", "--json", signers))
    assert found["fingerprint"] in of_public
    assert found["comment"] == "ci of us"
    assert "PRIVATE" not in signers.read_text()
    # Also where the .pub file is lost.
    Path(f"{key}.pub").unlink()
    assert found["fingerprint"] in good("keys", "show", key)


def test_sign_list_and_show(image: Image, key: Path, signers: Path, tmp_path: Path) -> None:
    store = ["--store", tmp_path / "store"]
    wanted = ["--require-signed", signers]
    assert "not served: image amd64@" in good("images", "list", *store, *wanted)
    assert "not served" not in good("images", "list", *store)
    shown = good("images", "show", *store, "amd64")
    assert "signed    no: `bootfarm sign` signs it" in shown
    assert "trusted" not in shown
    said = good("sign", *store, "--signing-key", key, "amd64")
    assert said.startswith(f"amd64@{image.digest[:12]} is signed by SHA256:")
    assert "not served" not in good("images", "list", *store, *wanted)
    assert "trusted   by ci of us" in good("images", "show", *store, *wanted, "amd64")
    data = json.loads(good("images", "show", *store, *wanted, "--json", "amd64"))
    assert data["refused"] == ""
    assert [one["key"] in said for one in data["signatures"]] == [True]
    assert data["digest"] == image.digest
    (data,) = json.loads(good("images", "list", *store, "--json"))
    assert data["refused"] is None


def test_revoke(image: Image, key: Path, signers: Path, tmp_path: Path) -> None:
    store, revoked = ["--store", tmp_path / "store"], tmp_path / "revoked"
    good("sign", *store, "--signing-key", key, "amd64")
    revoke = ["keys", "revoke", *store, "--list", revoked]
    wanted = ["--require-signed", signers, "--revoked", revoked]
    assert f"image amd64@{image.digest}" in good(*revoke, "--image", "amd64")
    assert "is revoked" in good("images", "list", *store, *wanted)
    assert "was there already" in good(*revoke, "--image", f"amd64@{image.digest}")
    assert "before amd64 2100-01-01" in good(*revoke, "--before", "amd64=2100-01-01")
    good(*revoke, "--signing-key", f"{key}.pub")
    lines = revoked.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["#", "image", "before", "key"]
    before = revoked.read_bytes()
    result = run(*revoke, "--before", "amd64=soon")
    assert (result.exit_code, revoked.read_bytes()) == (1, before)
    assert "revokes nothing" in result.output
    assert run(*revoke).exit_code == 2
    result = run("images", "list", *store, "--revoked", revoked)
    assert "counts with --require-signed only" in result.output


def test_import_brings_signatures_and_refuses_without(
    image: Image, key: Path, signers: Path, tmp_path: Path
) -> None:
    away = tmp_path / "away"
    bring = ["images", "import", "--store", away, "--require-signed", signers, image.path]
    result = run(*bring)
    assert result.exit_code == 1
    assert "is not signed" in result.output
    assert "nothing was imported" in result.output
    assert not away.exists()
    good("sign", "--store", tmp_path / "store", "--signing-key", key, "amd64")
    good(*bring)
    assert "trusted   by ci of us" in good(
        "images", "show", "--store", away, "--require-signed", signers, "amd64"
    )
    # A signature that comes later is brought by the same import again.
    good("keys", "make", tmp_path / "second.key")
    good("sign", "--store", tmp_path / "store", "--signing-key", tmp_path / "second.key", "amd64")
    good(*bring)
    data = json.loads(good("images", "show", "--store", away, "--json", "amd64"))
    assert len(data["signatures"]) == 2


def test_an_image_that_goes_takes_its_signatures_along(
    image: Image, key: Path, tmp_path: Path
) -> None:
    good("sign", "--store", tmp_path / "store", "--signing-key", key, "amd64")
    home = image.path.parent / FOLDER
    assert (home / image.digest).is_dir()
    Store(tmp_path / "store").remove("amd64", image.digest, force=True)
    assert list(home.iterdir()) == []


def test_a_store_that_takes_no_signature(image: Image, key: Path, tmp_path: Path) -> None:
    (image.path.parent / FOLDER).write_text("in the way")
    result = run("sign", "--store", tmp_path / "store", "--signing-key", key, "amd64")
    assert result.exit_code == 1
    assert "cannot write the signature" in result.output


@pytest.mark.parametrize(
    ("name", "words"), [("nothing", "there is no such key"), ("text", "cannot sign with")]
)
def test_keys_that_cannot_sign(image: Image, tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "text").write_text("no key")
    result = run("sign", "--store", tmp_path / "store", "--signing-key", tmp_path / name, "amd64")
    assert result.exit_code == 1
    assert words in result.output
    assert not (image.path.parent / FOLDER).exists()
