"""Which images are trusted, by real keys and by what is revoked."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from imagebuild.signing.keygen import read_public, sign_image
from imagebuild.store.images import Image, Store
from imagebuild.store.signatures import FOLDER, SIGNATURE, STATEMENT
from imagebuild.store.trust import (
    Revoked,
    Trust,
    TrustError,
    load_trust,
    parse_revoked,
    parse_signers,
)
from tests.imagebuild.signing.signers import make_signer
from tests.server.farm import publish

NOW = 1_800_000_000


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return publish(tmp_path / "store")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_signer(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_signer(tmp_path_factory.mktemp("other"), "stranger")


def folder_of(image: Image) -> Path:
    (folder,) = (image.path.parent / FOLDER / image.digest).iterdir()
    return folder


def test_a_signed_image_is_trusted_and_stays_what_it_is(
    image: Image, ours: tuple[Path, Path], tmp_path: Path
) -> None:
    key, signers = ours
    sign_image(image, key, NOW)
    verdict = load_trust(signers).judge(image)
    assert (verdict.reason, [signer.comment for signer in verdict.signers]) == ("", ["ci"])
    store = Store(tmp_path / "store")
    store.verify(image)
    assert store.get("amd64") == image


def test_ssh_keygen_verifies_what_we_signed(image: Image, ours: tuple[Path, Path]) -> None:
    """The line of `keys export`, our namespace, our statement: all as OpenSSH reads them."""
    key, signers = ours
    sign_image(image, key, NOW)
    folder = folder_of(image)
    argv = ["ssh-keygen", "-Y", "verify", "-f", str(signers), "-I", "ci", "-n", "bootfarm-image"]
    done = subprocess.run(
        [*argv, "-s", str(folder / SIGNATURE)],
        input=(folder / STATEMENT).read_bytes(),
        capture_output=True,
    )
    assert done.returncode == 0, done
    assert b"Good" in done.stdout


def test_unsigned_and_a_strangers(
    image: Image, ours: tuple[Path, Path], other: tuple[Path, Path]
) -> None:
    trust = load_trust(ours[1])
    assert "is not signed; `bootfarm sign amd64@" in trust.judge(image).reason
    sign_image(image, other[0], NOW)
    reason = trust.judge(image).reason
    assert f"is signed by {read_public(other[0]).fingerprint}" in reason
    assert "names no such key" in reason


def test_two_signatures_lie_side_by_side(
    image: Image, ours: tuple[Path, Path], other: tuple[Path, Path]
) -> None:
    for key, _ in (ours, other):
        sign_image(image, key, NOW)
    for _, signers in (ours, other):
        assert load_trust(signers).judge(image).reason == ""


def test_a_signature_of_another_image_does_not_count(
    image: Image, ours: tuple[Path, Path], tmp_path: Path
) -> None:
    sign_image(image, ours[0], NOW)
    second = publish(tmp_path / "store", kernel="2")
    moved = second.path.parent / FOLDER / second.digest
    folder_of(image).parent.rename(moved)
    reason = load_trust(ours[1]).judge(second).reason
    assert f"is of another image: amd64@{image.digest[:12]}" in reason


@pytest.mark.parametrize("file", [STATEMENT, SIGNATURE])
def test_a_changed_byte_or_a_lost_file_does_not_count(
    image: Image, ours: tuple[Path, Path], file: str
) -> None:
    sign_image(image, ours[0], NOW)
    path = folder_of(image) / file
    data = path.read_bytes()
    path.write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])
    trust = load_trust(ours[1])
    assert "has no good signature" in trust.judge(image).reason
    path.unlink()
    assert "cannot be read" in trust.judge(image).reason
    path.write_bytes(data)
    assert trust.judge(image).reason == ""


def test_what_is_revoked(image: Image, ours: tuple[Path, Path], other: tuple[Path, Path]) -> None:
    key, signers = ours
    sign_image(image, key, NOW)
    trust = load_trust(signers)
    fingerprint = read_public(key).fingerprint

    def reason(revoked: Revoked) -> str:
        return replace(trust, revoked=revoked).judge(image).reason

    assert "is revoked; tag another one" in reason(Revoked(images=frozenset({image.digest})))
    assert f"signed by {fingerprint}, which is revoked" in reason(
        Revoked(keys=frozenset({fingerprint}))
    )
    assert reason(Revoked(floors={"amd64": NOW})) == ""
    assert reason(Revoked(floors={"storage": NOW + 1})) == ""
    assert "counts from 2027-01-15T08:00:01Z on" in reason(Revoked(floors={"amd64": NOW + 1}))
    # Another trusted key's signature, as while keys change, makes up for the revoked one.
    sign_image(image, other[0], NOW)
    both = Trust((*trust.signers, read_public(other[0])), Revoked(frozenset({fingerprint})))
    assert both.judge(image).reason == ""
    # A signature made again counts from its new time on.
    sign_image(image, key, NOW + 1)
    assert reason(Revoked(floors={"amd64": NOW + 1})) == ""


def test_a_younger_signature_takes_the_place_of_the_same_keys(
    image: Image, ours: tuple[Path, Path]
) -> None:
    for now in (NOW, NOW + 9, NOW + 9, NOW + 5):
        sign_image(image, ours[0], now)
    names = [path.name for path in (image.path.parent / FOLDER / image.digest).iterdir()]
    assert sorted(int(name.partition(".")[2]) for name in names) == [NOW + 5, NOW + 9]
    assert load_trust(ours[1]).judge(image).reason == ""


def test_signers_as_openssh_has_them(ours: tuple[Path, Path]) -> None:
    line = read_public(ours[0]).line
    for text in (line, f"# ours\n\nci {line}", f'* namespaces="git,bootfarm-image" {line}'):
        (key,) = parse_signers(text.encode(), "signers")
        assert key.line.split()[:2] == line.split()[:2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "signers names no key"),
        ("nonsense\n", "signers:1: is no public key"),
        ("# x\nci sk-ssh-ed25519@openssh.com AAAA\n", "signers:2: a key of kind"),
        ('ci namespaces="git" @', "not for images"),
        ("ci cert-authority @", "the option 'cert-authority' is not known"),
        ('ci valid-before="20300101" @', "the option 'valid-before' is not known"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "holds a private key"),
    ],
)
def test_signers_that_are_wrong(ours: tuple[Path, Path], text: str, words: str) -> None:
    text = re.sub(" @$", f" {read_public(ours[0]).line}", text)
    with pytest.raises(TrustError, match=re.escape(words)):
        parse_signers(text.encode(), "signers")


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "key MD5:00",
        "image amd64@0123456789ab",
        "before amd64 yesterday",
        "before Amd 2026-11-30",
        "before amd64 1900-01-01",
    ],
)
def test_a_line_that_revokes_nothing_is_an_error(line: str) -> None:
    with pytest.raises(TrustError, match=r"list:2: .* revokes nothing"):
        parse_revoked(f"# head\n{line}\n".encode(), "list")


def test_of_two_floors_the_later_counts() -> None:
    text = b"before amd64 2026-11-30\nbefore amd64 2026-11-29T23:59:59Z\n"
    assert parse_revoked(text, "list").floors == {"amd64": 1_795_996_800}
