"""Another server's store, read over HTTP: its index, and its images by digest.

A file is fetched by range (RFC 9110, section 14), so that what broke off is gone on with. An
image is published when its manifest has the digest that was asked for, and each file the size
and digest that the manifest says.
"""

import contextlib
import errno
import hashlib
import http.client
import os
import re
import shutil
import socket
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from imagebuild.errors import BuildError
from imagebuild.store.images import Image, Store
from imagebuild.store.incoming import Pace, check_space, open_incoming
from imagebuild.store.index import MOST_BYTES, PATH, Index, parse_index
from imagebuild.store.manifest import MANIFEST_NAME, FileEntry, Manifest, parse_manifest

SECONDS: Final = 10.0
"""So long may another server be silent."""
CHUNK: Final = 65536
_URL: Final = re.compile(r"http://([A-Za-z0-9.-]{1,253})(?::([0-9]{1,5}))?/?")


class PeerError(BuildError):
    """Another server cannot be reached, or does not give what it should."""


class Peer:
    """A server at `http://HOST[:PORT]`. PeerError where it is no such address."""

    def __init__(self, url: str, pace: Pace | None = None, seconds: float = SECONDS) -> None:
        match = _URL.fullmatch(url)
        if match is None or not 0 < int(match[2] or 80) < 65536:
            raise PeerError(
                f"{url[:200]!r} is not the address of a server", hint="as http://10.9.0.2:8080"
            )
        self.host, self.port = match[1], int(match[2] or 80)
        self.url = f"http://{self.host}:{self.port}"
        self._pace = pace or Pace()
        self._seconds = seconds
        self._connection: http.client.HTTPConnection | None = None

    def index(self) -> Index:
        """What it has. Raises PeerError, and IndexFormatError."""
        return parse_index(self._read(PATH, MOST_BYTES))

    def pull(self, store: Store, name: str, digest: str, *, tags: Collection[str] = ()) -> Image:
        """Fetch an image into a store, and give it these tags; one that is there is not fetched.

        Raises PeerError, and StoreError where the store cannot take it. What has come by then
        stays for the next try.
        """
        if store.is_whole(name, digest):
            for tag in tags:
                store.tag(name, digest, tag)
            return store.get(name, digest)
        with open_incoming(store, f"{name}@{digest}") as directory:
            try:
                manifest = self._pull_manifest(directory, name, digest)
                have = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
                check_space(directory, manifest.size - have)
                for path, entry in sorted(manifest.files.items()):
                    self._pull_file(f"/ltsp/{name}/@{digest}/{path}", directory / path, entry)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    shutil.rmtree(directory, ignore_errors=True)
                raise PeerError(
                    f"cannot write {name}@{digest[:12]} to {directory}: {error.strerror or error}",
                    hint="is the disk full? `bootfarm images gc` removes what nobody needs",
                ) from None
            return store.publish(name, directory, tags=tags)

    def close(self) -> None:
        """Close the connection, if there is one; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # Inside

    def _pull_manifest(self, directory: Path, name: str, digest: str) -> Manifest:
        data = self._read(f"/ltsp/{name}/@{digest}/{MANIFEST_NAME}", MOST_BYTES)
        if hashlib.sha256(data).hexdigest() != digest:
            raise self._damaged(f"the manifest of {name}@{digest[:12]}")
        manifest = parse_manifest(data)
        if manifest.name != name:
            raise self._damaged(f"the manifest of {name}@{digest[:12]}, which names another image")
        (directory / MANIFEST_NAME).write_bytes(data)
        return manifest

    def _pull_file(self, path: str, file: Path, entry: FileEntry) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        have = file.stat().st_size
        if have > entry.size:
            os.truncate(file, have := 0)
        if have < entry.size:
            self._append(path, file, have, entry.size)
        if FileEntry.of(file) != entry:
            file.unlink()
            raise self._damaged(path)

    def _append(self, path: str, file: Path, have: int, size: int) -> None:
        with self._asked(path, have) as reply:
            if reply.status == 200 and have:
                os.truncate(file, have := 0)  # it knows no ranges
            elif have and not (reply.getheader("Content-Range") or "").startswith(f"bytes {have}-"):
                raise self._damaged(f"another part of {path} than was asked for")
            with file.open("ab") as stream:
                while data := reply.read1(CHUNK):
                    have += len(data)
                    if have > size:
                        raise self._damaged(f"more of {path} than its size")
                    stream.write(data)
                    self._pace.take(len(data))
        if have < size:
            self.close()
            raise PeerError(
                f"{self.url}{path} broke off at byte {have:,} of {size:,}",
                hint="the next try goes on from there",
            )

    def _read(self, path: str, most: int) -> bytes:
        with self._asked(path) as reply:
            data = reply.read(most + 1)
        if len(data) > most:
            raise PeerError(f"{self.url}{path} has more than {most:,} bytes")
        self._pace.take(len(data))
        return data

    @contextlib.contextmanager
    def _asked(self, path: str, first: int = 0) -> Iterator[http.client.HTTPResponse]:
        """The reply to a GET, from byte `first` on. Raises PeerError for what is no 200 or 206."""
        headers = {"Range": f"bytes={first}-"} if first else {}
        try:
            with self._send(quote(path, safe="/@"), headers) as reply:
                if reply.status not in (200, 206):
                    said = reply.read(200).decode("utf-8", "replace").strip()
                    raise PeerError(
                        f"{self.url}{path}: {reply.status} {escape_line(said)}",
                        hint="the image may have been removed there, or its bootfarm is older",
                    )
                yield reply
        except PeerError:
            self.close()
            raise
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if isinstance(error, OSError) and error.filename is not None:
                raise  # of our own disk
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise PeerError(
                f"{self.url} does not answer: {_tell(error)}",
                hint="is the server up, and is the way to its HTTP port free?",
            ) from None

    def _send(self, path: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """Ask, on the connection that is there; once more where the server had closed that."""
        for again in (self._connection is not None, False):
            if self._connection is None:
                self._connection = http.client.HTTPConnection(
                    self.host, self.port, timeout=self._seconds
                )
            try:
                self._connection.request("GET", path, headers=dict(headers))
                return self._connection.getresponse()
            except (ConnectionError, http.client.RemoteDisconnected):
                self.close()
                if not again:
                    raise
        raise AssertionError("unreachable")

    def _damaged(self, what: str) -> PeerError:
        return PeerError(
            f"{self.url} gave {what}, and it is not what its digest says: not taken",
            hint="its disk may be damaged: `bootfarm images import` the image there again",
        )


def escape_line(text: str) -> str:
    """The first line of what a server said, printable."""
    line = (text.splitlines() or [""])[0][:120]
    return "".join(char if char.isprintable() else "?" for char in line)


def _tell(error: Exception) -> str:
    if isinstance(error, (TimeoutError, socket.timeout)):
        return "it is silent"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
