"""`bootfarm serve`."""

import logging
import sys
from pathlib import Path
from typing import Any

import click

from imagebuild.errors import give_up_stdout
from imagebuild.options import examples
from server.app import App, serve
from server.commands.serve_check import check_serve
from server.dumps import refuse_dumps
from server.errors import ServerError
from server.farm.config import DHCP_MODES, Config
from server.farm.flags import override, parse_exports, parse_services
from server.hangup import ignore_hangup
from server.logline import FORMATS, LEVELS, start_log
from server.services.workers import default_workers
from server.sources.farm import FarmFile
from server.yamlfile import FaultsError

PROBLEMS = "bootfarm.problems"
"""Under this key of the click context's `meta` a caller leaves what /healthz is to tell."""

_FILE = click.Path(path_type=Path)
_PORT = click.IntRange(0, 65535)
_log = logging.getLogger(__name__)


@click.command(
    "serve",
    epilog=examples(
        "bootfarm serve --config /etc/bootfarm/farm.yaml",
        "bootfarm serve --config /etc/bootfarm/farm.yaml --check --no-ports",
        "bootfarm serve --store store --lts-conf lts.conf --state state",
    ),
)
@click.option("--store", type=_FILE, help="The store: where `bootfarm build` publishes.")
@click.option(
    "--lts-conf",
    type=_FILE,
    help="The lts.conf: edits count from the next request on, with --workers over TFTP in 0.1 s.",
)
@click.option(
    "--config", "config_file", type=_FILE, help="The server's farm.yaml: flags override it."
)
@click.option(
    "--state",
    type=_FILE,
    help="The state directory: keeps timelines and the last good lts.conf.",
)
@click.option(
    "--services", help="The services: which to run, as `tftp,http`.  [default: tftp,nbd,http]"
)
@click.option("--listen", metavar="IP", help="Address to listen on.  [default: 0.0.0.0]")
@click.option(
    "--address",
    metavar="IP",
    help="The address by which nodes reach this server.  [default: by route]",
)
@click.option("--tftp-port", type=_PORT, help="TFTP's port.  [default: 69]")
@click.option("--nbd-port", type=_PORT, help="NBD's port.  [default: 10809]")
@click.option("--http-port", type=_PORT, help="HTTP's port.  [default: 8080]")
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
    help="An NBD export: any file, read-only, besides the images; may be repeated.",
)
@click.option(
    "--boot-tree", type=_FILE, help="A folder as the tree of TFTP and HTTP, before the images'."
)
@click.option(
    "--peer",
    "peers",
    metavar="URL",
    multiple=True,
    help="Another server, http://IP:PORT, whose images and tags are followed; may be repeated.",
)
@click.option(
    "--record-boot", type=_FILE, help="Record what boots fetch and read, for `bootfarm simulate`."
)
@click.option(
    "--require-signed",
    type=_FILE,
    help="The signers: serve only images that one of these keys signed.",
)
@click.option(
    "--revoked",
    type=_FILE,
    help="The revoked: keys and images that count nothing, as `bootfarm keys revoke` writes.",
)
@click.option(
    "--dhcp",
    type=click.Choice(DHCP_MODES),
    help="Answer DHCP: beside another server (proxy), or alone (full).  [default: off]",
)
@click.option("--dns", metavar="ZONE", help="Answer DNS for the farm's zone.  [default: off]")
@click.option("--dhcp-range", metavar="A-B", help="Addresses that --dhcp full gives.")
@click.option("-v", "--verbose", is_flag=True, help="Log every event: --log-level debug.")
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="What is logged, from this level on.",
)
@click.option(
    "--log-format",
    type=click.Choice(list(FORMATS)),
    default="text",
    show_default=True,
    help="How: lines with time and zone, JSON objects, or lines with priorities for journald.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Only check: farm.yaml, lts.conf, inventory, store, secrets and ports; tell all faults.",
)
@click.option(
    "--no-ports",
    is_flag=True,
    help="With --check: bind no port, as beside a server that runs.",
)
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
    peers: tuple[str, ...],
    record_boot: Path | None,
    require_signed: Path | None,
    revoked: Path | None,
    dhcp: str | None,
    dhcp_range: str | None,
    dns: str | None,
    verbose: bool,
    log_level: str,
    log_format: str,
    check: bool,
    no_ports: bool,
) -> None:
    """Serve node images and lts.conf over TFTP, NBD and HTTP.

    Every port is bound before it says that it is ready. SIGTERM and Ctrl-C
    end it within five seconds; live nodes wait for the next server.

    --check serves nothing: exit status 0 if it could, 1 if there are faults.
    """
    refuse_dumps()
    start_log(log_format, "debug" if verbose else log_level)
    ignore_hangup()
    flags: dict[str, Any] = {
        "store": store,
        "lts_conf": lts_conf,
        "state": state,
        "services": services,
        "listen": listen,
        "address": address,
        "tftp_port": tftp_port,
        "nbd_port": nbd_port,
        "http_port": http_port,
        "workers": workers,
        "exports": exports,
        "boot_tree": boot_tree,
        "peers": peers or None,
        "record_boot": record_boot,
        "require_signed": require_signed,
        "revoked": revoked,
        "dhcp": dhcp,
        "dhcp_range": dhcp_range,
        "dns": dns,
    }
    if check:
        report = check_serve(config_file, flags, override, ports=not no_ports)
        click.echo(report.render())
        click.get_current_context().exit(1 if report.faults else 0)
    if no_ports:
        raise click.UsageError("--no-ports is for --check")
    flags["services"] = parse_services(services) if services is not None else None
    flags["exports"] = parse_exports(exports) if exports else None

    def adjust(config: Config) -> Config:
        config = override(config, **flags)
        return config if config.workers is not None else override(config, workers=default_workers())

    problems = click.get_current_context().meta.get(PROBLEMS, ())
    plain = log_format == "text"
    try:
        file = FarmFile(config_file, adjust) if config_file else None
        config = file.load() if file is not None else adjust(Config())
        serve(config, _say_ready if plain else _log_ready, problems, file)
    except ServerError as error:
        if plain:
            raise
        for fault in error.faults if isinstance(error, FaultsError) else (error,):
            _log.critical("%s", fault.one_line())
        click.get_current_context().exit(1)


def _say_ready(app: App) -> None:
    """On standard output; a disk that is full there is no reason not to serve."""
    try:
        click.echo(_describe(app))
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError) as error:
        give_up_stdout()
        _log.warning("standard output takes nothing: %s", error)


def _log_ready(app: App) -> None:
    _log.info("%s", _describe(app))


def _describe(app: App) -> str:
    ports = ", ".join(
        f"{name} {'+'.join(str(port) for port in ports)}"
        for name, ports in app.parts.running.ports().items()
    )
    count = len(app.parts.sources.store.images)
    served = [f"{count} image{'' if count == 1 else 's'}"]
    config = app.parts.config
    if exports := config.exports:
        served.append(f"exports {', '.join(exports)}")
    if config.boot_tree is not None:
        served.append(f"boot tree {config.boot_tree}")
    return f"bootfarm is ready on {config.listen}: {ports}; {', '.join(served)}"
