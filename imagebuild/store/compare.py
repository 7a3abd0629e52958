"""What two images differ in: packages, versions, kernel, files, sizes; pure but for reading."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from imagebuild.errors import BuildError
from imagebuild.store.images import Image

LISTING: Final = "rootfs.list"
"""A line for each file of the squashfs (docs/contracts.md, "The store")."""
_FACTS: Final = ("distribution", "release", "architecture", "kernel")


@dataclass(frozen=True)
class Changes:
    """Entries of two mappings by key: changed ones as (old, new)."""

    added: Mapping[str, str] = field(default_factory=dict)
    removed: Mapping[str, str] = field(default_factory=dict)
    changed: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __len__(self) -> int:
        return len(self.added) + len(self.removed) + len(self.changed)

    def to_json(self) -> dict[str, Any]:
        """As `images diff --json` has it."""
        return {
            "added": dict(self.added),
            "removed": dict(self.removed),
            "changed": {key: list(pair) for key, pair in self.changed.items()},
        }


@dataclass(frozen=True)
class Difference:
    """All that differs. facts: kernel, release and the like. sizes: bytes of both images.

    files: paths of the root file system, each with `type mode uid:gid size target`;
    None where an image brings no listing. defaults: names in lts_defaults, values
    aside: they may be secret.
    """

    facts: Changes
    cmdline: tuple[tuple[str, ...], tuple[str, ...]]
    versions: Changes
    packages: Changes
    defaults: tuple[str, ...]
    files: Changes | None
    parts: Changes
    sizes: tuple[int, int]


def compare_images(old: Image, new: Image) -> Difference:
    """Compare two images of a store. Raises BuildError where a listing cannot be read."""
    one, two = old.manifest, new.manifest
    names = sorted({*one.lts_defaults, *two.lts_defaults})
    listings = (read_listing(old), read_listing(new))
    return Difference(
        facts=compare(
            {name: getattr(one, name) for name in _FACTS},
            {name: getattr(two, name) for name in _FACTS},
        ),
        cmdline=(one.cmdline, two.cmdline),
        versions=compare(one.versions, two.versions),
        packages=compare(one.packages, two.packages),
        defaults=tuple(
            name for name in names if one.lts_defaults.get(name) != two.lts_defaults.get(name)
        ),
        files=compare(*listings) if listings[0] is not None and listings[1] is not None else None,  # type: ignore[arg-type]
        parts=compare(
            {path: f"{entry.size} {entry.sha256}" for path, entry in one.files.items()},
            {path: f"{entry.size} {entry.sha256}" for path, entry in two.files.items()},
        ),
        sizes=(old.size, new.size),
    )


def compare(old: Mapping[str, str], new: Mapping[str, str]) -> Changes:
    """What was added, removed and changed, each sorted by key."""
    return Changes(
        added={key: new[key] for key in sorted(new.keys() - old.keys())},
        removed={key: old[key] for key in sorted(old.keys() - new.keys())},
        changed={
            key: (old[key], new[key])
            for key in sorted(old.keys() & new.keys())
            if old[key] != new[key]
        },
    )


def read_listing(image: Image) -> dict[str, str] | None:
    """Path to `type mode uid:gid size[ -> target]` of an image's rootfs.list; None without one."""
    path = image.path / LISTING
    try:
        text = path.read_text(errors="surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BuildError(f"cannot read {path}: {error.strerror}") from None
    return dict(_read_line(line, path) for line in text.splitlines())


def _read_line(line: str, path: Path) -> tuple[str, str]:
    words = line.split(" ", 5)
    if len(words) < 6:
        raise BuildError(
            f"{path}: {line[:80]!r} is no line of a listing",
            hint="the image is damaged: build or import it again",
        )
    mode, uid, gid, kind, size, rest = words
    name, arrow, target = rest.partition(" -> ") if kind == "l" else (rest, "", "")
    return name, f"{kind} {mode} {uid}:{gid} {size}{arrow}{target}"
