"""The process that renders templates, and nothing else: `python -m server.ltsconf.worker`.

Requests and answers are JSON, a line each. It is a process of its own because
time and memory of a template can only be bounded from outside: its memory is
limited by the kernel, and whoever asks kills it when an answer is late. Jinja2's
sandbox keeps templates from its objects, as a second wall.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream
from jinja2.sandbox import ImmutableSandboxedEnvironment

from server.dumps import refuse_dumps
from server.hangup import ignore_hangup

MEMORY = 512 * 2**20
"""Bytes of address space: Jinja2 and its largest output have room in it."""
MAX_OUTPUT = 4 * 2**20
"""Characters of a rendered text."""
# The process that asked gives up long before. Where it is gone, nobody else ends this one.
MAX_SECONDS = 30
# The file name that tracebacks give to a template's lines.
_FILE = "<template>"
MAX_USES = 2000
"""Names of one template that are looked at."""
# The second rendering, which finds the lines, must not make a slow template miss its time.
MARKING_SECONDS = 0.3
# Noncharacters of Unicode: no text that is meant to be read has them.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_MARK = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
# Blocks whose text may become a value, which a mark in it would change.
_CAPTURING = ("macro", "call", "filter", "set")


class _TooLongError(Exception):
    pass


class _BadTextError(Exception):
    pass


class _Placeholder(jinja2.ChainableUndefined):
    """Stands for a fact that is not known, when a template is only checked."""

    def __str__(self) -> str:
        return "placeholder"


class _StrictUndefined(jinja2.StrictUndefined):
    """Every use is an error, and names the whole path: node.serial, not an attribute of a dict."""

    names: dict[int, str] = {}  # noqa: RUF012 - set for each rendering

    @property
    def _undefined_message(self) -> str:
        name = self.names.get(id(self._undefined_obj))
        if name is None:
            return super()._undefined_message
        return f"{name}.{self._undefined_name} is undefined"


def _name_mappings(facts: dict[str, Any], path: str = "") -> dict[int, str]:
    names: dict[int, str] = {}
    for key, value in facts.items():
        if isinstance(value, dict):
            names[id(value)] = f"{path}{key}"
            names.update(_name_mappings(value, f"{path}{key}."))
    return names


def _finalize(value: Any) -> Any:
    """The value of an expression, on one line: no value can add lines to the text."""
    if isinstance(value, jinja2.Undefined):
        return value
    text = str(value)
    if "\n" in text or "\r" in text or "\0" in text:
        raise _BadTextError("a value with a line end or NUL byte in it: a value is one line")
    return text


def _mark_lines(text: str, line: int) -> str:
    """Plain text with a mark before each of its lines, the first being number `line`."""
    parts = text.split("\n")
    return "\n".join(
        f"{_OPEN}{number}{_CLOSE}{part}" for number, part in enumerate(parts, start=line)
    )


class MarkAll(Extension):
    """Puts the line number as a mark before each line of a template's text, and each expression."""

    spare = False

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        """The template's tokens with the marks between them (jinja2.ext.Extension)."""
        depth = 0
        for token in stream:
            if token.type == "block_begin":
                block = [token]
                while block[-1].type != "block_end":
                    block.append(next(stream))
                word = block[1].value if len(block) > 1 else ""
                assigns = any(one.type == "assign" for one in block)
                if word in _CAPTURING and not (word == "set" and assigns):
                    depth += 1
                elif word.removeprefix("end") in _CAPTURING and word.startswith("end"):
                    depth -= 1
                yield from block
                continue
            if not (self.spare and depth > 0):
                if token.type == "data":
                    marked = _mark_lines(token.value, token.lineno)
                    yield Token(token.lineno, "data", marked)
                    continue
                if token.type == "variable_begin":
                    yield Token(token.lineno, "data", f"{_OPEN}{token.lineno}{_CLOSE}")
            yield token


class MarkOutside(MarkAll):
    """As MarkAll, but without marks in text that may become a value."""

    spare = True


_MARKS: dict[str, type[Extension]] = {"all": MarkAll, "outside": MarkOutside}


def read_marks(text: str) -> tuple[str, list[int]]:
    """Marked text as it is without marks, and the template's line of each of its lines."""
    plain: list[str] = []
    lines: list[int] = []
    now, begun = 1, False
    for number, part in enumerate(_MARK.split(text)):
        if number % 2:
            now = int(part)
            continue
        plain.append(part)
        for index, piece in enumerate(part.split("\n")):
            if index:
                if not begun:
                    lines.append(now)
                begun = False
            if piece and not begun:
                lines.append(now)
                begun = True
    if not begun:
        lines.append(now)
    return "".join(plain), lines


@cache
def make_environment(*, placeholders: bool, marks: str = "") -> jinja2.Environment:
    """The sandbox: strict undefined, no files, no functions but Jinja2's own harmless ones."""
    environment = ImmutableSandboxedEnvironment(
        extensions=[_MARKS[marks]] if marks else [],
        undefined=_Placeholder if placeholders else _StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
        finalize=_finalize,
    )
    environment.globals.pop("lipsum", None)
    return environment


