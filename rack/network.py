"""The rack's network: a bridge, the servers' addresses and a tap for each NIC."""

import ipaddress
from collections.abc import Sequence
from pathlib import Path

from rack.namespace import Namespace

BRIDGE = "rack0"
SUBNET = ipaddress.IPv4Network("10.9.0.0/16")
SERVER_IP = "10.9.0.1"
"""DHCP, DNS, TFTP, NBD and HTTP."""
SITE_IP = "10.9.0.2"
"""The site's own DHCP and DNS server, where it is another machine than SERVER_IP."""
SECOND_IP = "10.9.0.3"
"""Another bootfarm server, on a machine of its own."""
NETCONSOLE_IP = "10.9.0.15"
API_IP = "10.9.0.20"
"""The API server of the control plane."""
ADDRESSES = (SERVER_IP, NETCONSOLE_IP, API_IP)
IPV6_PREFIX = "fd09:9::"
FIRST_NODE = ipaddress.IPv4Address("10.9.100.1")
"""Nodes get this address and those after it, in the order they are added."""


def set_up_network(namespace: Namespace) -> None:
    """Make the bridge with the servers' addresses. No way leads out of it."""
    commands = [
        "link set lo up",
        f"link add {BRIDGE} type bridge forward_delay 0 mcast_snooping 0",
        *(f"address add {ip}/{SUBNET.prefixlen} dev {BRIDGE}" for ip in ADDRESSES),
        f"address add {IPV6_PREFIX}1/64 dev {BRIDGE} nodad",
        f"link set {BRIDGE} up",
    ]
    namespace.run(["ip", "-batch", "-"], stdin="\n".join(commands) + "\n")


def add_tap(namespace: Namespace, name: str) -> None:
    """Make a tap on the bridge."""
    commands = [
        f"tuntap add dev {name} mode tap",
        f"link set {name} master {BRIDGE}",
        f"link set {name} up",
    ]
    namespace.run(["ip", "-batch", "-"], stdin="\n".join(commands) + "\n")


# A host of its own: it waits for its cable, takes its addresses, and becomes "$@".
HOST = """
pid=$1 cable=$2; shift 2
echo $$ >"$pid.new" && mv "$pid.new" "$pid"
until ip link show "$cable" >/dev/null 2>&1; do sleep 0.05; done
while [ "$1" != -- ]; do ip address add "$1" dev "$cable"; shift; done; shift
ip link set lo up && ip link set "$cable" up && exec "$@"
"""


def host_argv(
    pid_file: Path, cable: str, addresses: Sequence[str], argv: Sequence[str]
) -> list[str]:
    """`argv` as a program on a host of its own, for `Namespace.start`; `plug_in` comes next.

    cable: its network device. addresses: with their prefix lengths.
    """
    script = ("unshare", "--net", "sh", "-c", HOST, "host", str(pid_file), cable)
    return [*script, *addresses, "--", *argv]


def plug_in(namespace: Namespace, pid_file: Path, cable: str) -> None:
    """Connect a host that `host_argv` made to the bridge; it has written its pid."""
    pid = pid_file.read_text().strip()
    commands = [
        f"link add {cable}-rack type veth peer name {cable} netns {pid}",
        f"link set {cable}-rack master {BRIDGE}",
        f"link set {cable}-rack up",
    ]
    namespace.run(["ip", "-batch", "-"], stdin="\n".join(commands) + "\n")


def node_address(index: int) -> str:
    """The IPv4 address of the rack's node number `index` (from 0)."""
    return str(FIRST_NODE + index)
