"""The builder's one error: what happened and where, and what to do about it."""

import click


class BuildError(click.ClickException):
    """An error that the user can act on.

    Raised anywhere in the builder; click prints it at the edge as one line
    (`Error: <message>`) and a second with the remedy, and exits with 1.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def format_message(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message
