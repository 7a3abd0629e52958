"""What a path of the boot tree leads to: a file on disk, bytes made for the asker, or a refusal."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileContent:
    """A file to be served as it lies on disk. size: in bytes, when it was looked up.

    stamp: tells its versions apart; "" for one that never changes under its path.
    """

    path: Path
    size: int
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class BytesContent:
    """Bytes made for one client (a rendered menu, a node's lts.conf)."""

    data: bytes

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.data)


Content = FileContent | BytesContent


class NotFound(Exception):  # noqa: N818 - an answer, named as the contract names it
    """Nothing is served at this path. reason: one line, without the path's owner's secrets.

    cause: one word of server.causes; of `Refused`, too.
    """

    def __init__(self, reason: str, cause: str = "not_found") -> None:
        super().__init__(reason)
        self.reason = reason
        self.cause = cause


class Refused(Exception):  # noqa: N818 - likewise
    """Something is there, but not for this client. reason: one line fit for the client."""

    def __init__(self, reason: str, cause: str = "refused") -> None:
        super().__init__(reason)
        self.reason = reason
        self.cause = cause


Lookup = Callable[[str, str], Content]
"""(path, client IP) -> Content; raises NotFound or Refused, and nothing else on any input."""


@dataclass(frozen=True, slots=True)
class Export:
    """A file served over NBD.

    name: as the server knows it. size: in bytes. digest: of the image that it
    belongs to, "" for a file that is none. description: one line for `nbdinfo`.
    """

    name: str
    path: Path
    size: int
    digest: str = ""
    description: str = ""
