"""The lease file: one line of JSON a change, rewritten when it has grown."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final, TextIO

from imagebuild.wholefile import write_whole
from server.errors import ServerError
from server.protocols.dhcp_leases import Lease, LeaseTable, dump_lease

SLACK: Final = 1000
"""Lines beyond twice the number of leases after which the file is rewritten."""


class LeaseFile:
    """Appends each lease as it is bound, before the machine gets its answer.

    A line is handed to the kernel at once, and not synced to the disk: leases
    outlive a crash of the server. What a power cut of the server loses, the
    machines' own DHCPREQUESTs bring back. path None: nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: TextIO | None = None
        self._lines = 0

    def load(self, table: LeaseTable) -> int:
        """Fill the table and start a fresh file; the number of lines that were unreadable."""
        if self._path is None:
            return 0
        try:
            lines = self._path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            lines = []
        except OSError as error:
            raise self._explain(error) from error
        bad = table.restore(lines)
        self._rewrite(table)
        return bad

    def record(self, lease: Lease, table: LeaseTable) -> None:
        """Append one lease. Raises ServerError when the disk does not take it."""
        if self._path is None:
            return
        if self._file is None or self._lines > 2 * len(table) + SLACK:
            self._rewrite(table)
        self._write([lease])

    def close(self) -> None:
        """Close the file; leases are written already."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _rewrite(self, table: LeaseTable) -> None:
        assert self._path is not None
        self.close()
        lines = [dump_lease(lease) + "\n" for lease in table if lease.state != "offered"]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, "".join(lines).encode(), durable=True)
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - kept open
            self._lines = len(lines)
        except OSError as error:
            raise self._explain(error) from error

    def _write(self, leases: Iterable[Lease]) -> None:
        assert self._file is not None
        try:
            for lease in leases:
                self._file.write(dump_lease(lease) + "\n")
                self._lines += 1
            self._file.flush()
        except OSError as error:
            raise self._explain(error) from error

    def _explain(self, error: OSError) -> ServerError:
        return ServerError(
            f"dhcp: cannot write the lease file {self._path}: {error.strerror}",
            hint="free space there, or give another directory with --state",
        )
