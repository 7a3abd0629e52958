import hashlib
import io
import json
import tarfile
from pathlib import Path

from rack.kubernetes.images import pack_image, pack_layer, write_images


def read_tar(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {info.name: info for info in archive.getmembers()}


def content(data: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = archive.extractfile(name)
        assert member is not None
        return member.read()


def test_layer_holds_parents_modes_and_links() -> None:
    layer = pack_layer({"usr/bin/x": (b"#!", 0o755)}, {"bin/x": "/usr/bin/x"})
    members = read_tar(layer)
    assert members["usr"].isdir()
    assert members["usr/bin"].isdir()
    assert members["tmp"].mode == 0o1777
    assert (members["usr/bin/x"].mode, members["usr/bin/x"].uid) == (0o755, 0)
    assert members["bin/x"].linkname == "/usr/bin/x"
    assert {info.mtime for info in members.values()} == {0}


def test_image_is_consistent_and_reproducible() -> None:
    layer = pack_layer({"pause": (b"elf", 0o755)}, {})
    image = pack_image("k8s.gcr.io/pause:3.2", [layer], [], ["/pause"])
    assert image == pack_image("k8s.gcr.io/pause:3.2", [layer], [], ["/pause"])
    (entry,) = json.loads(content(image, "manifest.json"))
    assert entry["RepoTags"] == ["k8s.gcr.io/pause:3.2"]
    config = content(image, entry["Config"])
    assert hashlib.sha256(config).hexdigest() == entry["Config"].removesuffix(".json")
    (layer_path,) = entry["Layers"]
    described = json.loads(config)
    assert described["config"]["Entrypoint"] == ["/pause"]
    digest = hashlib.sha256(content(image, layer_path)).hexdigest()
    assert described["rootfs"]["diff_ids"] == [f"sha256:{digest}"]


def test_both_images_are_written(tmp_path: Path) -> None:
    (tmp_path / "pause").write_bytes(b"pause")
    (tmp_path / "busybox").write_bytes(b"busybox")
    paths = write_images(
        tmp_path / "images", "registry.example/pause:1", tmp_path / "pause", tmp_path / "busybox"
    )
    assert [path.name for path in paths] == ["pause.tar", "test.tar"]
    (entry,) = json.loads(content(paths[1].read_bytes(), "manifest.json"))
    members = read_tar(content(paths[1].read_bytes(), entry["Layers"][0]))
    assert members["bin/sh"].linkname == "busybox"
