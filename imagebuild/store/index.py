"""What a server tells other servers of its store: `/ltsp/index.json`, format 1.

docs/two-servers.md has it field by field. What an image consists of is not in it: its manifest
lists the files with sizes and digests, and the index has the manifest's digest.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from imagebuild.errors import BuildError
from imagebuild.store.images import Image, is_tag
from imagebuild.store.manifest import is_digest, is_image_name
from imagebuild.store.moves import Move

FORMAT: Final = 1
PATH: Final = "/ltsp/index.json"
MOST_BYTES: Final = 8 << 20
"""Of an index; a larger one is refused. An image takes some 150 bytes."""
Tag = tuple[str, str]
"""An image's name and a tag."""


class IndexFormatError(BuildError):
    """What a server sent is no index that can be read."""


@dataclass(frozen=True)
class Conflict:
    """A tag that was moved on two servers, neither of which knew of the other's move.

    kept: the newer move, which counts. lost: the other one.
    """

    name: str
    tag: str
    kept: Move
    lost: Move


@dataclass(frozen=True)
class Index:
    """A store as another server sees it.

    server: made up anew at each start of a server, so that a server knows itself. time: of
    its clock, in seconds since the epoch. images: name and digest to bytes. tags: where each
    leads and since when, removed ones included. in_use: digests that its nodes read, or did
    lately. seen: the move of a tag that this
    server last took over from another. ports: of its services http and nbd; one that is not
    served is not there. lts_conf:
    SHA-256 of the lts.conf in force. settings: key of farm.yaml to a digest of its value, of
    those that servers of a farm must have alike. Both are empty where farm.yaml names no
    peers.
    """

    server: str
    time: float
    images: Mapping[tuple[str, str], int] = field(default_factory=dict)
    tags: Mapping[Tag, Move] = field(default_factory=dict)
    in_use: frozenset[str] = frozenset()
    seen: Mapping[Tag, Move] = field(default_factory=dict)
    conflicts: tuple[Conflict, ...] = ()
    ports: Mapping[str, int] = field(default_factory=dict)
    lts_conf: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The document."""
        data = {
            "format": FORMAT,
            "server": self.server,
            "time": round(self.time, 3),
            "images": [
                {"name": name, "digest": digest, "size": size}
                for (name, digest), size in sorted(self.images.items())
            ],
            "tags": _pack_moves(self.tags),
            "seen": _pack_moves(self.seen),
            "in_use": sorted(self.in_use),
            "conflicts": [
                {
                    "name": one.name,
                    "tag": one.tag,
                    "kept": _pack_move(one.kept),
                    "lost": _pack_move(one.lost),
                }
                for one in self.conflicts
            ],
            "ports": dict(self.ports),
            "lts_conf": self.lts_conf,
            "settings": dict(self.settings),
        }
        return (json.dumps(data, sort_keys=True, separators=(",", ":")) + "\n").encode()


def parse_index(data: bytes) -> Index:
    """Read an index. Raises IndexFormatError: it comes over the network, from anybody."""
    try:
        raw = json.loads(data)
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise IndexFormatError(
                f"the index is not of format {FORMAT}",
                hint="servers of one farm want the same version of bootfarm",
            )
        return Index(
            server=_text(raw["server"]),
            time=_time(raw["time"]),
            images={
                (_name(one["name"]), _digest(one["digest"])): _whole(one["size"])
                for one in raw["images"]
            },
            tags=_read_moves(raw["tags"]),
            seen=_read_moves(raw["seen"]),
            in_use=frozenset(_digest(one) for one in raw["in_use"]),
            conflicts=tuple(
                Conflict(
                    _name(one["name"]),
                    _tag(one["tag"]),
                    _read_move(one["kept"]),
                    _read_move(one["lost"]),
                )
                for one in raw["conflicts"]
            ),
            ports={_text(name): _whole(port) for name, port in raw["ports"].items()},
            lts_conf=_text(raw["lts_conf"]),
            settings={_text(key): _text(value) for key, value in raw["settings"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IndexFormatError(
            f"the index cannot be read: {type(error).__name__}: {str(error)[:100]}",
            hint="is that address a bootfarm server's, and of this version?",
        ) from None


def list_images(images: Sequence[Image]) -> dict[tuple[str, str], int]:
    """Images as an index has them."""
    return {(image.name, image.digest): image.size for image in images}


def _pack_move(move: Move) -> dict[str, Any]:
    return {"digest": move.digest, "moved": move.moved}


def _pack_moves(moves: Mapping[Tag, Move]) -> dict[str, dict[str, Any]]:
    packed: dict[str, dict[str, Any]] = {}
    for (name, tag), move in sorted(moves.items()):
        packed.setdefault(name, {})[tag] = _pack_move(move)
    return packed


def _read_moves(raw: Any) -> dict[Tag, Move]:
    return {
        (_name(name), _tag(tag)): _read_move(move)
        for name, tags in raw.items()
        for tag, move in tags.items()
    }


def _read_move(raw: Any) -> Move:
    digest = raw["digest"]
    return Move(_digest(digest) if digest else "", _whole(raw["moved"]))


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 200 or not value.isprintable():
        raise ValueError("expected a short text")
    return value


def _time(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError("expected a number")
    return float(value)


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise ValueError("expected a whole number")
    return value


def _checked(value: Any, fits: bool, what: str) -> str:
    if not fits:
        raise ValueError(f"{str(value)[:80]!r} is no {what}")
    return str(value)


def _name(value: Any) -> str:
    return _checked(value, isinstance(value, str) and is_image_name(value), "image name")


def _digest(value: Any) -> str:
    return _checked(value, isinstance(value, str) and is_digest(value), "digest")


def _tag(value: Any) -> str:
    return _checked(value, isinstance(value, str) and is_tag(value), "tag")
