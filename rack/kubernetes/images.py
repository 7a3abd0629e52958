"""Container images as docker-archive tarballs, made without a container engine.

The layout is that of `docker save` (Docker Image Specification v1.2): layers, the
configuration named by its digest, and manifest.json. `docker load` and
`ctr images import` both read it.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

TEST_IMAGE = "bootfarm.local/test:1"
# Applets that the test image has as commands; the others are run as `busybox NAME`.
APPLETS = (
    *("sh", "echo", "cat", "ls", "sleep", "true", "false", "hostname", "uname", "id", "ip"),
    *("env", "date", "wget", "ping", "nslookup", "test", "seq", "head", "grep", "free"),
)


def _add(
    archive: tarfile.TarFile, name: str, data: bytes = b"", mode: int = 0o644, kind: bytes = b"0"
) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size = kind, mode, len(data)
    archive.addfile(info, io.BytesIO(data))


def pack_layer(files: Mapping[str, tuple[bytes, int]], links: Mapping[str, str]) -> bytes:
    """One layer: files (path -> bytes, mode), links (path -> target), their directories.

    Owners are root and all times zero: the same content gives the same bytes.
    """
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as layer:
        directories = {"tmp": 0o1777}
        for path in (*files, *links):
            for parent in list(Path(path).parents)[:-1]:
                directories[str(parent)] = 0o755
        for name in sorted(directories):
            _add(layer, f"{name}/", mode=directories[name], kind=tarfile.DIRTYPE)
        for name in sorted(files):
            _add(layer, name, files[name][0], files[name][1])
        for name in sorted(links):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = tarfile.SYMTYPE, links[name], 0o777
            layer.addfile(info)
    return sink.getvalue()


def pack_image(
    tag: str, layers: Sequence[bytes], command: Sequence[str], entrypoint: Sequence[str]
) -> bytes:
    """The docker-archive of an image of layers (tar files), tagged `repository:tag`."""
    ids = [hashlib.sha256(layer).hexdigest() for layer in layers]
    config: dict[str, object] = {"Env": ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"]}
    if command:
        config["Cmd"] = list(command)
    if entrypoint:
        config["Entrypoint"] = list(entrypoint)
    description = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_id}" for layer_id in ids]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "bootfarm rack"}]
            * len(ids),
        },
        sort_keys=True,
    ).encode()
    config_name = hashlib.sha256(description).hexdigest() + ".json"
    manifest = [
        {"Config": config_name, "RepoTags": [tag], "Layers": [f"{one}/layer.tar" for one in ids]}
    ]
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as image:
        _add(image, config_name, description)
        for layer_id, layer in zip(ids, layers, strict=True):
            _add(image, f"{layer_id}/", mode=0o755, kind=tarfile.DIRTYPE)
            _add(image, f"{layer_id}/VERSION", b"1.0")
            _add(image, f"{layer_id}/layer.tar", layer)
        _add(image, "manifest.json", json.dumps(manifest, sort_keys=True).encode())
    return sink.getvalue()


def write_images(into: Path, pause_image: str, pause: Path, busybox: Path) -> list[Path]:
    """Write pause.tar (tagged `pause_image`) and test.tar from two static programs."""
    into.mkdir(parents=True, exist_ok=True)
    pause_layer = pack_layer({"pause": (pause.read_bytes(), 0o755)}, {})
    test_layer = pack_layer(
        {
            "bin/busybox": (busybox.read_bytes(), 0o755),
            "etc/passwd": (b"root:x:0:0:root:/:/bin/sh\n", 0o644),
            "etc/group": (b"root:x:0:\n", 0o644),
        },
        {f"bin/{applet}": "busybox" for applet in APPLETS},
    )
    images = {
        "pause.tar": pack_image(pause_image, [pause_layer], [], ["/pause"]),
        "test.tar": pack_image(TEST_IMAGE, [test_layer], ["/bin/sh"], []),
    }
    for name, data in images.items():
        (into / name).write_bytes(data)
    return [into / name for name in images]
