"""Commands of the virtual rack; see COMMANDS."""

import time

import click

from rack.kubernetes.build import build
from rack.kubernetes.repository import sources_line
from rack.progress import printed_steps


@click.group()
def rack() -> None:
    """A virtual rack: DHCP, QEMU nodes and a real control plane in a namespace."""


@rack.command()
def packages() -> None:
    """Build Kubernetes from Debian's source into a local apt repository.

    Takes about 8 minutes the first time; later runs use the cache
    ($BOOTFARM_CACHE or ~/.cache/bootfarm). The repository is build/rack/apt,
    container images to preload are build/rack/images/*.tar.
    """
    began = time.monotonic()
    with printed_steps() as progress:
        made = build(progress)
    click.echo(f"packages ready after {time.monotonic() - began:.0f} s: {made.directory}")
    click.echo(f"  {sources_line(made.apt)}")


COMMANDS: list[click.Command] = [rack]
