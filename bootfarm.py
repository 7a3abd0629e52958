"""The front door: one command group; each half of the house adds its own commands."""

import click

import imagebuild.cli
import rack.cli
import server.cli


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bootfarm")
def main() -> None:
    """Build network-boot node images and serve them to bare metal.

    CI runs `bootfarm build`, the datacenter runs `bootfarm serve`, and
    cluster admins try their lts.conf with `bootfarm lts`.
    """


for commands in (imagebuild.cli.COMMANDS, server.cli.COMMANDS, rack.cli.COMMANDS):
    for command in commands:
        main.add_command(command)
