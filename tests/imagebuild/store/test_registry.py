"""Images to and from Debian's docker-registry, by skopeo."""

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from bootfarm import main
from imagebuild.errors import BuildError
from imagebuild.store.artifact import ArtifactError, image_digest, read_artifact, write_artifact
from imagebuild.store.images import INCOMING, Store
from imagebuild.store.registry import Reference, Registry, RegistryError
from tests.dockerregistry import run_registry
from tests.server.farm import publish


@pytest.mark.parametrize(
    ("text", "docker"),
    [
        ("oci://r.example.org/nodes/amd64", "docker://r.example.org/nodes/amd64:current"),
        ("oci://r.example.org:5000/amd64:v1.2", "docker://r.example.org:5000/amd64:v1.2"),
        (f"oci://r/a@sha256:{'0' * 64}", f"docker://r/a@sha256:{'0' * 64}"),
    ],
)
def test_a_reference_as_skopeo_writes_it(text: str, docker: str) -> None:
    assert Reference.parse(text).docker == docker


@pytest.mark.parametrize(
    "text",
    [
        *("oci://r", "oci://r/A", "oci://r/a:", "oci://r/a@x", "docker://r/a", "oci://r/a b"),
        *("oci://-/a", f"oci://r/a:{'0' * 12}"),
    ],
)
def test_what_names_no_image(text: str) -> None:
    with pytest.raises(RegistryError, match="names no image in a registry"):
        Reference.parse(text)


def test_an_artifact_is_the_image_and_the_same_each_time(tmp_path: Path) -> None:
    image = publish(tmp_path / "store")
    one = write_artifact(image, _fresh(tmp_path / "one"))
    assert write_artifact(image, _fresh(tmp_path / "two")) == one
    manifest = json.loads((tmp_path / "one/blobs/sha256" / one.removeprefix("sha256:")).read_text())
    assert manifest["config"]["digest"] == f"sha256:{image.digest}"
    kinds = [layer["mediaType"].rpartition("bootfarm.")[2] for layer in manifest["layers"]]
    assert kinds == [
        *("initramfs.v1", "rootfs-list.v1", "rootfs.v1.squashfs", "kernel.v1", "loaders.v1.tar")
    ]
    target = _fresh(tmp_path / "image")
    assert read_artifact(tmp_path / "one", target).digest == image.digest
    assert Store(tmp_path / "other").publish("amd64", target).digest == image.digest


def test_what_is_no_node_image_is_told() -> None:
    with pytest.raises(ArtifactError, match="no node image: its config is application/x"):
        image_digest(b'{"config": {"mediaType": "application/x"}, "layers": []}')
    with pytest.raises(ArtifactError, match="no OCI image"):
        image_digest(b"<html>")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.mark.integration
def test_pushed_and_pulled_by_the_commands(registry: str, tmp_path: Path) -> None:
    image = publish(tmp_path / "one")
    where = f"oci://{registry}/nodes/amd64"
    pushed = _run("push", "amd64", f"{where}:stable", store=tmp_path / "one")
    name, _, digest = pushed.strip().partition("@")
    assert name == where
    assert digest.startswith("sha256:")
    assert _run("push", "amd64", f"{where}:stable", store=tmp_path / "one") == pushed
    # The registry has the very bytes: nothing was packed anew on the way.
    assert Registry().look(Reference.parse(f"{where}:stable")) == image.digest
    assert Registry().look(Reference.parse(pushed.strip())) == image.digest
    _run("pull", f"{where}:stable", store=tmp_path / "two")
    found = Store(tmp_path / "two").get("amd64", "stable")
    assert (found.digest, found.tags) == (image.digest, ("stable",))
    Store(tmp_path / "two").verify(found)
    assert list((tmp_path / "two" / INCOMING).iterdir()) == []
    _run("pull", pushed.strip(), "--tag", "current", store=tmp_path / "three")
    assert Store(tmp_path / "three").get("amd64").digest == image.digest


@pytest.mark.integration
def test_what_a_registry_refuses_or_lacks_is_told(registry: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    said = _run("pull", f"oci://{registry}/nodes/none:x", store=store, status=1)
    assert "cannot look at" in said
    assert "skopeo list-tags" in said
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{sock.getsockname()[1]}"
        said = _run("pull", f"oci://{nobody}/a:x", store=store, status=1)
    assert "connection refused" in said


@pytest.mark.integration
def test_a_damaged_blob_is_never_published(registry: str, tmp_path: Path) -> None:
    """The registry's disk is damaged: skopeo sees it, and were it not to, publishing does."""
    image = publish(tmp_path / "one", kernel="6.1.0-9-amd64")
    layout = _fresh(tmp_path / "layout")
    write_artifact(image, layout)
    blob = layout / "blobs/sha256" / image.manifest.files["vmlinuz"].sha256
    data = blob.read_bytes()
    blob.unlink()  # it is the store's own file
    blob.write_bytes(data[:-1] + b"!")
    target = _fresh(tmp_path / "image")
    read_artifact(layout, target)
    with pytest.raises(BuildError, match="SHA-256 differ"):
        Store(tmp_path / "two").publish("amd64", target)
    assert Store(tmp_path / "two").images() == []


def _fresh(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


def _run(*words: str, store: Path, status: int = 0) -> str:
    verb, *more = words
    done = CliRunner().invoke(main, ["images", verb, "--store", str(store), *more])
    assert done.exit_code == status, done.output
    return done.output
