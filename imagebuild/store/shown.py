"""A store's images in words: the table, one image, what two differ in; pure."""

import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from imagebuild.store.compare import Changes, Difference
from imagebuild.store.images import Image

WIDTH: Final = 80
"""Columns, where there is no terminal that says otherwise."""
MOST: Final = 20
"""Lines of one kind that `images diff` shows without --all."""
_INDENT: Final = " " * 4


def render_list(images: Sequence[Image], width: int = WIDTH) -> list[str]:
    """The table: a row an image; what does not fit beside goes below."""
    rows = [("IMAGE", "TAGS", "SIZE", "KERNEL", "VERSIONS"), *map(_row, images)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return [line for row in rows for line in _fit_row(row, widths, width)]


def _row(image: Image) -> tuple[str, ...]:
    return (
        short_name(image),
        ",".join(image.tags) or "-",
        format_size(image.size),
        image.manifest.kernel,
        " ".join(f"{key}={value}" for key, value in sorted(image.manifest.versions.items())),
    )


def render_wide_list(images: Sequence[Image], uses: Sequence[bool | None]) -> list[str]:
    """The table on lines as long as they need: with the whole digest, when each was published,
    and whether nodes read it (uses; None where nobody said)."""
    words = {None: "not asked", True: "yes", False: "no"}
    rows: list[tuple[str, ...]] = [
        ("IMAGE", "TAGS", "SIZE", "KERNEL", "PUBLISHED", "NODES", "VERSIONS")
    ]
    for image, use in zip(images, uses, strict=True):
        row = _row(image)
        name = f"{image.name}@{image.digest}"
        rows.append((name, *row[1:4], format_date(published(image)), words[use], row[4]))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    return [
        "  ".join((*(row[i].ljust(widths[i]) for i in range(6)), row[6])).rstrip() for row in rows
    ]


def _fit_row(row: Sequence[str], widths: Sequence[int], width: int) -> list[str]:
    cells = [cell.ljust(space) for cell, space in zip(row, widths, strict=False)]
    head = "  ".join(cells)
    whole = f"{head}  {row[4]}".rstrip()
    if len(whole) <= width:
        return [whole]
    head = head.rstrip()
    if len(head) <= width:
        return [head, *_wrap(row[4], width)]
    return [row[0], *_wrap("  ".join(row[1:4]), width), *_wrap(row[4], width)]


def describe(image: Image, in_use: bool | None) -> dict[str, Any]:
    """An image as `images list --json` has it.

    in_use: None where no option said which images are read.
    """
    manifest = image.manifest
    return {
        "name": image.name,
        "digest": image.digest,
        "tags": list(image.tags),
        "size": image.size,
        "published": format_date(published(image)),
        "distribution": manifest.distribution,
        "release": manifest.release,
        "architecture": manifest.architecture,
        "kernel": manifest.kernel,
        "versions": dict(manifest.versions),
        "in_use": in_use,
        "path": str(image.path),
    }


def describe_whole(image: Image, in_use: bool | None) -> dict[str, Any]:
    """An image as `images show --json` has it: its manifest, too."""
    manifest = image.manifest
    return {
        **describe(image, in_use),
        "cmdline": list(manifest.cmdline),
        "packages": dict(manifest.packages),
        "lts_defaults": dict(manifest.lts_defaults),
        "files": {path: vars(entry) for path, entry in sorted(manifest.files.items())},
        "stages": dict(manifest.stages),
        "verity": vars(manifest.verity) if manifest.verity else None,
    }


def render_image(
    image: Image,
    in_use: bool | None,
    *,
    signing: Sequence[tuple[str, str]] = (),
    packages: bool = False,
    width: int | None = WIDTH,
) -> list[str]:
    """One image, a fact a line. signing: facts of its signatures. width: None for whole lines,
    and every file."""
    manifest = image.manifest
    nodes = {None: "not asked: --state DIR of the server tells", True: "read it now or did lately"}
    facts = [
        ("image", f"{image.name}@{image.digest[:12]}"),
        ("digest", image.digest),
        ("tags", ", ".join(image.tags) or "none: `images gc` removes it"),
        ("published", f"{format_date(published(image))}"),
        ("nodes", nodes.get(in_use, "none reads it")),
        *signing,
        ("system", f"{manifest.distribution} {manifest.release}, {manifest.architecture}"),
        ("kernel", manifest.kernel),
        ("cmdline", " ".join(manifest.cmdline) or "nothing of its own"),
        *([("verity", f"root hash {manifest.verity.root}")] if manifest.verity else []),
        ("versions", ", ".join(f"{k} {v}" for k, v in sorted(manifest.versions.items())) or "-"),
        # Names only: a value may be a password.
        ("defaults", ", ".join(sorted(manifest.lts_defaults)) or "none"),
        ("packages", f"{len(manifest.packages)}"),
        ("size", format_size(image.size)),
    ]
    lines = [line for name, value in facts for line in _fact(name, value, width)]
    files = sorted(manifest.files.items(), key=lambda item: (-item[1].size, item[0]))
    big = files if width is None else files[:MOST]
    lines += [f"{_INDENT}{format_size(entry.size):>9}  {path}" for path, entry in big]
    if len(files) > len(big):
        rest = sum(entry.size for _, entry in files[len(big) :])
        lines.append(f"{_INDENT}{format_size(rest):>9}  in {len(files) - MOST} smaller files")
    lines += _fact("path", str(image.path), width)
    if packages:
        lines += ["", *(f"{name} {version}" for name, version in sorted(manifest.packages.items()))]
    return lines


def _fact(name: str, value: str, width: int | None) -> list[str]:
    head = f"{name:<10}"
    if width is None:
        return [head + value]
    return textwrap.wrap(
        value,
        width,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )


def render_difference(
    old: Image, new: Image, found: Difference, *, everything: bool = False, width: int | None = None
) -> list[str]:
    """What two images differ in; at most MOST lines of each kind, unless `everything`.

    width: columns of a terminal, where long paths lose their beginning; None: whole lines.
    """
    lines = [_head("-", old), _head("+", new)]
    if old.digest == new.digest:
        return [*lines, "the same image"]
    for name, (one, two) in found.facts.changed.items():
        lines.append(f"{name}: {one} -> {two}")
    if found.cmdline[0] != found.cmdline[1]:
        lines.append("cmdline:")
        for mark, words in zip("-+", found.cmdline, strict=True):
            lines += _wrap(f"{mark} {' '.join(words) or '(nothing)'}", width or WIDTH)
    most = None if everything else MOST
    lines += _render_changes("versions", found.versions, most, width)
    lines += _render_changes("packages", found.packages, most, width)
    if found.defaults:
        lines += _fact("defaults", ", ".join(found.defaults), width or WIDTH)
    if found.files is None:
        lines.append("files: not compared: an image brings no rootfs.list")
    else:
        lines += _render_files(found.files, most, width)
    return [*lines, *_render_sizes(old, new, found)]


def _head(mark: str, image: Image) -> str:
    return f"{mark * 3} {short_name(image)}  {', '.join(image.tags)}".rstrip()


def _render_changes(title: str, found: Changes, most: int | None, width: int | None) -> list[str]:
    if not found:
        return []
    lines = [f"  + {key} {value}" for key, value in found.added.items()]
    lines += [f"  - {key} {value}" for key, value in found.removed.items()]
    lines += [f"  ~ {key} {one} -> {two}" for key, (one, two) in found.changed.items()]
    return [f"{title}: {_count(found)}", *_bound(lines, most, width)]


def _render_files(found: Changes, most: int | None, width: int | None) -> list[str]:
    """The files of the root: added and removed with their size, changed with what differs."""
    if not found:
        return ["files: the same names, sizes, owners and modes"]
    lines = [f"  + {path}{_size_of(entry)}" for path, entry in found.added.items()]
    lines += [f"  - {path}{_size_of(entry)}" for path, entry in found.removed.items()]
    lines += [f"  ~ {path}  {_tell(*pair)}" for path, pair in found.changed.items()]
    return [f"files: {_count(found)}", *_bound(lines, most, width)]


def _size_of(entry: str) -> str:
    words = entry.split(" ")
    return f"  {format_size(int(words[3]))}" if words[0] == "f" and words[3].isdigit() else ""


def _tell(old: str, new: str) -> str:
    """The words for what differs: type, mode, owner, size or target."""
    names = ("type", "mode", "owner", "size", "target")
    pairs = zip(names, old.split(" ", 4), new.split(" ", 4), strict=False)
    return ", ".join(f"{name} {one} -> {two}" for name, one, two in pairs if one != two) or "target"


def _bound(lines: list[str], most: int | None, width: int | None) -> list[str]:
    shown = lines if most is None else lines[:most]
    if width is not None:
        shown = [_shorten(line, width) for line in shown]
    more = len(lines) - len(shown)
    return [*shown, f"  … and {more} more; --all shows them"] if more else shown


def _shorten(line: str, width: int) -> str:
    """A line without its middle, where it is too long: ` + …/end 3 kB`."""
    return line if len(line) <= width else f"{line[:4]}…{line[len(line) - width + 5 :]}"


def _count(found: Changes) -> str:
    counts = ((found.added, "added"), (found.removed, "removed"), (found.changed, "changed"))
    return ", ".join(f"{len(part)} {word}" for part, word in counts if part)


def _render_sizes(old: Image, new: Image, found: Difference) -> list[str]:
    one, two = found.sizes
    sign = "+" if two >= one else "-"
    lines = [
        f"size: {format_size(one)} -> {format_size(two)} ({sign}{format_size(abs(two - one))})"
    ]
    for path in sorted({*found.parts.added, *found.parts.removed, *found.parts.changed}):
        sizes = [_part_size(image, path) for image in (old, new)]
        same = ", the same size" if sizes[0] == sizes[1] else f" -> {sizes[1]}"
        lines.append(f"  ~ {path}  {sizes[0]}{same}")
    return lines[: MOST + 1]


def _part_size(image: Image, path: str) -> str:
    entry = image.manifest.files.get(path)
    return format_size(entry.size) if entry is not None else "none"


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=_INDENT,
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def short_name(image: Image) -> str:
    """`name@` and the first 12 digits."""
    return f"{image.name}@{image.digest[:12]}"


def published(image: Image) -> float:
    """When the image came into this store, seconds since the epoch: nothing in it changes later."""
    try:
        return image.path.stat().st_mtime
    except OSError:
        return 0.0


def format_date(seconds: float) -> str:
    """UTC, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def format_size(size: int) -> str:
    """Bytes for people: `812 kB`, `70.3 MB` (powers of 1000)."""
    if size < 1000:
        return f"{size} B"
    if size < 1_000_000:
        return f"{size / 1000:.0f} kB"
    if size < 1_000_000_000:
        return f"{size / 1e6:.1f} MB"
    return f"{size / 1e9:.2f} GB"


def difference_as_json(found: Difference, old: Image, new: Image) -> Mapping[str, Any]:
    """As `images diff --json` has it."""
    return {
        "old": f"{old.name}@{old.digest}",
        "new": f"{new.name}@{new.digest}",
        "facts": found.facts.to_json()["changed"],
        "cmdline": [list(words) for words in found.cmdline],
        "versions": found.versions.to_json(),
        "packages": found.packages.to_json(),
        "lts_defaults": list(found.defaults),
        "files": found.files.to_json() if found.files is not None else None,
        "image_files": found.parts.to_json(),
        "size": list(found.sizes),
    }
