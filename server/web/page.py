"""The status page at `/`: the nodes, a row each, rendered here and without scripts."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from server.nodes import Nodes, summarize

ROWS = 200
_TEMPLATE = Path(__file__).with_name("page.html.j2")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["age"] = format_age
    return environment.from_string(_TEMPLATE.read_text())


def format_age(seconds: float) -> str:
    """A time span in two words at most, as people read it from afar: `3 min`, `2 h 5 min`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def render_page(
    nodes: Nodes, health: Mapping[str, Any], query: Mapping[str, str], now: float
) -> str:
    """The page; `?page=N` from 1 on, `?q=` finds in MAC, IP and hostname."""
    wanted = query.get("q", "").strip().lower()
    found = [
        node
        for node in nodes.nodes()
        if not wanted or wanted in f"{node.key} {node.ip} {node.hostname or ''}".lower()
    ]
    pages = max(1, -(-len(found) // ROWS))
    number = query.get("page", "1")
    page = min(max(int(number), 1), pages) if number.isdecimal() and len(number) < 8 else 1
    rows = [summarize(node) for node in found[(page - 1) * ROWS : page * ROWS]]
    return _template().render(
        rows=rows, count=len(found), page=page, pages=pages, wanted=wanted, health=health, now=now
    )
