"""What a PromQL expression asks for: metrics and the labels that it compares."""

import re
from dataclasses import dataclass

_KEYWORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan", "group_left", "group_right"}
_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*"|'[^']*')
    |(?P<range>\[[^\]]*\])
    |(?P<group>\b(?:by|without|on|ignoring)\s*\(([^)]*)\))
    |(?P<selector>(?P<name>[a-zA-Z_:][\w:]*)?\s*\{(?P<inner>(?:[^"}]|"(?:[^"\\]|\\.)*")*)\})
    |(?P<function>[a-zA-Z_]\w*)(?=\s*\(|\s+(?:by|without)\b)
    |(?P<word>[a-zA-Z_:][\w:]*)""",
    re.VERBOSE,
)
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Selector:
    """One metric in an expression. matchers: (label, operator, value)."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...] = ()


def find_selectors(expression: str) -> list[Selector]:
    """Every metric that an expression names."""
    found = []
    for match in _TOKEN.finditer(expression):
        if match["selector"]:
            matchers = tuple(_MATCHER.findall(match["inner"]))
            found.append(Selector(match["name"] or "", matchers))
        elif match["word"] and match["word"] not in _KEYWORDS:
            found.append(Selector(match["word"]))
    return found


def find_groups(expression: str) -> set[str]:
    """The labels that an expression groups by."""
    found: set[str] = set()
    for match in _TOKEN.finditer(expression):
        if match["group"]:
            found |= {word.strip() for word in match["group"].split("(")[1].rstrip(")").split(",")}
    return found - {""}
