"""Commands of this half of the house; see COMMANDS."""

import logging
import sys
from pathlib import Path

import click

from server.app import App, serve
from server.config import (
    DHCP_MODES,
    Config,
    load_config,
    override,
    parse_exports,
    parse_services,
)
from server.dhcpconfig import KINDS, DhcpSettings, parse_range, parse_subnet, render
from server.doctor.cli import doctor
from server.inventory import Inventory, load_inventory
from server.ltsconf.cli import lts
from server.services.workers import default_workers
from server.simulate.cli import simulate_command
from server.terminal import cli as terminal

PROBLEMS = "bootfarm.problems"
"""Under this key of the click context's `meta` a caller leaves what /healthz is to tell."""

_FILE = click.Path(path_type=Path)
_PORT = click.IntRange(0, 65535)


@click.command("serve")
@click.option("--store", type=_FILE, help="The store that `bootfarm build` publishes to.")
@click.option(
    "--lts-conf",
    type=_FILE,
    help="The lts.conf; edits count from the next request on, with --workers over TFTP in 0.1 s.",
)
@click.option("--config", "config_file", type=_FILE, help="farm.yaml; flags override it.")
@click.option("--state", type=_FILE, help="Where timelines and the last good lts.conf are kept.")
@click.option("--services", help="Which to run, as `tftp,http`.  [default: tftp,nbd,http]")
@click.option("--listen", metavar="IP", help="Address to listen on.  [default: 0.0.0.0]")
@click.option("--address", metavar="IP", help="Address that nodes are told.  [default: by route]")
@click.option("--tftp-port", type=_PORT, help="[default: 69]")
@click.option("--nbd-port", type=_PORT, help="[default: 10809]")
@click.option("--http-port", type=_PORT, help="[default: 8080]")
@click.option(
    "--workers",
    type=click.IntRange(0, 256),
    help="Processes for TFTP and NBD; 0: one for all.  [default: by cores]",
)
@click.option(
    "--export",
    "exports",
    metavar="NAME=FILE",
    multiple=True,
    help="A further read-only NBD export: any file; may be repeated.",
)
@click.option(
    "--boot-tree", type=_FILE, help="A folder as the tree of TFTP and HTTP, before the images'."
)
@click.option(
    "--record-boot", type=_FILE, help="Record what boots fetch and read, for `bootfarm simulate`."
)
@click.option(
    "--dhcp",
    type=click.Choice(DHCP_MODES),
    help="Answer DHCP: beside another server (proxy), or alone (full).  [default: off]",
)
@click.option("--dns", metavar="ZONE", help="Answer DNS for the farm's zone.  [default: off]")
@click.option("--dhcp-range", metavar="A-B", help="Addresses that --dhcp full gives.")
@click.option("-v", "--verbose", is_flag=True, help="Log every event, not only errors.")
def serve_command(
    store: Path | None,
    lts_conf: Path | None,
    config_file: Path | None,
    state: Path | None,
    services: str | None,
    listen: str | None,
    address: str | None,
    tftp_port: int | None,
    nbd_port: int | None,
    http_port: int | None,
    workers: int | None,
    exports: tuple[str, ...],
    boot_tree: Path | None,
    record_boot: Path | None,
    dhcp: str | None,
    dhcp_range: str | None,
    dns: str | None,
    verbose: bool,
) -> None:
    """Serve node images and lts.conf over TFTP, NBD and HTTP.

    Every port is bound before it says that it is ready. SIGTERM and Ctrl-C
    end it within five seconds; live nodes wait for the next server.
    """
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    config = override(
        load_config(config_file) if config_file else Config(),
        store=store,
        lts_conf=lts_conf,
        state=state,
        services=parse_services(services) if services is not None else None,
        listen=listen,
        address=address,
        tftp_port=tftp_port,
        nbd_port=nbd_port,
        http_port=http_port,
        workers=workers,
        exports=parse_exports(exports) if exports else None,
        boot_tree=boot_tree,
        record_boot=record_boot,
        dhcp=dhcp,
        dhcp_range=dhcp_range,
        dns=dns,
    )
    if config.workers is None:
        config = override(config, workers=default_workers())
    serve(config, _say_ready, click.get_current_context().meta.get(PROBLEMS, ()))


def _say_ready(app: App) -> None:
    ports = ", ".join(
        f"{name} {'+'.join(str(port) for port in ports)}" for name, ports in app.ports().items()
    )
    count = len(app.sources.store.images)
    served = [f"{count} image{'' if count == 1 else 's'}"]
    if exports := app.config.exports:
        served.append(f"exports {', '.join(exports)}")
    if app.config.boot_tree is not None:
        served.append(f"boot tree {app.config.boot_tree}")
    click.echo(f"bootfarm is ready on {app.config.listen}: {ports}; {', '.join(served)}")
    sys.stdout.flush()


@click.command("dhcp-config")
@click.argument("kind", type=click.Choice(KINDS))
@click.option("--server", required=True, metavar="IP", help="This server, as nodes reach it.")
@click.option("--subnet", metavar="NET", help="As 10.9.0.0/16.  [default: the server's /24]")
@click.option("--range", "range_", metavar="FIRST-LAST", help="Addresses for unlisted machines.")
@click.option("--name", default="amd64", show_default=True, help="Image name in the boot path.")
@click.option("--router", metavar="IP", help="Default gateway.")
@click.option("--dns", metavar="IP", multiple=True, help="Name server; may be repeated.")
@click.option("--domain", default="example.org", show_default=True, help="Domain name of nodes.")
@click.option("--interface", metavar="NIC", help="Serve on this card only.")
@click.option("--bind", is_flag=True, help="dnsmasq: a whole configuration, on that card alone.")
@click.option("--lease-time", default=0, metavar="SECONDS", help="0: for ever.  [default: 0]")
@click.option("--inventory", type=_FILE, help="YAML list of {mac, ip, hostname}: static leases.")
def dhcp_config_command(
    kind: str,
    server: str,
    subnet: str | None,
    range_: str | None,
    name: str,
    router: str | None,
    dns: tuple[str, ...],
    domain: str,
    interface: str | None,
    bind: bool,
    lease_time: int,
    inventory: Path | None,
) -> None:
    """Print what the site's DHCP server needs so that machines boot from this server.

    KIND is the DHCP server: isc (dhcpd), dnsmasq or kea.
    """
    network = parse_subnet(subnet or f"{server}/24")
    settings = DhcpSettings(
        server=server,
        subnet=network,
        range=parse_range(range_, network) if range_ else None,
        name=name,
        router=router,
        dns=dns,
        domain=domain,
        interface=interface,
        bind=bind,
        lease_time=lease_time,
        inventory=load_inventory(inventory) if inventory else Inventory(),
    )
    click.echo(render(kind, settings), nl=False)


COMMANDS: list[click.Command] = [
    serve_command,
    simulate_command,
    dhcp_config_command,
    lts,
    doctor,
    *terminal.COMMANDS,
]
