"""The front door: one command group; each half of the house adds its own commands."""

import sys

try:
    import click

    import imagebuild.cli
    import rack.cli
    import server.cli
    from imagebuild.edge import EdgeGroup
    from imagebuild.options import examples
    from imagebuild.recipe.read import LTS_CHECKS
    from server.commands.schema import schema_group
    from server.fastpath import COMPILED, NOT_COMPILED
    from server.ltsconf.lint_values import check_default
except KeyboardInterrupt:
    # They take the better part of a second, in which people change their mind.
    print("Interrupted: bootfarm, before it began", file=sys.stderr)
    raise SystemExit(130) from None


@click.group(
    cls=EdgeGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "bootfarm build recipes/production.yaml --store store",
        "bootfarm serve --store store --lts-conf lts.conf --state state",
        "bootfarm nodes --watch",
    ),
)
@click.version_option(
    package_name="bootfarm",
    message="%(prog)s, version %(version)s" + ("" if COMPILED else f"\n{NOT_COMPILED}"),
)
def main() -> None:
    """Build network-boot node images and serve them to bare metal.

    CI runs `bootfarm build`, the datacenter runs `bootfarm serve`, and
    cluster admins try their lts.conf with `bootfarm lts`.
    """


LTS_CHECKS.append(check_default)
schema_group.add_command(imagebuild.cli.recipe_schema)

for commands in (imagebuild.cli.COMMANDS, server.cli.COMMANDS, rack.cli.COMMANDS):
    for command in commands:
        main.add_command(command)
