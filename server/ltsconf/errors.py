"""The room's one error: a place in an lts.conf, what is wrong there, and what to do."""

from server.errors import ServerError


class LtsConfError(ServerError):
    """A text that cannot be used: where, what, and the remedy.

    `path` is the file as its reader named it, `line` and `column` count from
    1 (a column is a character of the decoded line); 0 where the whole file is
    meant.
    """

    def __init__(
        self, message: str, *, path: str = "", line: int = 0, column: int = 0, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint, cause="template")
        self.path = path
        self.line = line
        self.column = column

    def __str__(self) -> str:
        return self.locate() + self.message

    def locate(self) -> str:
        """`path:line:column: `, as far as it is known."""
        if not self.path:
            return ""
        if not self.line:
            return f"{self.path}: "
        return f"{self.path}:{self.line}:{self.column}: "

    def format_message(self) -> str:
        """Place and message, as click prints them."""
        return self.locate() + super().format_message()
