"""`bootfarm dhcp-config`."""

from pathlib import Path

import click

from imagebuild.options import Renamed, examples
from server.boot.dhcpconfig import (
    KINDS,
    DhcpSettings,
    check_address,
    parse_range,
    parse_subnet,
    render,
)
from server.farm.inventory import Inventory, load_inventory

_FILE = click.Path(path_type=Path)


@click.command(
    "dhcp-config",
    epilog=examples(
        "bootfarm dhcp-config isc --server 10.9.0.1",
        "bootfarm dhcp-config dnsmasq --server 10.9.0.1 --bind --interface br0",
    ),
)
@click.argument("kind", type=click.Choice(KINDS))
@click.option(
    "--server", required=True, metavar="IP", help="The server: its address, as machines reach it."
)
@click.option("--subnet", metavar="NET", help="As 10.9.0.0/16.  [default: the server's /24]")
@click.option("--range", "range_", metavar="FIRST-LAST", help="Addresses for unlisted machines.")
@click.option(
    "--name", default="amd64", show_default=True, help="The image's name: in the boot path."
)
@click.option(
    "names",
    "--name-for",
    metavar="ARCHITECTURE=NAME",
    multiple=True,
    help="A preview: the image for a further architecture, as arm64=web-arm64; may be repeated.",
)
@click.option("--router", metavar="IP", help="Default gateway.")
@click.option(
    "dns",
    "--name-server",
    cls=Renamed,
    older=("--dns",),
    metavar="IP",
    multiple=True,
    help="A name server that machines are told of; may be repeated.",
)
@click.option("--domain", default="example.org", show_default=True, help="Domain name of nodes.")
@click.option("--interface", metavar="NIC", help="The network card: serve on it only.")
@click.option("--bind", is_flag=True, help="dnsmasq: a whole configuration, on that card alone.")
@click.option(
    "--lease-time",
    type=click.IntRange(0, 4_294_967_294),
    default=0,
    metavar="SECONDS",
    help="0: for ever.  [default: 0]",
)
@click.option(
    "--http-port",
    type=click.IntRange(1, 65_535),
    metavar="PORT",
    default=8080,
    show_default=True,
    help="HTTP's port: for iPXE and UEFI HTTP Boot.",
)
@click.option(
    "--loader",
    type=click.Choice(["ipxe", "grub"]),
    default="ipxe",
    show_default=True,
    help="What firmware is given; iPXE, by HTTP, is the faster one.",
)
@click.option(
    "--inventory",
    type=_FILE,
    help="The machines: a YAML list of {mac, ip, hostname}; they get static leases.",
)
def dhcp_config_command(
    kind: str,
    server: str,
    subnet: str | None,
    range_: str | None,
    name: str,
    names: tuple[str, ...],
    router: str | None,
    dns: tuple[str, ...],
    domain: str,
    interface: str | None,
    bind: bool,
    lease_time: int,
    http_port: int,
    loader: str,
    inventory: Path | None,
) -> None:
    """Print what the site's DHCP server needs so that machines boot from this server.

    KIND is the DHCP server: isc (dhcpd), dnsmasq or kea.
    """
    check_address("--server", server)
    network = parse_subnet(subnet or f"{server}/24")
    settings = DhcpSettings(
        server=server,
        subnet=network,
        range=parse_range(range_, network) if range_ else None,
        name=name,
        others=dict(_split(one) for one in names),
        router=router,
        dns=dns,
        domain=domain,
        interface=interface,
        bind=bind,
        lease_time=lease_time,
        http_port=http_port,
        grub=loader == "grub",
        inventory=load_inventory(inventory) if inventory else Inventory(),
    )
    click.echo(render(kind, settings), nl=False)


def _split(text: str) -> tuple[str, str]:
    architecture, _, name = text.partition("=")
    return architecture.strip(), name.strip()
