"""Images that are served only when they are signed: edits of keys, of the list, of signatures."""

import shutil
from pathlib import Path

import pytest

from imagebuild.signing.keygen import read_public, sign_image
from imagebuild.store.images import Image, Store
from imagebuild.store.signatures import FOLDER
from server.errors import ServerError
from server.sources.images import StoreSource
from server.sources.signers import SignersSource
from tests.imagebuild.signing.signers import make_signer
from tests.server.farm import publish


class Signing:
    """A store with one image, a key, and a source that wants its signature."""

    def __init__(self, directory: Path) -> None:
        self.store, self.revoked = directory / "store", directory / "revoked"
        self.revoked.write_text("")
        self.image = publish(self.store)
        self.key, self.signers = make_signer(directory)
        signers = SignersSource(self.signers, self.revoked)
        signers.load_first()
        self.source = StoreSource(self.store, signers)

    def look(self) -> tuple[Image, ...]:
        self.source.poll()
        return self.source.images

    def told(self) -> list[str]:
        return [
            trouble.text for trouble in self.source.troubles(None) if trouble.kind == "signature"
        ]


@pytest.fixture
def signing(tmp_path: Path) -> Signing:
    return Signing(tmp_path)


def test_a_signature_counts_as_soon_as_it_is_there(signing: Signing) -> None:
    assert signing.look() == ()
    assert [image for image, _ in signing.source.refused] == [signing.image]
    assert "is not signed" in signing.told()[0]
    sign_image(signing.image, signing.key, 1)
    assert signing.source.poll() is True
    assert signing.source.images == (signing.image,)
    assert signing.told() == []
    assert signing.source.poll() is False
    shutil.rmtree(signing.image.path.parent / FOLDER)
    assert signing.look() == ()


def test_a_revoked_image_goes_at_once_and_is_not_kept_as_of_a_lost_store(signing: Signing) -> None:
    sign_image(signing.image, signing.key, 1)
    assert signing.look() == (signing.image,)
    signing.revoked.write_text(f"image amd64@{signing.image.digest}\n")
    assert signing.source.poll(quick=True) is True
    assert signing.source.images == ()
    assert signing.source.problems == ()
    assert "is revoked" in signing.told()[0]


def test_a_bad_edit_leaves_keys_and_list_in_force(signing: Signing) -> None:
    sign_image(signing.image, signing.key, 1)
    signing.look()
    good = signing.signers.read_text()
    for bad in ("", "nonsense\n"):
        signing.signers.write_text(bad)
        assert signing.look() == (signing.image,)
        assert "stay as they were" in signing.told()[0]
    signing.signers.unlink()
    assert signing.look() == (signing.image,)
    assert "No such file" in signing.told()[0]
    signing.signers.write_text(good)
    signing.look()
    assert signing.told() == []
    signing.revoked.write_text(f"key {read_public(signing.key).fingerprint}\n")
    assert signing.look() == ()


def test_others_stay_on_offer_and_a_refused_one_has_its_tag_still(signing: Signing) -> None:
    sign_image(signing.image, signing.key, 1)
    second = publish(signing.store, kernel="2")
    assert [image.digest for image in signing.look()] == [signing.image.digest]
    assert [image.digest for image, _ in signing.source.refused] == [second.digest]
    # What collects garbage goes by all of them: a refused one has its time, too.
    digests = {image.digest for image in signing.source.found}
    assert digests == {signing.image.digest, second.digest}
    kinds = {trouble.kind for trouble in signing.source.troubles("amd64")}
    assert kinds == {"signature"}
    # Without a tag nobody asks for it, and garbage collection takes it: no trouble.
    store = Store(signing.store)
    store.tag("amd64", signing.image.digest, "current")
    store.remove("amd64", "previous")
    signing.look()
    assert len(signing.source.refused) == 1
    assert signing.told() == []


def test_the_start_needs_good_keys(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="require_signed: cannot read"):
        SignersSource(tmp_path / "none").load_first()
    with pytest.raises(ServerError, match="revoked: counts with require_signed only"):
        SignersSource(None, tmp_path / "none").load_first()
