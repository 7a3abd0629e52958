"""Problems in the formats of `lts check`: text for people, JSON, GitHub's workflow commands."""

from __future__ import annotations

import json
from collections.abc import Sequence

from imagebuild.errors import count_words, escape
from server.ltsconf.problem import Outcome, Problem

FORMATS = ("text", "json", "github")
_SAYS = {
    Outcome.STOPS: "LTSP 5 silently loses everything behind this place",
    Outcome.CRASHES: "LTSP 5 crashes here: the node has no configuration",
}


def render_report(problems: Sequence[Problem], form: str) -> str:
    """The problems in one of FORMATS, with a final newline; "" for text without problems."""
    return {"text": _render_text, "json": _render_json, "github": _render_github}[form](problems)


def count(problems: Sequence[Problem]) -> tuple[int, int]:
    """How many errors and how many warnings."""
    errors = sum(problem.severity == "error" for problem in problems)
    return errors, len(problems) - errors


def describe_count(errors: int, warnings: int) -> str:
    """`1 error, 2 warnings`."""
    return f"{count_words(errors, 'error')}, {count_words(warnings, 'warning')}"


def _render_text(problems: Sequence[Problem]) -> str:
    lines = []
    for problem in problems:
        where = f"{problem.path}:{problem.line}:{problem.column}"
        lines.append(f"{where}: {problem.severity}: {problem.message} [{problem.code}]")
        if problem.excerpt.strip():
            excerpt = escape(problem.excerpt, keep="\t")
            lines.append(f"    {problem.line} | {excerpt}")
        if problem.outcome in _SAYS:
            lines.append(f"    {_SAYS[problem.outcome]}.")
        lines.append(f"    fix: {problem.hint}")
    return "".join(line + "\n" for line in lines)


def _render_json(problems: Sequence[Problem]) -> str:
    errors, warnings = count(problems)
    found = [
        {
            "code": problem.code,
            "severity": problem.severity,
            "ltsp5": problem.outcome.value,
            "path": problem.path,
            "line": problem.line,
            "column": problem.column,
            "message": problem.message,
            "fix": problem.hint,
            "excerpt": problem.excerpt,
        }
        for problem in problems
    ]
    return json.dumps({"errors": errors, "warnings": warnings, "problems": found}, indent=2) + "\n"


def _render_github(problems: Sequence[Problem]) -> str:
    """https://docs.github.com/actions: `::error file=…,line=…,col=…,title=…::message`."""
    lines = []
    for problem in problems:
        place = f"file={_escape_property(problem.path)},line={problem.line},col={problem.column}"
        title = _escape_property(f"lts.conf: {problem.code}")
        text = _escape_data(f"{problem.message}. {problem.hint}")
        lines.append(f"::{problem.severity} {place},title={title}::{text}\n")
    return "".join(lines)


def _escape_data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape_data(text).replace(":", "%3A").replace(",", "%2C")
