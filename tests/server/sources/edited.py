"""An lts.conf that somebody edits, for the tests beside this file."""

from pathlib import Path
from typing import Any

from server.ltsconf import Conf, NodeId, make_facts
from server.sources.ltsconf import LtsConfSource
from tests.kubelet import Mount

TEMPLATE = b"# jinja2\n[default]\nA = {{ node.hostname }}\nT = {{ secrets.token }}\n"


class Farm:
    """An lts.conf in a directory, as an editor or as kubelet changes it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.mount = base / "config"
        self.kubelet = Mount(self.mount)
        self.path = self.mount / "lts.conf"
        self.state = base / "state"
        self.state.mkdir()
        self.generation = 0
        self.wall = 2_000_000_000.0
        self.refused: list[str] = []

    def rename_in(self, text: bytes) -> None:
        beside = self.base / "beside"
        beside.write_bytes(text)
        beside.rename(self.path)

    def swap(self, files: dict[str, bytes]) -> None:
        """A new generation of a ConfigMap, in the order in which kubelet does it."""
        self.generation += 1
        self.kubelet.swap(files)

    def source(self) -> LtsConfSource:
        return LtsConfSource(
            self.path, self.state, wall=lambda: self.wall, refused=self.refused.append
        )


def values(source: LtsConfSource) -> dict[str, str]:
    return resolve(source.current)


def resolve(conf: Conf, **facts: Any) -> dict[str, str]:
    node = NodeId(hostname="pc1")
    return conf.render(make_facts(node, **facts)).resolve(node)
