"""Commands of this half of the house; see COMMANDS."""

import click

import server.ltsconf.cli

COMMANDS: list[click.Command] = [*server.ltsconf.cli.COMMANDS]
