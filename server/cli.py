"""Commands of this half of the house; see COMMANDS."""

import click

from server.commands.dhcp_config import dhcp_config_command
from server.commands.lts import lts
from server.commands.schema import schema_group
from server.commands.serve import serve_command
from server.doctor.cli import doctor
from server.simulate.cli import simulate_command
from server.terminal import cli as terminal
from server.terminal.events import events_command
from server.terminal.notes import note_command
from server.terminal.rollout import rollout

COMMANDS: list[click.Command] = [
    serve_command,
    simulate_command,
    dhcp_config_command,
    lts,
    schema_group,
    doctor,
    *terminal.COMMANDS,
    events_command,
    events_command,
    note_command,
    rollout,
]
