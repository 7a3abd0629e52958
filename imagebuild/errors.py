"""The one error that a user can act on: what happened and where, and what to do about it."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import IO, Any

import click

LONGEST = 2000
"""Characters of a message that are shown."""


_RAW_BYTES = "".join(map(chr, range(0xDC80, 0xDD00)))
"""What bytes that are not UTF-8 are decoded to (surrogateescape)."""


def escape(text: str, keep: str = "") -> str:
    """`text` with each character that is not printable written out, as `\\n` or `\\x1b`.

    keep: characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else repr(char)[1:-1] for char in text
    )


def show_plain(text: str) -> str:
    """Text of several lines for a terminal: line ends, tabs and bytes that are not UTF-8 stay."""
    return escape(text, "\n\t" + _RAW_BYTES)


class HintedError(click.ClickException):
    """An error that a user can act on.

    Raised anywhere; click prints it at the edge as one line (`Error: <message>`) and a second
    with the remedy, and exits with 1. Each half of the house, and the rack, raises a kind of
    its own. cause: one word of server.causes, where code goes by it.
    """

    def __init__(self, message: str, *, hint: str = "", cause: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.cause = cause

    def one_line(self) -> str:
        """Message and remedy on one line, for a log, an event or a page."""
        return f"{self}; {self.hint}" if self.hint else str(self)

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it as click does, without characters that a terminal obeys."""
        click.echo(f"Error: {show_plain(self.format_message())}", file=file, err=file is None)

    def format_message(self) -> str:
        """Message and remedy, as click prints them."""
        message = self.message
        if len(message) > LONGEST:
            # A path or a value of thousands of characters helps nobody.
            message = f"{message[: LONGEST // 2]} … {message[-LONGEST // 4 :]}"
        return f"{message}\n  hint: {self.hint}" if self.hint else message


class BuildError(HintedError):
    """An error of the builder."""


class Interrupted(HintedError):  # noqa: N818 - an end that was asked for
    """Ctrl-C, or another signal that asks for the end: one line of what was ended and what is
    left of it, and the exit code that shells have for it (128 and the signal's number)."""

    def __init__(self, message: str, *, hint: str = "", number: int = signal.SIGINT) -> None:
        super().__init__(message, hint=hint)
        self.number = number

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        return 128 + self.number

    def show(self, file: IO[Any] | None = None) -> None:
        """A line of its own, behind the terminal's `^C`."""
        if file is None and sys.stderr is not None and sys.stderr.isatty():
            click.echo(err=True)
        words = " ".join(show_plain(self.one_line()).split())
        click.echo(f"Interrupted: {words}", file=file, err=file is None)


@contextlib.contextmanager
def interruptible(message: str, hint: str = "") -> Iterator[None]:
    """Ctrl-C within is told so. What has to be tidied up is so before this line is printed."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(message, hint=hint) from None


def give_up_stdout() -> None:
    """Send what waits in standard output's buffer, and all that follows, nowhere.

    A full disk takes it neither now nor at the interpreter's end.
    """
    if sys.stdout is not None:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def render_check(faults: Sequence[str], warnings: Sequence[str], checked: Sequence[str]) -> str:
    """What a `--check` says to people: every fault, every warning, and the counts at the end."""
    lines = [*faults, *(f"warning: {warning}" for warning in warnings)]
    found = count_words(len(faults), "fault") if faults else "no faults"
    if warnings:
        found += f", {count_words(len(warnings), 'warning')}"
    return "\n".join([*lines, f"checked: {', '.join(checked) or 'nothing'}: {found}"])


def count_words(number: int, word: str) -> str:
    """`1 error`, `2 errors`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"
