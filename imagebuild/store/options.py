"""Options of commands that look at a store: which one, who serves it, which keys count."""

import os
from pathlib import Path

import click

STORE_OPTION = click.option(
    "--store",
    "store_path",
    type=click.Path(path_type=Path, file_okay=False),
    default=lambda: Path(os.environ.get("BOOTFARM_STORE", "store")),
    show_default="$BOOTFARM_STORE, else ./store",
    help="The store: the directory of images.",
)
STATE_OPTION = click.option(
    "--state",
    "states",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    envvar="BOOTFARM_STATE",
    help="The state directory: of a server of this store; may be repeated. [$BOOTFARM_STATE]",
)
NO_SERVER_OPTION = click.option(
    "--no-server", is_flag=True, help="No server serves this store: no node reads it."
)
REQUIRE_OPTION = click.option(
    "--require-signed",
    "signers",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="BOOTFARM_REQUIRE_SIGNED",
    help="The signers: say which images none of these keys signed. [$BOOTFARM_REQUIRE_SIGNED]",
)
REVOKED_OPTION = click.option(
    "--revoked",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="BOOTFARM_REVOKED",
    help="The revoked: the list of `bootfarm keys revoke`. [$BOOTFARM_REVOKED]",
)
