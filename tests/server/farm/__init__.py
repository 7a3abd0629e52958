"""A small farm for tests: real images of a few bytes in a real store."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from imagebuild.store.images import Image, Store
from imagebuild.store.manifest import MANIFEST_NAME, FileEntry, Manifest
from imagebuild.store.verity import Verity

FILES = {
    "rootfs.squashfs": b"hsqs" + bytes(range(256)) * 64,
    "vmlinuz": b"kernel " * 1000,
    "initrd.img": b"initramfs " * 1000,
    "rootfs.list": b"100755 0 0 f 1 /bin/true\n",
    "boot/grub/i386-pc/core.0": b"bios loader",
    "boot/grub/i386-pc/normal.mod": b"bios module",
    "boot/grub/x86_64-efi/core.efi": b"uefi loader",
}
GOOD = "[default]\nGREETING = one\n"
"""An lts.conf that every node can use."""


def publish(
    store: Path,
    name: str = "amd64",
    *,
    kernel: str = "6.1.0-1-amd64",
    cmdline: Sequence[str] = ("console=tty1", "console=ttyS0,115200"),
    lts_defaults: Mapping[str, str] | None = None,
    tags: Sequence[str] = ("current",),
    files: Mapping[str, bytes] = FILES,
    architecture: str = "amd64",
    verity: Verity | None = None,
) -> Image:
    """Publish an image; another `kernel` makes another digest."""
    opened = Store(store)
    with opened.writing() as directory:
        work = directory / "image"
        for path, data in files.items():
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            (work / path).write_bytes(data)
        manifest = Manifest(
            name=name,
            distribution="debian",
            release="bookworm",
            architecture=architecture,
            kernel=kernel,
            cmdline=tuple(cmdline),
            versions={"kubelet": "1.20.2"},
            packages={"adduser": "3.134"},
            lts_defaults=dict(lts_defaults or {}),
            files={path: FileEntry.of(work / path) for path in files},
            stages={"final": "0" * 64},
            verity=verity,
        )
        (work / MANIFEST_NAME).write_bytes(manifest.to_bytes())
        return opened.publish(name, work, tags=tags)
