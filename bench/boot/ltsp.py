"""LTSP 23 as Debian has it, set up in its documented way, in a tree of its own.

https://ltsp.org/docs/installation: `ltsp image`, `ltsp ipxe`, `ltsp initrd`, dnsmasq with
LTSP's own configuration, the image on NFS. Nothing is installed on the host: server and
node are trees that mmdebstrap made, and the server's commands run in the first by chroot.

Where it differs from the documentation, and why:
- nfs-ganesha instead of the kernel's NFS server, which needs a module that machines like
  the bench's have not;
- dnsmasq gives the addresses itself (`dhcp-range`) and knows the rack's subnet;
- MENU_TIMEOUT=-1: LTSP's menu would wait five seconds for a key, ours waits for none.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.place import BenchError
from imagebuild.wholefile import write_whole
from rack.cache import run
from rack.dhcp import RANGE
from rack.namespace import Namespace
from rack.network import BRIDGE, SERVER_IP, SUBNET
from rack.process import Process, wait_for

IMAGE: Final = "x86_64"
"""The name that LTSP's iPXE script gives an amd64 machine."""
RELEASE: Final = "bookworm"
SERVER_PACKAGES: Final = (
    *("ltsp", "ipxe", "dnsmasq", "squashfs-tools", "cpio", "kmod", "zstd"),
    *("nfs-ganesha", "nfs-ganesha-vfs", "rpcbind"),
)
CONF: Final = f"""\
[server]
MENU_TIMEOUT="-1"
DEFAULT_IMAGE="{IMAGE}"
KERNEL_PARAMETERS="console=ttyS0,115200"
"""
GANESHA: Final = """\
NFS_CORE_PARAM { Protocols = 3; }
EXPORT {
  Export_Id = 1; Path = /srv/ltsp; Pseudo = /srv/ltsp;
  Access_Type = RO; Squash = No_Root_Squash; SecType = sys;
  FSAL { Name = VFS; }
}
"""


def make_trees(work: Path, packages: Sequence[str]) -> Path:
    """The server's tree below `work`, with the node's image in it; made where it is missing.

    packages: what the node has beside LTSP. Minutes, and some 1.5 GB.
    """
    tree = work / "ltsp"
    if (tree / "ready").exists():
        return tree
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    _bootstrap(tree / "server", SERVER_PACKAGES)
    node = tree / "server" / "srv" / "ltsp" / IMAGE
    node.parent.mkdir(parents=True)
    _bootstrap(node, (*packages, "ltsp"))
    write_whole(tree / "server" / "etc" / "ltsp" / "ltsp.conf", CONF.encode(), mode=0o660)
    _tell_of_loop(tree / "server")
    for command in (("image", IMAGE), ("ipxe", "--binaries"), ("initrd",)):
        _ltsp(tree / "server", command)
    shutil.rmtree(node)
    (tree / "ready").touch()
    return tree


def _bootstrap(root: Path, packages: Sequence[str]) -> None:
    include = "--include=" + ",".join(packages)
    run(["mmdebstrap", "--variant=minbase", include, RELEASE, root], timeout=1800)


def _tell_of_loop(server: Path) -> None:
    """The tree knows no module of the host's kernel, and LTSP asks for `loop`: it is built in."""
    if not Path("/sys/module/loop").exists():
        raise BenchError("this machine's kernel has no loop devices, and `ltsp kernel` wants one")
    modules = server / "lib" / "modules" / os.uname().release
    modules.mkdir(parents=True, exist_ok=True)
    (modules / "modules.builtin").write_text("kernel/drivers/block/loop.ko\n")
    (modules / "modules.order").touch()
    run(["chroot", server, "depmod"])


def _ltsp(server: Path, words: Sequence[str]) -> None:
    """One `ltsp` command in the server's tree, in a mount namespace of its own.

    Not as process 1, by which LTSP tells that it runs on a client.
    """
    script = (
        'mount --bind "$1" "$1" && cd "$1" && mount -t proc proc proc &&'
        " mount --rbind /dev dev && mount -t tmpfs tmpfs run && root=$1 && shift &&"
        ' exec chroot "$root" ltsp "$@"'
    )
    run(
        ["unshare", "--mount", "sh", "-c", script, "ltsp", server, *words],
        timeout=1800,
    )


