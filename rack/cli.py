"""Commands of this half of the house; see COMMANDS."""

import click

COMMANDS: list[click.Command] = []
