"""mkdocs' side of `make docs`: pages of the tree's root, links out of docs/, lists and tables.

What it does to a text stands in tests/docs/sitetext.py.
"""

from typing import Any

from mkdocs.structure.files import File, Files

from tests.docs.sitetext import (
    HOUSE,
    ROOT_PAGES,
    find_place,
    list_directory,
    move_links,
    slugify,
    spread_blocks,
)

_texts: dict[str, str] = {}
"""The pages as the site has them, by their place there."""


def on_config(config: Any) -> Any:
    """Anchors as GitHub makes them."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify
    return config


def on_files(files: Files, config: Any) -> Files:
    """The root's pages, and what any page links to, become files of the site."""
    linked: set[str] = set()
    sources = {page.src_uri: f"docs/{page.src_uri}" for page in files.documentation_pages()}
    sources |= {place: name for name, place in ROOT_PAGES.items()}
    for place, source in sources.items():
        text = (HOUSE / source).read_text(encoding="utf-8")
        _texts[place] = spread_blocks(move_links(text, source, place, linked.add))
    for place in ROOT_PAGES.values():
        files.append(File.generated(config, place, content=""))
    while linked:
        path = linked.pop()
        place = find_place(path)
        if files.get_file_from_path(place) is not None:
            continue
        if (HOUSE / path).is_dir():
            _texts[place], more = list_directory(path)
            linked |= set(more)
            files.append(File.generated(config, place, content=""))
        else:
            content = (HOUSE / path).read_bytes()
            files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """The text that on_files made."""
    return _texts.get(page.file.src_uri, markdown)
