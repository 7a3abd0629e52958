"""What is served: an image in a store, and the same files, linked, in a tree for the peers."""

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagebuild.store.images import Store
from imagebuild.store.manifest import MANIFEST_NAME, FileEntry, Manifest
from server.simulate.profile import DEFAULT, Fetch, load_profile

NAME: Final = "bench"
KERNEL: Final = f"/ltsp/{NAME}/vmlinuz"
MIB: Final = 1024 * 1024


@dataclass(frozen=True)
class Data:
    """store: for our server. tree: for TFTP and HTTP of the others. image: for their NBD."""

    store: Path
    tree: Path
    image: Path

    @property
    def size(self) -> int:
        """Bytes of the image."""
        return self.image.stat().st_size


def make_data(directory: Path, image_mib: int) -> Data:
    """The files, made once: noise, which no server could compress or leave out."""
    store = directory / f"store-{image_mib}"
    opened = Store(store)
    sizes = {
        "rootfs.squashfs": image_mib * MIB,
        "vmlinuz": 40_000_000,
        "initrd.img": 1_000_000,
        "boot/grub/i386-pc/core.0": 200_000,
        **{f"boot/{_below(path)}": size for path, size in _storm_files().items()},
    }
    if not opened.images():
        with opened.writing() as place:
            work = place / "image"
            noise = random.Random(1)
            for path, size in sizes.items():
                (work / path).parent.mkdir(parents=True, exist_ok=True)
                with (work / path).open("wb") as file:
                    while file.tell() < size:
                        file.write(noise.randbytes(min(MIB, size - file.tell())))
            (work / "rootfs.list").write_text("")
            files = {path: FileEntry.of(work / path) for path in [*sizes, "rootfs.list"]}
            manifest = Manifest(
                name=NAME,
                distribution="debian",
                release="bookworm",
                architecture="amd64",
                kernel="6.1.0",
                cmdline=(),
                versions={},
                packages={},
                lts_defaults={},
                files=files,
                stages={"final": "0" * 64},
            )
            (work / MANIFEST_NAME).write_bytes(manifest.to_bytes())
            opened.publish(NAME, work, tags=("current",))
    image = opened.images()[0].path
    tree = directory / f"tree-{image_mib}"
    links = {KERNEL: "vmlinuz"}
    links |= {path: f"boot/{_below(path)}" for path in _storm_files()}
    for path, name in links.items():
        link = tree / path.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            os.link(image / name, link)
    # What our server makes for each node is a fixed file for the others.
    for path in (f"/ltsp/{NAME}/grub/grub.cfg", f"/ltsp/{NAME}/lts.conf"):
        (tree / path.lstrip("/")).write_bytes(b"#" * 1500)
    return Data(store, tree, image / "rootfs.squashfs")


def storm_path(step: Fetch) -> str:
    """Where a file that a recorded boot fetched is served here."""
    name = step.path.rpartition("/")[2]
    if name == "lts.conf":
        return f"/ltsp/{NAME}/lts.conf"
    if name.startswith("grub.cfg"):
        return f"/ltsp/{NAME}/grub/grub.cfg"
    return f"/ltsp/{NAME}/grub/i386-pc/boot-{name}"


def _storm_files() -> dict[str, int]:
    """The files of the recorded boot as they are served here, with their sizes."""
    fetches = [step for step in load_profile(DEFAULT).steps if isinstance(step, Fetch)]
    return {path: step.size for step in fetches if "/i386-pc/" in (path := storm_path(step))}


def _below(path: str) -> str:
    """Of a path of the boot tree: its place below the image's boot/."""
    return path.removeprefix(f"/ltsp/{NAME}/")


def warm(path: Path) -> None:
    """Have a file in the page cache."""
    with path.open("rb", buffering=0) as file:
        while file.read(MIB):
            continue


def chill(path: Path, keep: int) -> None:
    """Have all but the first `keep` bytes of a file out of the page cache.

    Only pages that nobody maps can go: no server may run.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.pread(fd, keep, 0)
        # What was read ahead beyond it goes again.
        os.posix_fadvise(fd, keep, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
