"""The program's edge: an error from within is printed here, as a line and a hint, no traceback."""

import os
import sys
import traceback
from typing import Any, NoReturn, cast

import click

from imagebuild.errors import Interrupted, give_up_stdout

TRACEBACK = "BOOTFARM_TRACEBACK"
"""The environment variable with which a fault of ours shows where it came from."""
_WORDS = "bootfarm.words"


class EdgeGroup(click.Group):
    """A group of commands; what click does not print, this does, and exits with 1. Ctrl-C is told
    with the command that it ended, and exits with 130."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click.Command.parse_args."""
        ctx.meta[_WORDS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """See click.Command.invoke."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted(self._name(ctx)) from None

    def _name(self, ctx: click.Context) -> str:
        """The command that runs, as `bootfarm lts check`."""
        names, command = ["bootfarm"], cast(click.Command, self)
        for word in ctx.meta[_WORDS]:
            if isinstance(command, click.Group) and word in command.commands:
                names.append(word)
                command = command.commands[word]
        return " ".join(names)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command; see click.Command.main."""
        if not extra.get("standalone_mode", True):
            return super().main(*args, **extra)
        code: object = 0
        try:
            super().main(*args, **extra)
        except SystemExit as end:
            code = end.code
        except KeyboardInterrupt:
            early = Interrupted("bootfarm, before it began")
            early.show()
            code = early.exit_code
        except Exception as error:
            _end(error)
        try:
            # Now, not at the interpreter's end, which would say it in its own words.
            if sys.stdout is not None:
                sys.stdout.flush()
        except (OSError, ValueError) as error:
            _end(error)
        sys.exit(code)  # type: ignore[arg-type]


def _end(error: Exception) -> NoReturn:
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    words, hint = _describe(error)
    click.echo(f"Error: {words}\n  hint: {hint}", err=True)
    give_up_stdout()
    raise SystemExit(1) from error


def _describe(error: Exception) -> tuple[str, str]:
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror}", "see that what is read and written is there, with room"
    if isinstance(error, UnicodeEncodeError):
        return (
            f"{ascii(error.object)[:200]} cannot be written as {error.encoding}",
            "give arguments and names as UTF-8",
        )
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return text, f"a fault of bootfarm's; {TRACEBACK}=1 shows where it is: please report it"