class LtspServer:
    """dnsmasq, rpcbind and nfs-ganesha in the rack's namespace, out of the tree."""

    def __init__(self, namespace: Namespace, tree: Path, directory: Path) -> None:
        self._namespace = namespace
        self._root = tree / "server"
        self._directory = directory
        self.processes: list[Process] = []
        directory.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start all three; returns when NFS answers. Raises RackError or BenchError."""
        for kind, target in (("proc", "proc"), ("tmpfs", "run")):
            self._namespace.run(["mount", "-t", kind, kind, self._root / target])
        self._namespace.run(["mount", "--rbind", "/dev", self._root / "dev"])
        # nfs-ganesha exports what is a mount point, on a file system that knows file handles.
        images = self._root / "srv" / "ltsp"
        script = (
            'mkdir -p "$1.ram" && mount -t tmpfs -o mode=0755 tmpfs "$1.ram" &&'
            ' cp -a "$1/images" "$1.ram/" && mount --bind "$1.ram" "$1"'
        )
        self._namespace.run(["sh", "-c", script, "images", images])
        paths = ("run/ganesha", "run/rpcbind", "var/lib/nfs/ganesha", "var/log/ganesha")
        self._namespace.run(["mkdir", "-p", *(self._root / path for path in paths)])
        (self._root / "etc" / "bench-ganesha.conf").write_text(GANESHA)
        (self._root / "etc" / "bench-dnsmasq.conf").write_text(self._dnsmasq())
        self._start("rpcbind", ["rpcbind", "-f", "-w"])
        self._start("ganesha", [
            *("ganesha.nfsd", "-F", "-L", "/dev/stdout", "-f", "/etc/bench-ganesha.conf"),
            *("-p", "/run/ganesha/pid", "-N", "NIV_EVENT"),
        ])  # fmt: skip
        self._start("dnsmasq", [
            *("dnsmasq", "--keep-in-foreground", "--log-facility=-"),
            "--conf-file=/etc/bench-dnsmasq.conf",
        ])  # fmt: skip
        wait_for(
            self._exports, 90, "nfs-ganesha's export", processes=tuple(self.processes), interval=0.5
        )

    def _start(self, name: str, argv: Sequence[str]) -> None:
        log = self._directory / f"{name}.log"
        argv = ["chroot", str(self._root), *argv]
        self.processes.append(self._namespace.start(name, argv, log))

    def _exports(self) -> bool:
        argv = ["chroot", str(self._root), "rpcinfo", "-t", "127.0.0.1", "mountd", "3"]
        return "ready" in self._namespace.run(argv, check=False)

    def _dnsmasq(self) -> str:
        """LTSP's own file, with the rack's addresses in the place of the example's."""
        template = self._root / "usr/share/ltsp/server/dnsmasq/ltsp-dnsmasq.conf"
        lines = []
        for line in template.read_text().splitlines():
            if line.startswith("dhcp-range=set:proxy"):
                continue
            if line.startswith("dhcp-range="):
                line = f"dhcp-range={RANGE[0]},{RANGE[1]},{SUBNET.netmask},12h"
            if line.startswith("dhcp-option=option:dns-server"):
                line = f"dhcp-option=option:dns-server,{SERVER_IP}"
            lines.append(line)
        if not any(line.startswith("dhcp-range=") for line in lines):
            raise BenchError(f"{template} has no dhcp-range: another LTSP than 23.02?")
        lines += [f"interface={BRIDGE}", "bind-interfaces", "except-interface=lo", "user=root"]
        lines += [f"dhcp-option=option:router,{SERVER_IP}", "pid-file=", "dhcp-authoritative"]
        return "\n".join(lines) + "\n"
