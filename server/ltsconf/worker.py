"""The process that renders templates, and nothing else: `python -m server.ltsconf.worker`.

Requests and answers are JSON, a line each. It is a process of its own because
time and memory of a template can only be bounded from outside: its memory is
limited by the kernel, and whoever asks kills it when an answer is late. Jinja2's
sandbox keeps templates from its objects, as a second wall.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import traceback
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY = 512 * 2**20
MAX_OUTPUT = 4 * 2**20
# Whoever asked gives up long before; but if it is gone, nobody else would end this process.
MAX_SECONDS = 30
# What the traceback calls a template's lines.
_FILE = "<template>"


class _TooLongError(Exception):
    pass


class _BadTextError(Exception):
    pass


class _Placeholder(jinja2.ChainableUndefined):
    """Stands for a fact that is not known, when a template is only checked."""

    def __str__(self) -> str:
        return "placeholder"


class _StrictUndefined(jinja2.StrictUndefined):
    """Strict, and names the mapping: node.serial instead of an attribute of a dict."""

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
    """Each value that an expression gives: one line, so that no value can add lines."""
    if isinstance(value, jinja2.Undefined):
        return value
    text = str(value)
    if "\n" in text or "\r" in text or "\0" in text:
        raise _BadTextError("a value with a line end or NUL byte in it: a value is one line")
    return text


def make_environment(*, placeholders: bool) -> jinja2.Environment:
    """The sandbox: strict undefined, no files, no functions but Jinja2's own harmless ones."""
    environment = ImmutableSandboxedEnvironment(
        undefined=_Placeholder if placeholders else _StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
        finalize=_finalize,
    )
    environment.globals.pop("lipsum", None)
    return environment


def render(request: dict[str, Any]) -> dict[str, Any]:
    """{"text", "facts", "placeholders", "check"} -> {"text"} or {"error", "line", "kind"}.

    check: only whether it is a template; the text of the answer is empty.
    """
    environment = make_environment(placeholders=bool(request.get("placeholders")))
    _StrictUndefined.names = _name_mappings(request["facts"])
    try:
        template = environment.from_string(request["text"])
        if request.get("check"):
            return {"text": ""}
        parts: list[str] = []
        size = 0
        for part in template.generate(request["facts"]):
            size += len(part)
            if size > MAX_OUTPUT:
                raise _TooLongError(f"the rendered text is longer than {MAX_OUTPUT} characters")
            parts.append(part)
        return {"text": "".join(parts)}
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


def _find_line(error: BaseException) -> int:
    """The template's line that an error came from; 0 if unknown."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == _FILE]
    return (lines[-1] or 0) if lines else 0


def main() -> None:
    """Answer requests until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    for line in sys.stdin:
        signal.alarm(MAX_SECONDS)
        answer = json.dumps(render(json.loads(line)))
        signal.alarm(0)
        print(answer, flush=True)


if __name__ == "__main__":
    main()
