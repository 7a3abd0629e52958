"""The documentation as a site: all pages, links that lead somewhere, nothing from elsewhere.

What strict mkdocs says of links is heard in CI, too, by the last test; the first ones ask the
pages themselves, in milliseconds.
"""

import posixpath
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from tests.docs.sitetext import (
    HOUSE,
    ROOT_PAGES,
    list_links,
    move_links,
    slugify,
    spread_blocks,
)

PAGES = sorted(path.relative_to(HOUSE).as_posix() for path in (HOUSE / "docs").glob("*.md"))
SOURCES = [*ROOT_PAGES, *PAGES]


def list_anchors(path: str) -> set[str]:
    """A page's anchors, as GitHub makes them: of a heading that comes again -1, -2."""
    text = re.sub(r"```.*?```", "", (HOUSE / path).read_text(), flags=re.S)
    seen: dict[str, int] = {}
    anchors = set()
    for heading in re.findall(r"^#{1,6} +(.*?) *$", text, re.M):
        slug = slugify(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading))
        number = seen[slug] = seen.get(slug, -1) + 1
        anchors.add(f"{slug}-{number}" if number else slug)
    return anchors


def find_dead_links(path: str, text: str) -> list[str]:
    """The links of a page that lead to no file or no heading."""
    dead = []
    for link in list_links(text):
        target, _, anchor = link.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        place = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        place = place if target else path
        whole = (HOUSE / place).exists()
        if whole and anchor and place.endswith(".md"):
            whole = anchor in list_anchors(place)
        if not whole or target.startswith("/"):
            dead.append(link)
    return dead


@pytest.mark.parametrize("path", SOURCES)
def test_every_link_leads_to_a_file_and_a_heading(path: str) -> None:
    assert find_dead_links(path, (HOUSE / path).read_text()) == []


def test_dead_links_are_found() -> None:
    text = "[a](nosuch.md) [b](images.md#nosuch) [c](#nosuch) [d](/docs/images.md) `[e](x.md)`\n"
    good = "[f](images.md#what-is-in-an-image) [g](../k8s/base) [h](https://example.org/x)\n"
    assert find_dead_links("docs/images.md", text + good) == [
        *("nosuch.md", "images.md#nosuch", "#nosuch", "/docs/images.md")
    ]


def test_every_page_stands_once_among_its_readers() -> None:
    config = yaml.safe_load((HOUSE / "mkdocs.yml").read_text())
    readers = [next(iter(part)) for part in config["nav"]]
    assert {"Building images (CI)", "At the rack", "Cluster admins"} <= set(readers)
    named = [place for part in config["nav"] for pages in part.values() for page in pages
             for place in page.values()]  # fmt: skip
    wanted = [*ROOT_PAGES.values(), *(page.removeprefix("docs/") for page in PAGES)]
    assert sorted(named) == sorted(wanted)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("words:\n- one\n- two\nmore", "words:\n\n- one\n- two\nmore"),
        ("- one\n  - below\n- two", "- one\n    - below\n- two"),
        ("1. one\n   - below", "1. one\n    - below"),
        ("words\n| a |\n|---|\n| b |", "words\n\n| a |\n|---|\n| b |"),
        ("- one\n| a |\n|---|", "- one\n\n| a |\n|---|"),
        ("words\n\n    - code\n    | code |", "words\n\n    - code\n    | code |"),
        ("```\nwords\n- code\n| code |\n```", "```\nwords\n- code\n| code |\n```"),
    ],
)
def test_lists_and_tables_are_set_apart(text: str, wanted: str) -> None:
    assert spread_blocks(text) == wanted


@pytest.mark.parametrize(
    ("source", "page", "link", "moved"),
    [
        ("docs/images.md", "images.md", "recipes.md#x", "recipes.md#x"),
        ("docs/images.md", "images.md", "../README.md", "index.md"),
        ("docs/images.md", "images.md", "../Dockerfile", "tree/Dockerfile.txt"),
        ("docs/images.md", "images.md", "../k8s/base", "tree/k8s/base/index.md"),
        ("README.md", "index.md", "docs/images.md#x", "images.md#x"),
        ("README.md", "index.md", "docs/pictures/page.png", "pictures/page.png"),
        ("CONTRIBUTING.md", "project/CONTRIBUTING.md", "docs/ci.md", "../ci.md"),
        ("SECURITY.md", "project/SECURITY.md", "CHANGELOG.md", "CHANGELOG.md"),
        ("docs/images.md", "images.md", "nosuch.md", "nosuch.md"),
        ("docs/images.md", "images.md", "https://example.org/a", "https://example.org/a"),
    ],
)
def test_links_go_where_the_site_has_the_file(
    source: str, page: str, link: str, moved: str
) -> None:
    linked: list[str] = []
    assert move_links(f"[a]({link})", source, page, linked.append) == f"[a]({moved})"
    assert bool(linked) == ("tree/" in moved)


class Assets(HTMLParser):
    """What a browser fetches for a page by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """`href` of a link, `src` of anything."""
        for name, value in attrs:
            if value and (name in ("src", "srcset", "data") or (tag, name) == ("link", "href")):
                self.found.append(value)


def find_foreign(site: Path) -> list[str]:
    """Scripts, styles, fonts and pictures that would come from another host."""
    found = []
    for page in site.rglob("*.html"):
        found += Assets(page.read_text()).found
    for sheet in site.rglob("*.css"):
        text = sheet.read_text()
        found += re.findall(r"url\(\s*[\"']?([^)\"']*)", text)
        found += re.findall(r"@import\s+[\"']([^\"']*)", text)
    assert found
    return [one for one in found if re.match(r"(?!data:)([a-z]+:)?//|[a-z]+:(?!//)(?<!data:)", one)]


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/css">',
        '<img src="http://example.org/x.png">',
    ],
)
def test_what_comes_from_elsewhere_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.html").write_text(f'<img src="data:image/png;base64,AA"><p>{text}')
    assert len(find_foreign(tmp_path)) == 1
    (tmp_path / "a.html").write_text("<img src='x.png'>")
    (tmp_path / "a.css").write_text("a { src: url('https://fonts.example/a.woff') url(b.woff) }")
    assert find_foreign(tmp_path) == ["https://fonts.example/a.woff"]


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_mkdocs_builds_it_strictly_and_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "docs", f"SITE={tmp_path / 'site'}"], cwd=HOUSE, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "site"
    for page in PAGES:
        assert (site / page.removeprefix("docs/")).with_suffix(".html").is_file()
    assert "<table>" in (site / "index.html").read_text()
    assert find_foreign(site) == []
