"""LtsConf: a parsed configuration that can be asked what a node gets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.ltsconf.errors import LtsConfError
from server.ltsconf.files import make_reader, read_main, read_nothing
from server.ltsconf.grammar import Document, Entry, parse_document
from server.ltsconf.lookup import LIKE, Chain, Index, LikeCycleError, Link, Loser
from server.ltsconf.names import Use
from server.ltsconf.problem import Outcome, Problem
from server.ltsconf.scan import Included, ReadInclude

_MAC = re.compile(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}")


def decode(raw: bytes) -> str:
    """Bytes of an lts.conf as text: UTF-8; other bytes as lone surrogates U+DC80…U+DCFF."""
    return raw.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The bytes that `decode` came from."""
    return text.encode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class NodeId:
    """What names a node in lts.conf. None: not known. A MAC has colons, any case."""

    hostname: str | None = None
    ip: str | None = None
    mac: str | None = None

    def list_identifiers(self) -> list[bytes]:
        """The ids in LTSP 5's order: hostname, IP, MAC (lower case, colons)."""
        mac = self.mac
        if mac is not None and _MAC.fullmatch(mac):
            mac = mac.replace("-", ":").lower()
        return [encode(one) for one in (self.hostname, self.ip, mac) if one is not None]


@dataclass(frozen=True)
class Setting:
    """One line that sets a key for a node: the winner, or one that it overrides.

    `link` says which section it stands in and why that section applies.
    """

    key: str
    value: str
    entry: Entry
    link: Link


class LtsConf:
    """An lts.conf, whole: what follows from it for a node is a pure function.

    Made by `load` or `parse`, which raise LtsConfError on whatever would make
    LTSP 5 silently lose a part of the file, or crash. With `ltsp5`, its
    outcome is reproduced instead: what it loses is lost; only a crash is an
    error. `problems` holds what is worth telling, errors and warnings.
    It is a Conf (interface.py).
    """

    needs_rendering = False
    template = ""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = document.problems
        self._index = Index(document.sections)

    @classmethod
    def load(
        cls, path: Path | str, root: Path | str | None = None, *, ltsp5: bool = False
    ) -> LtsConf:
        """Read a file; its includes are looked up below `root` (default: its directory)."""
        path = Path(path)
        main = read_main(path)
        reader = make_reader(Path(root) if root is not None else path.parent, main)
        return cls.parse_included(main, reader, ltsp5=ltsp5)

    @classmethod
    def parse(
        cls,
        text: bytes,
        read_include: ReadInclude = read_nothing,
        *,
        path: str = "lts.conf",
        ltsp5: bool = False,
    ) -> LtsConf:
        """Parse a text; `path` names it in messages, `read_include` finds its includes."""
        return cls.parse_included(Included("main", path, text), read_include, ltsp5=ltsp5)

    @classmethod
    def parse_included(
        cls, main: Included, read_include: ReadInclude, *, ltsp5: bool = False
    ) -> LtsConf:
        """Parse a file that was read already (files.read_main)."""
        document = parse_document(main, read_include)
        fatal = {Outcome.CRASHES} if ltsp5 else {Outcome.CRASHES, Outcome.STOPS}
        for problem in document.problems:
            if problem.outcome in fatal:
                raise _make_error(problem)
        return cls(document)

    @property
    def size(self) -> int:
        """Bytes of the text and its includes."""
        return sum(len(source.data) for source in self.document.sources)

    @property
    def has_sections(self) -> bool:
        """Whether it can give any node anything."""
        return bool(self.document.sections)

    def render(self, facts: Mapping[str, Any]) -> LtsConf:
        """Itself: the same for every node."""
        return self

    def draft(self, facts: Mapping[str, Any]) -> LtsConf:
        """Itself."""
        return self

    def with_renderer(self, renderer: object) -> LtsConf:
        """Itself: there is nothing to render."""
        return self

    def check(self, renderer: object = None) -> list[Use]:
        """No names: braces are plain text here."""
        return []

    def find_unknown(self, farm: object = None, secrets: object = None) -> list[Problem]:
        """None, for the same reason."""
        return []

    def peek(self, node: NodeId) -> dict[str, str]:
        """What `resolve` gives: it never takes long."""
        return self.resolve(node)

    def locate_settings(self, key: str) -> Iterator[tuple[str, str]]:
        """(path:line, value) of each line that sets a key."""
        for section in self.document.sections:
            for entry in section.entries:
                if entry.key.upper() == encode(key.upper()):
                    source, line, _ = self.document.locate(entry.offset)
                    yield f"{source.path}:{line}", decode(entry.value)

    def list_settings(self) -> Iterator[tuple[str, str]]:
        """(key, value) of each line of each section."""
        for section in self.document.sections:
            for entry in section.entries:
                yield decode(entry.key), decode(entry.value)

    def resolve(self, node: NodeId, defaults: Mapping[str, str] | None = None) -> dict[str, str]:
        """The node's values, in the order in which LTSP 5 prints them.

        `defaults` is the lowest layer; NONE, in any case, removes a key from
        all layers. Keys are upper case (ASCII); bytes that are not UTF-8
        become lone surrogates (see `decode`). Raises LtsConfError when the
        node reaches a LIKE cycle.
        """
        chain = self.build_chain(node)
        values: dict[bytes, bytes] = {}
        for link in reversed(chain.links):
            for entry in link.section.entries:
                values[entry.key.upper()] = entry.value
        resolved = {key.upper(): value for key, value in (defaults or {}).items()}
        for key in self._order_keys(chain):
            name, value = decode(key), values[key]
            if value.upper() == b"NONE":
                resolved.pop(name, None)
            else:
                resolved[name] = decode(value)
        return resolved

    def trace(self, node: NodeId) -> dict[str, list[Setting]]:
        """For each key that the node's sections set: the winner first, then what it overrides.

        NONE is a value like others here. Same order of keys as `resolve`.
        """
        chain = self.build_chain(node)
        traces: dict[bytes, list[Setting]] = {key: [] for key in self._order_keys(chain)}
        for link in chain.links:
            for entry in reversed(link.section.entries):
                key = entry.key.upper()
                if key != LIKE.upper():
                    traces[key].append(Setting(decode(key), decode(entry.value), entry, link))
        return {decode(key): found for key, found in traces.items()}

    def list_losers(self, node: NodeId) -> list[Loser]:
        """The sections that match the node and are not used; raises as `build_chain`."""
        return self._index.find_losers(node.list_identifiers(), self.build_chain(node))

    def build_chain(self, node: NodeId) -> Chain:
        """The sections that apply to a node; raises LtsConfError on a LIKE cycle."""
        try:
            return self._index.build_chain(node.list_identifiers())
        except LikeCycleError as cycle:
            section = cycle.sections[0]
            source, line, column = self.document.locate(section.offset)
            raise LtsConfError(
                f"the sections include each other by LIKE in a cycle: {_shorten(str(cycle))}",
                path=source.path,
                line=line,
                column=column,
                hint="Remove one of these LIKE lines; LTSP 5 crashes on a node that meets them.",
            ) from None

    @staticmethod
    def _order_keys(chain: Chain) -> dict[bytes, None]:
        keys: dict[bytes, None] = {}
        for section in chain.print_order:
            for entry in section.entries:
                keys.setdefault(entry.key.upper())
        keys.pop(LIKE.upper(), None)
        return keys


def _shorten(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:140]} … {text[-140:]}"


def _make_error(problem: Problem) -> LtsConfError:
    return LtsConfError(
        problem.message,
        path=problem.path,
        line=problem.line,
        column=problem.column,
        hint=problem.hint,
    )
