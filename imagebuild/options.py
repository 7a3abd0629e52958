"""What the commands of both halves have alike: --output, examples below --help, older names."""

import functools
import json
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar, cast

import click
import yaml

TABLE: Final = "table"
FORMATS: Final = (TABLE, "wide", "name", "json", "yaml")
"""What --output takes in every command that has it."""
ABOUT: Final = (
    "How: a table for people; wide: whole lines with all there is to say; name: names only;"
    " json, yaml: everything, for scripts."
)
AS_JSON: Final = "As JSON, for scripts."
_F = TypeVar("_F", bound=Callable[..., Any])


JSON_OPTION: Final = click.option("--json", "as_json", is_flag=True, help=AS_JSON)
"""Of a command that has no other format for scripts."""


class Renamed(click.Option):
    """An option that had other names before: they are taken, and not told of.

    older: the names that it had.
    """

    def __init__(self, names: Iterable[str], *, older: Iterable[str], **more: Any) -> None:
        self.older = tuple(older)
        super().__init__([*names, *self.older], **more)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The line of --help, without the older names."""
        told, self.opts = self.opts, [name for name in self.opts if name not in self.older]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = told


def examples(*lines: str) -> str:
    """The end of a command's --help: one to three command lines."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))


def output_options(more: Iterable[str] = (), about: str = "") -> Callable[[_F], _F]:
    """--output (-o) and --json, together as the argument `output`: a word of FORMATS, or of
    `more`, which a command has besides; `about` says what those are."""

    def decorate(command: _F) -> _F:
        @functools.wraps(command)
        def choose(*arguments: Any, output: str | None, as_json: bool, **named: Any) -> Any:
            if as_json and output not in (None, "json"):
                raise click.UsageError(f"--json is --output json, and not --output {output}")
            form = "json" if as_json else output or TABLE
            return command(*arguments, output=form, **named)

        added = JSON_OPTION(choose)
        return cast(
            _F,
            click.option(
                "-o",
                "--output",
                type=click.Choice((*FORMATS, *more)),
                show_default=TABLE,
                help=f"{ABOUT} {about}".strip(),
            )(added),
        )

    return decorate


def is_data(output: str) -> bool:
    """Whether a format is for scripts, and holds everything."""
    return output in ("json", "yaml")


def render_data(data: Any, output: str) -> str:
    """JSON or YAML, with an end of line."""
    if output == "json":
        return json.dumps(data, indent=2) + "\n"
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)
