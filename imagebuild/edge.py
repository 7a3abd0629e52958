"""The program's edge: an error from within is printed here, as a line and a hint, no traceback."""

import os
import sys
import traceback
from typing import Any, NoReturn

import click

from imagebuild.errors import give_up_stdout

TRACEBACK = "BOOTFARM_TRACEBACK"
"""The environment variable with which a fault of ours shows where it came from."""


class EdgeGroup(click.Group):
    """A group of commands. It prints the errors that click does not, and exits with 1."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command; see click.Command.main."""
        if not extra.get("standalone_mode", True):
            return super().main(*args, **extra)
        code: object = 0
        try:
            super().main(*args, **extra)
        except SystemExit as end:
            code = end.code
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
