"""What is remembered of other servers' and registries' tags: `STATE/peers.json`, format 1."""

import json
import logging
from pathlib import Path
from typing import Any, Final

from imagebuild.store.index import Conflict, Tag
from imagebuild.store.moves import Move
from imagebuild.wholefile import write_whole
from server.peers.follow import Memory

FORMAT: Final = 1
FILE: Final = "peers.json"
_log = logging.getLogger(__name__)
Registries = dict[str, tuple[str, str]]
"""A reference to the name and digest of the image that it led to."""


def read_memory(state: Path | None) -> tuple[Memory, Registries]:
    """What was kept; nothing where nothing was, or it cannot be read, which is logged."""
    memory, registries = Memory(), Registries()
    if state is None:
        return memory, registries
    try:
        raw = json.loads((state / FILE).read_bytes())
        if raw["format"] != FORMAT:
            raise ValueError(f"format {raw['format']}")
        for url, moves in raw["agreed"].items():
            memory.agreed[url] = _read_moves(moves)
        memory.seen = _read_moves(raw["seen"])
        for name, tag, kept, lost in raw["conflicts"]:
            memory.conflicts[name, tag] = Conflict(name, tag, Move(*kept), Move(*lost))
        registries = {text: (name, digest) for text, (name, digest) in raw["registries"].items()}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.error("%s cannot be used, and is written anew: %r", state / FILE, error)
        return Memory(), {}
    return memory, registries


def pack_memory(memory: Memory, registries: Registries) -> bytes:
    """The file's bytes."""
    data = {
        "format": FORMAT,
        "agreed": {url: _pack_moves(moves) for url, moves in sorted(memory.agreed.items())},
        "seen": _pack_moves(memory.seen),
        "conflicts": [
            [*tag, [one.kept.digest, one.kept.moved], [one.lost.digest, one.lost.moved]]
            for tag, one in sorted(memory.conflicts.items())
        ],
        "registries": {text: list(found) for text, found in sorted(registries.items())},
    }
    return json.dumps(data, indent=1).encode() + b"\n"


def write_memory(state: Path, data: bytes) -> None:
    """Keep it. Raises OSError."""
    write_whole(state / FILE, data)


def _pack_moves(moves: dict[Tag, Move]) -> list[list[Any]]:
    return [[*tag, move.digest, move.moved] for tag, move in sorted(moves.items())]


def _read_moves(raw: list[list[Any]]) -> dict[Tag, Move]:
    return {(name, tag): Move(str(digest), int(moved)) for name, tag, digest, moved in raw}
