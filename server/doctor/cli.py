"""`bootfarm doctor`."""

import contextlib
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from imagebuild.options import examples, is_data, output_options, render_data
from server.addresses import explain_no_card, explain_no_host, parse_ip, parse_mac
from server.doctor.dhcpclient import make_mac
from server.doctor.dhcpwire import default_seed
from server.doctor.examination import examine
from server.doctor.target import Target
from server.doctor.verdict import (
    CANNOT_LOOK,
    EXIT_CODES,
    Level,
    Verdict,
    as_data,
    render_line,
    render_summary,
    worst,
)
from server.errors import ServerError
from server.farm.config import Config, load_config
from server.quantities import Seconds
from server.services.interfaces import list_addresses

_FILE = click.Path(path_type=Path)
_PORT = click.IntRange(1, 65535)
_COLOURS = {Level.OK: "green", Level.SKIP: "cyan", Level.WARN: "yellow", Level.FAIL: "red"}


class _Doctor(click.Command):
    """Exit codes 1 and 2 are verdicts: what keeps it from looking at all is 3."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.ClickException as error:
            error.show()
            raise click.exceptions.Exit(CANNOT_LOOK) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            error.show()
            raise click.exceptions.Exit(CANNOT_LOOK) from error


@click.command(
    "doctor",
    cls=_Doctor,
    epilog=examples(
        "bootfarm doctor",
        "bootfarm doctor --server 10.9.0.1 --interface eth1 --quiet",
        "bootfarm doctor --config /etc/bootfarm/farm.yaml --full --output json",
    ),
)
@click.option("--server", metavar="IP", help="The server: its address, as machines reach it.")
@click.option(
    "--config", "config_file", type=_FILE, help="The server's farm.yaml: what it runs with."
)
@click.option(
    "--interface", metavar="NIC", help="The network card: ask for DHCP here.  [default: by route]"
)
@click.option(
    "--mac", metavar="MAC", help="The machine's MAC: play this one.  [default: one of its own]"
)
@click.option("--tftp-port", type=_PORT, help="TFTP's port.  [default: 69, or farm.yaml's]")
@click.option("--nbd-port", type=_PORT, help="NBD's port.  [default: 10809, or farm.yaml's]")
@click.option("--http-port", type=_PORT, help="HTTP's port.  [default: 8080, or farm.yaml's]")
@click.option("--store", type=_FILE, help="The store: the server's, where it is on this machine.")
@click.option("--api", metavar="URL", help="API server.  [default: of lts.conf's join line]")
@click.option("--kubeconfig", metavar="FILE", help="Tells when the join token ends.")
@click.option("--full", is_flag=True, help="Read all of every export and image, not samples.")
@click.option(
    "--wait",
    type=Seconds(0.5, 60),
    default=6.0,
    show_default=True,
    metavar="SECONDS",
    help="How long DHCP servers may take.",
)
@click.option("--no-dhcp", is_flag=True, help="Do not ask for DHCP.")
@click.option("-q", "--quiet", is_flag=True, help="Only what is not well, and the summary.")
@output_options()
def doctor(
    server: str | None,
    config_file: Path | None,
    interface: str | None,
    mac: str | None,
    tftp_port: int | None,
    nbd_port: int | None,
    http_port: int | None,
    store: Path | None,
    api: str | None,
    kubeconfig: str | None,
    full: bool,
    wait: float,
    no_dhcp: bool,
    quiet: bool,
    output: str,
) -> None:
    """Play a booting machine against a running site, and say what stands in its way.

    It asks for DHCP as BIOS, UEFI, HTTP boot and iPXE do (it never takes an
    address), fetches the boot tree, reads the exports, and looks at the API
    server that nodes join. Run it as root, on the server's machine or on any
    other on the machines' network. docs/doctor.md explains each verdict.

    Exit code: 0 all well, 1 warnings, 2 failures, 3 it could not look.
    """
    config = load_config(config_file) if config_file else Config()
    address = _find_server(server, config)
    own, nic = _find_way(address, interface)
    if mac is not None and parse_mac(mac) is None:
        raise ServerError(f"--mac {mac!r} is no MAC", hint="write it as 52:54:00:12:34:56")
    if mac is not None and (why := explain_no_card(parse_mac(mac) or "")):
        raise ServerError(f"--mac {mac} {why}", hint="leave --mac out, or give a machine's")
    told = output in ("table", "wide")
    with _progress(quiet=not told) as progress:
        target = Target(
            server=address,
            tftp_port=tftp_port or config.tftp.port,
            nbd_port=nbd_port or config.nbd.port,
            http_port=http_port or config.http.port,
            local=any(entry.address == address for entry in list_addresses()),
            interface="" if no_dhcp else nic,
            own_address=own,
            mac=parse_mac(mac or "") or make_mac(default_seed()),
            services=config.services + (() if config.dhcp == "off" else ("dhcp",)),
            dns=_find_dns(config),
            logs=config.logs.ports if "http" in config.services else {},
            token=_read_token(config),
            store=store or config.store,
            state=config.state,
            api=api or "",
            kubeconfig=kubeconfig or "",
            join=config.join if config_file else None,
            full=full,
            seconds=wait,
            progress=progress,
        )
        spared = {Level.OK, Level.SKIP} if quiet else set()
        verdicts = _tell(target, progress, spared if told else set(Level))
    if is_data(output):
        click.echo(render_data(as_data(verdicts, address, time.time()), output), nl=False)
    elif output == "name":
        for verdict in verdicts:
            if verdict.level not in spared:
                click.echo(verdict.id)
    else:
        click.echo(render_summary(verdicts))
    sys.exit(EXIT_CODES[worst(verdicts)])


def _find_server(server: str | None, config: Config) -> str:
    listen = config.listen if config.listen != "0.0.0.0" else None
    address = server or config.address or listen
    if address is None:
        # As a server that is told no address does: the one of the default route.
        address = _local_address("192.0.2.1") or "127.0.0.1"
    if parse_ip(address) is None:
        raise ServerError(f"--server {address!r} is not an IPv4 address", hint="four numbers")
    if why := explain_no_host(address):
        raise ServerError(f"--server {address} {why}", hint="give the address that machines use")
    return address


def _find_dns(config: Config) -> tuple[str, int] | None:
    zone = config.dns
    return None if zone is None else (f"{zone.server}.{zone.zone}", zone.port)


def _read_token(config: Config) -> str:
    """The API's token, "" when there is none that this user may read."""
    try:
        return config.token_file.read_text().strip() if config.token_file else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _find_way(server: str, interface: str | None) -> tuple[str, str]:
    """This machine's address towards the server, and the interface to ask on ("" for none)."""
    known = list_addresses()
    if interface is not None:
        if interface not in {name for _, name in socket.if_nameindex()}:
            raise ServerError(
                f"--interface {interface!r}: this machine has no such network interface",
                hint="`ip link` lists them",
            )
        own = next((entry.address for entry in known if entry.name == interface), "")
        return own or _local_address(server), interface
    own = _local_address(server)
    name = next((entry.name for entry in known if entry.address == own), "")
    return own, "" if name == "lo" else name


def _local_address(towards: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((towards, 9))
            return str(sock.getsockname()[0])
        except OSError:
            return ""


@contextlib.contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """One line on a terminal's standard error that each step replaces; nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield lambda words: None
        return

    def show(words: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        click.echo(f"\r\x1b[K{words[:width]}", nl=False, err=True)

    try:
        yield show
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)


def _tell(target: Target, progress: Callable[[str], None], hidden: set[Level]) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for verdict in examine(target):
        verdicts.append(verdict)
        if verdict.level not in hidden:
            progress("")
            head, rest = render_line(verdict).split(" ", 1)
            click.echo(f"{click.style(head, fg=_COLOURS[verdict.level], bold=True)} {rest}")
    return verdicts


COMMANDS: list[click.Command] = [doctor]
