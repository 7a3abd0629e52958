"""A catalog for workers: picklable, so in a module that they can import."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from server.content import BytesContent, Content, Export, FileContent, NotFound
from server.events import Emit, Event


@dataclass
class FilesCatalog:
    """The files of a directory over TFTP, one export, and a version to tell catalogs apart."""

    root: Path
    version: str = "1"
    fails: bool = False
    _emit: list[Emit] = field(default_factory=list)

    def open(self, emit: Emit) -> None:
        if self.fails:
            raise RuntimeError("a catalog that cannot be opened")
        self._emit.append(emit)

    def lookup(self, path: str, client_ip: str) -> Content:
        if path == "/version":
            self._emit[0](Event(1.0, client_ip, "plan", "menu", {"version": self.version}))
            return BytesContent(self.version.encode())
        file = self.root / path[1:]
        if not file.is_file():
            raise NotFound(f"no {path}")
        return FileContent(file, file.stat().st_size)

    def export(self, name: str, client_ip: str) -> Export | None:
        file = self.root / "image"
        return Export(name, file, file.stat().st_size, "ef" * 32) if name == "image" else None

    def list_exports(self, client_ip: str) -> Sequence[str]:
        return ["image"]

    def is_known(self, client_ip: str) -> bool:
        return False

    def card(self, client_ip: str) -> str:
        return client_ip
