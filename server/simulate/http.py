"""An HTTP client for one GET, sans-IO (RFC 9112), as busybox wget and iPXE send it."""

from typing import Any, Final

MAX_HEAD: Final = 16_384
"""Bytes of a reply's head."""


class HttpClient:
    """`request` is sent first; `receive` takes what comes, b"" when the server has hung up."""

    def __init__(self, path: str, host: str, digest: Any = None) -> None:
        self.request = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bootfarm-simulate\r\n"
            "Connection: close\r\n\r\n"
        ).encode()
        self.size = 0
        self.done = False
        self.error = ""
        self.digest = digest
        self._head = b""
        self._expected: int | None = None

    def receive(self, data: memoryview) -> None:
        """Take bytes from the server; empty: it has hung up."""
        if not data:
            self._hang_up()
        elif self._expected is None:
            self._read_head(bytes(data))
        else:
            self._take(data)

    def _hang_up(self) -> None:
        if self._expected is None:
            self.error = "the server hung up before it answered"
        elif not self.done:
            self.error = f"the server hung up after {self.size} of {self._expected} bytes"

    def _read_head(self, data: bytes) -> None:
        self._head += data
        head, separator, rest = self._head.partition(b"\r\n\r\n")
        if not separator:
            if len(self._head) > MAX_HEAD:
                self.error = "an answer without an end of its head"
            return
        lines = head.split(b"\r\n")
        words = lines[0].split(b" ", 2)
        if len(words) < 2 or words[1] != b"200":
            self.error = f"HTTP answer {lines[0][:60].decode('latin-1')!r}"
            return
        fields = dict(line.lower().partition(b":")[::2] for line in lines[1:])
        try:
            self._expected = int(fields[b"content-length"])
        except (KeyError, ValueError):
            self.error = "an answer without Content-Length"
            return
        self._take(memoryview(rest))

    def _take(self, data: memoryview) -> None:
        if self.digest is not None:
            self.digest.update(data)
        self.size += len(data)
        assert self._expected is not None
        if self.size >= self._expected:
            self.done = True
            if self.size > self._expected:
                self.error = f"{self.size} bytes came, {self._expected} were announced"
