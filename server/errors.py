"""The server's error: what happened and where, what to do about it, and its cause as a word."""

from imagebuild.errors import HintedError


class ServerError(HintedError):
    """Raised anywhere in the server."""