def render(request: dict[str, Any]) -> dict[str, Any]:
    """{"text", "facts", "placeholders", "check", "lines"} -> {"text"} or {"error", "line", "kind"}.

    check: only whether it is a template; the answer's text is empty, and its `uses` are
    the names that it takes from node, image, farm and secrets: {"path", "line", "guarded"}.
    lines: have `lines` in the answer, the template's line of each line of the text; None
    where that cannot be told.
    """
    placeholders = bool(request.get("placeholders"))
    _StrictUndefined.names = _name_mappings(request["facts"])
    text = request["text"]
    try:
        if request.get("check"):
            _compile(text, placeholders, "")
            return {"text": "", "uses": find_uses(text)}
        begun = time.monotonic()
        rendered = _generate(_compile(text, placeholders, ""), request["facts"], MAX_OUTPUT)
        if not request.get("lines"):
            return {"text": rendered}
        quick = time.monotonic() - begun < MARKING_SECONDS
        lines = find_lines(text, rendered, request["facts"], placeholders) if quick else None
        return {"text": rendered, "lines": lines}
    except jinja2.TemplateSyntaxError as error:
        return {"error": error.message or "syntax error", "line": error.lineno, "kind": "syntax"}
    except MemoryError:
        return {"error": f"needs more than {MEMORY >> 20} MiB", "line": 0, "kind": "limit"}
    except RecursionError:
        return {"error": "is nested too deeply", "line": 0, "kind": "limit"}
    except Exception as error:
        kind = "undefined" if isinstance(error, jinja2.UndefinedError) else "error"
        kind = "limit" if isinstance(error, _TooLongError) else kind
        return {
            "error": str(error) or type(error).__name__,
            "line": _find_line(error),
            "kind": kind,
        }


@lru_cache(maxsize=16)
def _compile(text: str, placeholders: bool, marks: str) -> jinja2.environment.Template:
    """A compiled template, kept for all nodes of a text."""
    return make_environment(placeholders=placeholders, marks=marks).from_string(text)


def _generate(template: jinja2.environment.Template, facts: dict[str, Any], most: int) -> str:
    parts: list[str] = []
    size = 0
    for part in template.generate(facts):
        size += len(part)
        if size > most:
            raise _TooLongError(f"the rendered text is longer than {MAX_OUTPUT} characters")
        parts.append(part)
    return "".join(parts)


def find_lines(
    text: str, rendered: str, facts: dict[str, Any], placeholders: bool
) -> list[int] | None:
    """The template's line of each line that was rendered, or None.

    The text is rendered again with marks in it. Where they get into a value and
    change what comes of it, marks stay out of what may become a value.
    """
    for marks in _MARKS:
        try:
            template = _compile(text, placeholders, marks)
            plain, lines = read_marks(_generate(template, facts, 4 * MAX_OUTPUT))
        except Exception:  # marks broke it; what counts is rendered already
            continue
        if plain == rendered:
            return lines
    return None


def find_uses(text: str) -> list[dict[str, Any]]:
    """The names that a template takes from outside: each once a line, at most MAX_USES.

    path: as ["node", "serial"]; guarded: `default` or `is defined` is applied to it.
    """
    tree = make_environment(placeholders=False).parse(text)
    outside = meta.find_undeclared_variables(tree)
    guards: set[tuple[str, ...]] = set()
    for node in tree.find_all((nodes.Filter, nodes.Test)):
        assert isinstance(node, nodes.Filter | nodes.Test)
        if node.name in ("default", "d", "defined", "undefined") and node.node is not None:
            guards.add(tuple(_read_path(node.node)))
    found: dict[tuple[tuple[str, ...], int], bool] = {}
    for path, line in _list_paths(tree):
        if path[0] in outside and len(found) < MAX_USES:
            found[path, line] = any(path[: len(guard)] == guard for guard in guards if guard)
    return [
        {"path": list(path), "line": line, "guarded": guarded}
        for (path, line), guarded in found.items()
    ]


def _list_paths(node: nodes.Node) -> Iterable[tuple[tuple[str, ...], int]]:
    """The longest dotted names in a tree, with their lines."""
    todo = [node]
    while todo:
        one = todo.pop()
        path = _read_path(one)
        if path:
            yield tuple(path), one.lineno
            continue
        todo += reversed(list(one.iter_child_nodes()))


def _read_path(node: nodes.Node) -> list[str]:
    """a.b["c"] as [a, b, c]; [] for anything else."""
    if isinstance(node, nodes.Name):
        return [node.name] if node.ctx == "load" else []
    if isinstance(node, nodes.Getattr):
        before = _read_path(node.node)
        return [*before, node.attr] if before else []
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        before = _read_path(node.node)
        return [*before, str(node.arg.value)] if before and isinstance(node.arg.value, str) else []
    return []


def _find_line(error: BaseException) -> int:
    """The template's line that an error came from; 0 if unknown."""
    # Not extract_tb, which reads the files of all frames: a survey has thousands of errors.
    found = 0
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename == _FILE:
            found = line
    return found


def main() -> None:
    """Answer requests until standard input ends."""
    ignore_hangup()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    refuse_dumps()
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    for line in sys.stdin:
        signal.alarm(MAX_SECONDS)
        answer = json.dumps(render(json.loads(line)))
        signal.alarm(0)
        print(answer, flush=True)


if __name__ == "__main__":
    main()
