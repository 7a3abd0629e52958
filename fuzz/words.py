"""A fuzzer's bytes, read as small decisions."""


class Words:
    """Takes numbers and strings from the front of `data`; zeroes and b"" once it is used up."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def __bool__(self) -> bool:
        return self.position < len(self.data)

    def number(self, size: int = 1) -> int:
        """A number of `size` bytes, big-endian."""
        return int.from_bytes(self.take(size), "big")

    def take(self, size: int) -> bytes:
        """The next `size` bytes; fewer at the end of the data."""
        found = self.data[self.position : self.position + size]
        self.position += size
        return found

    def rest(self) -> bytes:
        """All bytes that are left."""
        return self.take(len(self.data))
