"""Whether KVM works: found out by booting a guest's kernel under it.

/dev/kvm may be there and yet no Linux guest gets anywhere (nested machines).
"""

import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rack.cache import cache_directory, content_key, locked, run
from rack.machine import KVM, TCG

SAID = "bootfarm-kvm-works"
PATIENCE = 20.0
"""Seconds; a kernel that has its own processor is there in two."""

INIT = f"""#!/bin/busybox sh
/bin/busybox mkdir -p /dev
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox echo {SAID} >/dev/ttyS0
/bin/busybox poweroff -f
"""


def pack_cpio(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """An initramfs (cpio "newc") of path -> (mode with file type, bytes), in order."""
    out = bytearray()
    for number, (name, (mode, data)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))]):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + path
        out += b"\0" * (-len(out) % 4)
        out += data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def probe_argv(kernel: Path, initrd: Path) -> list[str]:
    """QEMU with KVM that boots `kernel` and ends by itself."""
    return [
        *("qemu-system-x86_64", "-machine", "q35,graphics=off", *KVM, "-m", "256"),
        *("-nodefaults", "-display", "none", "-vga", "none", "-serial", "stdio", "-no-reboot"),
        *("-kernel", str(kernel), "-initrd", str(initrd)),
        *("-append", "console=ttyS0 panic=-1 quiet"),
    ]


def works(kernel: Path, busybox: Path, work: Path) -> bool:
    """Whether `kernel`, booted under KVM with an init that says one line, said it."""
    initrd = work / "initrd.img"
    busybox_file = (0o100755, busybox.read_bytes())
    directories = {name: (0o040755, b"") for name in ("bin", "dev")}
    files = {**directories, "bin/busybox": busybox_file, "init": (0o100755, INIT.encode())}
    initrd.write_bytes(pack_cpio(files))
    try:
        done = subprocess.run(
            probe_argv(kernel, initrd),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
        )
    except (subprocess.TimeoutExpired, OSError):
        return False
    return SAID.encode() in done.stdout


def static_busybox() -> Path:
    """Debian's busybox-static, downloaded once and unpacked; RackError without an archive."""
    target = cache_directory() / "kvm" / "busybox"
    with locked(target):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                os.chmod(scratch, 0o755)
                run(["apt-get", "download", "-q", "busybox-static"], cwd=Path(scratch), timeout=300)
                (package,) = Path(scratch).glob("*.deb")
                run(["dpkg", "-x", package, Path(scratch) / "root"])
                (Path(scratch) / "root/bin/busybox").rename(target)
    return target


def find_accelerator(kernel: Path, busybox: Path) -> Sequence[str]:
    """QEMU's options for the fastest accelerator that boots `kernel` here.

    The answer is cached for this host's kernel, this QEMU and this guest kernel.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return TCG
    version = run(["qemu-system-x86_64", "--version"])
    key = content_key(platform.release(), version, kernel)
    answer = cache_directory() / "kvm" / f"{key}.json"
    with locked(answer):
        if not answer.exists():
            found = works(kernel, busybox, answer.parent)
            answer.write_text(json.dumps({"works": found}))
        return KVM if json.loads(answer.read_text())["works"] else TCG
