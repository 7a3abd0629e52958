"""The rack's DHCP server: dnsmasq, with a static lease for each node."""

import shutil
from pathlib import Path

from rack.machine import NodeSpec
from rack.namespace import Namespace
from rack.network import BRIDGE, IPV6_PREFIX, SERVER_IP, SUBNET
from rack.process import Process, wait_for
from server.dhcpconfig import DhcpSettings, render

DOMAIN = "example.org"
RANGE = ("10.9.200.0", "10.9.250.254")
"""What machines without a static lease get: the article's range."""


def render_rack_options(directory: Path) -> str:
    """dnsmasq.conf of the rack: where it listens and keeps things, DNS, and RA.

    What machines boot comes from `bootfarm dhcp-config dnsmasq`, in a file of
    its own beside this one.
    """
    lines = [
        f"interface={BRIDGE}",
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


def render_boot_options(image: str) -> str:
    """What machines are told, as `bootfarm dhcp-config dnsmasq` says it."""
    settings = DhcpSettings(
        server=SERVER_IP,
        subnet=SUBNET,
        range=RANGE,
        name=image,
        router=SERVER_IP,
        dns=(SERVER_IP,),
        domain=DOMAIN,
    )
    return render("dnsmasq", settings)


class Dhcp:
    """dnsmasq on the bridge."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self._namespace = namespace
        self._directory = directory
        self._process: Process | None = None

    @property
    def log(self) -> Path:
        return self._directory / "dnsmasq.log"

    @property
    def processes(self) -> tuple[Process, ...]:
        return (self._process,) if self._process else ()

    def start(self, boot_options: str) -> None:
        """Start it with `boot_options`, no leases and no hosts; returns when it listens."""
        shutil.rmtree(self._directory / "hosts", ignore_errors=True)
        (self._directory / "leases").unlink(missing_ok=True)
        (self._directory / "hosts").mkdir(parents=True)
        (self._directory / "boot.conf").write_text(boot_options)
        conf = self._directory / "dnsmasq.conf"
        conf.write_text(render_rack_options(self._directory))
        argv = ["dnsmasq", "--keep-in-foreground", f"--conf-file={conf}", "--log-facility=-"]
        process = self._namespace.start("dnsmasq", argv, self.log)
        self._process = process
        wait_for(
            lambda: "started, version" in self.log.read_text(errors="replace"),
            10,
            "dnsmasq's start",
            processes=(process,),
        )

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None

    def add_host(self, spec: NodeSpec) -> None:
        """Give a node its address and its name; dnsmasq sees the file at once."""
        line = f"{spec.mac},{spec.ip},{spec.name},infinite\n"
        (self._directory / "hosts" / spec.name).write_text(line)
