"""The rack's DHCP server: dnsmasq, with a static lease for each node.

It is one of four: the site's server that names our loaders (`loader`), the same that
names GRUB (`grub`), one that gives addresses and nothing else, on a machine of its own
(`addresses`), and none at all (`none`: DNS and router advertisements only).
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from imagebuild.architecture import ARCHITECTURES, DEFAULT
from rack.machine import NodeSpec
from rack.namespace import Namespace
from rack.network import (
    BRIDGE,
    IPV6_PREFIX,
    SERVER_IP,
    SITE_IP,
    SUBNET,
    host_argv,
    plug_in,
)
from rack.process import Process, wait_for
from server.boot.dhcpconfig import DhcpSettings, render

Kind = Literal["loader", "grub", "addresses", "none"]
CABLE = "site"
"""The network device of the site's server, where that is a machine of its own."""
DOMAIN = "example.org"
RANGE = ("10.9.200.0", "10.9.250.254")
"""What machines without a static lease get: the article's range."""


def render_rack_options(directory: Path, interface: str = BRIDGE) -> str:
    """dnsmasq.conf of the rack: where it listens and keeps things, DNS, and RA.

    What machines boot comes from `bootfarm dhcp-config dnsmasq`, in a file of
    its own beside this one.
    """
    lines = [
        f"interface={interface}",
        "bind-interfaces",
        "except-interface=lo",
        "user=root",
        "pid-file=",
        f"dhcp-leasefile={directory / 'leases'}",
        f"dhcp-hostsdir={directory / 'hosts'}",
        "log-dhcp",
        "dhcp-no-override",
        # Names: there is no way out, so what is not known is answered at once.
        "no-resolv",
        "no-hosts",
        f"domain={DOMAIN}",
        "local=/#/",
        # iPXE waits 13 seconds for a router advertisement.
        "enable-ra",
        f"dhcp-range={IPV6_PREFIX},ra-only",
        f"conf-file={directory / 'boot.conf'}",
    ]
    return "\n".join(lines) + "\n"


def render_boot_options(image: str, grub: bool = False) -> str:
    """What machines are told, as `bootfarm dhcp-config dnsmasq` says it: those of another
    architecture boot the image of its name."""
    settings = DhcpSettings(
        server=SERVER_IP,
        subnet=SUBNET,
        range=RANGE,
        name=image,
        others={name: name for name in ARCHITECTURES if name != DEFAULT},
        router=SERVER_IP,
        dns=(SERVER_IP,),
        domain=DOMAIN,
        grub=grub,
    )
    return render("dnsmasq", settings)


def render_addresses(image: str) -> str:
    """The configuration of a site's server that knows nothing of bootfarm."""
    return "\n".join(
        [
            f"dhcp-range={RANGE[0]},{RANGE[1]},{SUBNET.netmask},12h",
            f"dhcp-option=option:router,{SERVER_IP}",
            f"dhcp-option=option:dns-server,{SITE_IP}",
            "",
        ]
    )


RENDER: dict[Kind, Callable[[str], str]] = {
    "loader": render_boot_options,
    "grub": lambda image: render_boot_options(image, grub=True),
    "addresses": render_addresses,
    "none": lambda image: "",
}


class Dhcp:
    """dnsmasq on the bridge, or beside it."""

    def __init__(self, namespace: Namespace, directory: Path, kind: Kind = "loader") -> None:
        self._namespace = namespace
        self._directory = directory
        self._kind = kind
        self._process: Process | None = None

    @property
    def log(self) -> Path:
        """Where dnsmasq logs."""
        return self._directory / "dnsmasq.log"

    @property
    def processes(self) -> tuple[Process, ...]:
        """dnsmasq's process, while it runs."""
        return (self._process,) if self._process else ()

    def start(self, boot_options: str) -> None:
        """Start it with `boot_options`, no leases and no hosts; returns when it listens."""
        for name in ("leases", "pid", "dnsmasq.log"):
            (self._directory / name).unlink(missing_ok=True)
        shutil.rmtree(self._directory / "hosts", ignore_errors=True)
        (self._directory / "hosts").mkdir(parents=True)
        (self._directory / "boot.conf").write_text(boot_options)
        conf = self._directory / "dnsmasq.conf"
        argv = ["dnsmasq", "--keep-in-foreground", f"--conf-file={conf}", "--log-facility=-"]
        if self._kind == "addresses":
            conf.write_text(render_rack_options(self._directory, CABLE))
            self._start_beside(argv)
        else:
            conf.write_text(render_rack_options(self._directory))
            self._process = self._namespace.start("dnsmasq", argv, self.log)
        wait_for(
            lambda: "started, version" in self.log.read_text(errors="replace"),
            10,
            "dnsmasq's start",
            processes=self.processes,
        )

    def _start_beside(self, argv: list[str]) -> None:
        """Start it on a host of its own: our DHCP service wants the same port."""
        pid_file = self._directory / "pid"
        addresses = (f"{SITE_IP}/{SUBNET.prefixlen}", f"{IPV6_PREFIX}2/64")
        argv = host_argv(pid_file, CABLE, addresses, argv)
        self._process = self._namespace.start("dnsmasq", argv, self.log)
        wait_for(pid_file.exists, 10, "the site's server", processes=self.processes, interval=0.05)
        plug_in(self._namespace, pid_file, CABLE)

    def stop(self) -> None:
        """End dnsmasq; nothing when it does not run."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def add_host(self, spec: NodeSpec) -> None:
        """Give a node its address and its name; dnsmasq sees the file at once."""
        line = f"{spec.mac},{spec.ip},{spec.name},infinite\n"
        (self._directory / "hosts" / spec.name).write_text(line)
