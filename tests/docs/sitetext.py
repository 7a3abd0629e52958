"""The pages as GitHub shows them, said so that Python-Markdown shows them alike (`make docs`).

Pure: text in, text out; docs/site/hook.py is mkdocs' side of it.
"""

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

HOUSE = Path(__file__).parents[2]
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "project/CONTRIBUTING.md",
    "SECURITY.md": "project/SECURITY.md",
    "CHANGELOG.md": "project/CHANGELOG.md",
}
"""Pages of the tree's root, and where the site has them."""
TREE = "tree"
"""Where the site has other files of the tree that a page links to: as text."""

_ITEM = re.compile(r"( *)(?:[-*+]|\d+[.)]) ")
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def slugify(text: str, separator: str = "-") -> str:
    """An anchor as GitHub makes it: `What is in an image?` -> `what-is-in-an-image`."""
    plain = re.sub(r"[^\w\s-]", "", text.strip().lower())
    return re.sub(r"\s", separator, plain)


def spread_blocks(text: str) -> str:
    """Blank lines before lists and tables, and nested lists by four blanks.

    GitHub's Markdown needs neither, Python-Markdown both. Fenced and indented code stays.
    """
    lines: list[str] = []
    fenced = listed = False
    for line in text.split("\n"):
        before = lines[-1].strip() if lines else ""
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            item = _ITEM.match(line)
            if not line.strip():
                pass
            elif item and (listed or len(item[1]) < 4):
                if not listed and before:
                    lines.append("")
                listed = True
                line = " " * (4 * (len(item[1]) // 2)) + line[len(item[1]) :]
            elif line.startswith("|"):
                if before and not before.startswith("|"):
                    lines.append("")
                listed = False
            elif not line.startswith(" "):
                listed = listed and bool(before)
        lines.append(line)
    return "\n".join(lines)


def move_links(text: str, source: str, page: str, linked: Callable[[str], None]) -> str:
    """A page's links to files of the tree, as links of the site.

    source: the page in the tree, `docs/x.md`. page: in the site, `x.md`. linked: called with
    each file or directory of the tree outside of docs/ that is no page.
    """

    def move(found: re.Match[str]) -> str:
        target, hashed, anchor = found[2].partition("#")
        if not target or "://" in target or target.startswith(("/", "mailto:")):
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path.startswith("..") or not (HOUSE / path).exists():
            return found[0]  # mkdocs tells it
        place = find_place(path)
        if place.startswith(f"{TREE}/"):
            linked(path)
        moved = posixpath.relpath(place, posixpath.dirname(page) or ".")
        return f"{found[1]}{moved}{hashed}{anchor}{found[3]}"

    return _LINK.sub(move, text)


def find_place(path: str) -> str:
    """Where the site has a file or directory of the tree."""
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    if path.startswith("docs/") and (HOUSE / path).is_file():
        return path.removeprefix("docs/")
    if (HOUSE / path).is_dir():
        return f"{TREE}/{path}/index.md"
    return f"{TREE}/{path}.txt"


def list_directory(path: str) -> tuple[str, list[str]]:
    """A page that names the files below a directory of the tree, and those files."""
    files = [
        file.relative_to(HOUSE).as_posix()
        for file in sorted((HOUSE / path).rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    ]
    links = [f"- [{name}]({posixpath.relpath(name, path)}.txt)" for name in files]
    return "\n".join([f"# {path}", "", *links, ""]), files


def list_links(text: str) -> Iterator[str]:
    """The targets of a page's links, code left out."""
    plain = re.sub(r"```.*?```|^(?: {4}|\t).*$|`[^`\n]+`", "", text, flags=re.M | re.S)
    for found in _LINK.finditer(plain):
        yield found[2]
