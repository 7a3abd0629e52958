"""A TFTP client, sans-IO: RFC 1350, 2347, 2348, 2349, 7440; as GRUB and PXE firmware behave."""

from typing import Any, Final

from server.protocols.tftp_wire import pack_error, pack_request, unpack_error
from server.simulate.profile import Fetch

ACKS: Final = tuple(b"\0\4" + number.to_bytes(2, "big") for number in range(65_536))


class TftpClient:
    """One download. Give `receive` each packet; send what it gives. digest: takes the content.

    blksize, windowsize: what was agreed on. `again()` is what to send when
    nothing has come for a while. `done`, or `error` in words, is set at the end;
    `size` counts the content's bytes.
    """

    __slots__ = (
        "_last",
        "_next",
        "_oack",
        "_probe",
        "_seen",
        "blksize",
        "digest",
        "done",
        "error",
        "size",
        "tsize",
        "windowsize",
    )

    def __init__(self, fetch: Fetch, path: str, digest: Any = None) -> None:
        options = {}
        if fetch.tsize or fetch.probe:
            options["tsize"] = "0"
        if fetch.blksize:
            options["blksize"] = str(fetch.blksize)
        if fetch.windowsize:
            options["windowsize"] = str(fetch.windowsize)
        self.blksize = 512
        self.tsize: int | None = None
        self.size = 0
        self.done = False
        self.error = ""
        self.digest = digest
        self._probe = fetch.probe
        self._oack = bool(options)
        self.windowsize = 1
        self._next = 1
        self._seen = 0
        self._last = pack_request(path, options)

    def again(self) -> bytes:
        """The request, or the last acknowledgement, once more."""
        return self._last

    def receive(self, packet: bytes | memoryview) -> bytes | None:
        """Take a packet; what to answer, if anything."""
        if len(packet) < 4 or packet[0] != 0:
            return None
        kind = packet[1]
        if kind == 3:
            return self._take(packet)
        if kind == 6 and self._oack:
            return self._negotiate(bytes(packet))
        if kind == 5:
            code, message = unpack_error(bytes(packet))
            self.error = f"TFTP error {code}: {message}"
        return None

    def _take(self, packet: bytes | memoryview) -> bytes | None:
        block = packet[2] << 8 | packet[3]
        if block != self._next:
            # A gap in a window: the last that came in order is acknowledged (RFC 7440);
            # something old is not answered a second time (RFC 1123, 4.2.3.1).
            ahead = 0 < (block - self._next & 0xFFFF) < 0x8000
            if ahead and self.windowsize > 1 and self._seen >= 0:
                self._seen = -1  # once for each window
                return self._ack()
            return None
        self._oack = False
        length = len(packet) - 4
        self.size += length
        if self.digest is not None:
            self.digest.update(packet[4:])
        self._next = block + 1 & 0xFFFF
        self._seen = max(self._seen, 0) + 1
        if length < self.blksize:
            self.done = True
            if self.tsize is not None and self.size != self.tsize:
                self.error = f"{self.size} bytes came, tsize said {self.tsize}"
            return self._ack()
        if self._seen >= self.windowsize:
            self._seen = 0
            return self._ack()
        return None

    def _ack(self) -> bytes:
        self._last = ACKS[self._next - 1 & 0xFFFF]
        return self._last

    def _negotiate(self, packet: bytes) -> bytes | None:
        fields = packet[2:].split(b"\0")
        try:
            for name, value in zip(fields[::2], fields[1::2], strict=False):
                if name == b"blksize":
                    self.blksize = int(value)
                elif name == b"windowsize":
                    self.windowsize = int(value)
                elif name == b"tsize":
                    self.tsize = int(value)
        except ValueError:
            self.error = "an OACK that cannot be read"
            return None
        if self._probe:
            self.done = True
            return pack_error(8, "the size was all")
        self._last = ACKS[0]
        return self._last
