"""lts.conf as a Jinja2 template: when its first line is `# jinja2`, else braces are plain text.

Rendered for each node with its facts, in a process of its own (worker.py) that
is bounded in time, memory and output. What it gives is an lts.conf like any
other. Names in a template:

    node.mac node.ip node.hostname node.arch node.serial node.uuid node.labels node.bmc
    image.name image.digest image.kernel image.versions.kubelet ...
    farm.<name>        what the operator has set
    secrets.<name>     files of a directory, for instance of a mounted Secret

A name that is not known is an error for that node, never an empty text.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from server.hangup import hangup_spares_children
from server.ltsconf.conf import LtsConf, NodeId, decode, encode
from server.ltsconf.errors import LtsConfError
from server.ltsconf.files import read_nothing
from server.ltsconf.names import Use, check_names
from server.ltsconf.problem import Origin, Problem
from server.ltsconf.scan import Included, ReadInclude

FIRST_LINE = re.compile(rb"#[ \t]*jinja2[ \t]*\r?\n", re.IGNORECASE)
MAX_TEMPLATE = 2**20
"""Bytes; a ConfigMap holds no more."""
MAX_SECRET = 65536
"""Bytes of one file; tokens and certificates have some thousand."""
MAX_SECRETS = 1000
"""Files of a directory of secrets, with those of its directories."""
MAX_DEPTH = 8
"""Of directories in the directory of secrets."""
SECONDS = 2.0
"""For one rendering, which takes milliseconds as a rule: a node waits for it."""
MAX_RENDERINGS = 1024
"""That are kept, by their facts; at one more all are made again."""
_SETTING = re.compile(r"^[ \t]*(\w{1,100})[ \t]*=([^\r\n]*)", re.MULTILINE)

Facts = Mapping[str, Any]


class Rendered(bytes):
    """A node's text. lines: for each of its lines the template's; None where nobody can tell."""

    lines: tuple[int, ...] | None = None


class RenderingFailedError(LtsConfError):
    """The process gave no answer: too slow, too large, gone. Another time it may."""


def is_template(text: bytes) -> bool:
    """Whether the first line is `# jinja2`."""
    return FIRST_LINE.match(text) is not None


def make_facts(
    node: NodeId,
    *,
    image: Mapping[str, Any] | None = None,
    farm: Mapping[str, Any] | None = None,
    secrets: Mapping[str, Any] | None = None,
    **known: Any,
) -> dict[str, Any]:
    """The names of a template. `known`: others of names.NODE_NAMES, as far as they are.

    What is None is left out, so that its use is an error instead of `None`. labels are
    always there, if none, so that `default(…)` serves for one of them.
    """
    about = {"mac": node.mac, "ip": node.ip, "hostname": node.hostname, "labels": {}, **known}
    facts: dict[str, Any] = {
        "node": {name: value for name, value in about.items() if value is not None},
        "farm": dict(farm or {}),
        "secrets": dict(secrets or {}),
    }
    if image is not None:
        facts["image"] = dict(image)
    return facts


def read_secrets(directory: Path) -> dict[str, Any]:
    """The files of a directory as a mapping, subdirectories as mappings; one final newline less.

    Names that begin with a dot (kubelet's `..data`) are left out. Raises
    LtsConfError when something cannot be read or is too large, and for a directory that
    holds more than secrets do (`/etc`; links in a circle).
    """
    count = 0

    def read(folder: Path, depth: int) -> dict[str, Any]:
        nonlocal count
        found: dict[str, Any] = {}
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith("."):
                continue
            count += 1
            if count > MAX_SECRETS or depth > MAX_DEPTH:
                raise LtsConfError(
                    f"holds more than {MAX_SECRETS} files, or directories {MAX_DEPTH} deep",
                    path=str(directory),
                    hint="Name a directory of a few small files, as a mounted Secret is.",
                )
            if os.path.isdir(entry):
                found[entry.name] = read(entry, depth + 1)
            elif os.path.isfile(entry):
                if entry.stat().st_size > MAX_SECRET:
                    raise LtsConfError(f"is larger than {MAX_SECRET} bytes", path=str(entry))
                try:
                    found[entry.name] = entry.read_text("utf-8").removesuffix("\n")
                except UnicodeDecodeError:
                    raise LtsConfError(
                        "a secret cannot be read: it is no UTF-8",
                        path=str(entry),
                        hint="Write the secret as text (base64, if it is none), or move it away.",
                    ) from None
        return found

    try:
        return read(directory, 0)
    except OSError as error:
        raise LtsConfError(
            f"a secret cannot be read: {error}",
            path=str(directory),
            hint="Name a directory of small text files, as a mounted Secret is.",
        ) from None


class Renderer:
    """Renders templates in a worker process, which is started when needed and kept.

    `seconds`: how long one rendering may take, after which the worker is killed.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[bytes] | None = None

    def render(
        self, text: bytes, facts: Facts, *, path: str = "lts.conf", placeholders: bool = False
    ) -> Rendered:
        """The text of one node. Raises LtsConfError with the template's line."""
        answer = self._request(text, path, facts=facts, placeholders=placeholders, lines=True)
        text, lines = Rendered(encode(answer["text"])), answer.get("lines")
        text.lines = tuple(lines) if lines is not None else None
        return text

    def check(self, text: bytes, *, path: str = "lts.conf") -> list[Use]:
        """The names that it uses, if it is a template at all; no facts are needed.

        Raises as `render` does.
        """
        answer = self._request(text, path, facts={}, check=True)
        return [Use(tuple(use["path"]), use["line"], use["guarded"]) for use in answer["uses"]]

    def close(self) -> None:
        """End the worker, what it renders just now included; a later `render` starts another."""
        worker = self._worker
        if worker is not None:
            worker.kill()
        with self._lock:
            self._stop()

    def _request(self, text: bytes, path: str, *, facts: Facts, **more: bool) -> dict[str, Any]:
        if len(text) > MAX_TEMPLATE:
            raise LtsConfError(
                f"is a template larger than {MAX_TEMPLATE} bytes",
                path=path,
                hint="A template for lts.conf is a few kilobytes: is this the right file?",
            )
        # Jinja2 takes text: bytes that are not UTF-8 travel as lone surrogates.
        request = {"text": decode(text), "facts": facts, **more}
        with self._lock:
            answer = self._ask(json.dumps(request).encode() + b"\n", path)
        if "text" in answer:
            return answer
        who = describe_node(facts)
        raise LtsConfError(
            f"{answer['error']}{f' (for {who})' if who else ''}",
            path=path,
            line=int(answer["line"] or 0),
            column=1 if answer["line"] else 0,
            hint=_HINTS[answer["kind"]],
        )

    def _ask(self, request: bytes, path: str) -> dict[str, Any]:
        worker = self._start()
        deadline = time.monotonic() + self._seconds
        assert worker.stdin is not None
        assert worker.stdout is not None
        answer = b""
        try:
            pending = memoryview(request)
            while pending:
                wait = deadline - time.monotonic()
                if not select.select([], [worker.stdin], [], max(wait, 0))[1]:
                    raise TimeoutError
                sent = os.write(worker.stdin.fileno(), pending[:65536])
                pending = pending[sent:]
            while not answer.endswith(b"\n"):
                wait = deadline - time.monotonic()
                if not select.select([worker.stdout], [], [], max(wait, 0))[0]:
                    raise TimeoutError
                part = os.read(worker.stdout.fileno(), 2**20)
                if not part:
                    raise BrokenPipeError
                answer += part
        except TimeoutError:
            self._stop()
            raise RenderingFailedError(
                f"rendering takes longer than {self._seconds:g} s",
                path=path,
                hint="A template for lts.conf fills in values; it has no long loops.",
            ) from None
        except OSError:
            self._stop()
            raise RenderingFailedError(
                "rendering needs too much memory", path=path, hint=_HINTS["limit"]
            ) from None
        except KeyboardInterrupt:
            self._stop()
            raise
        result: dict[str, Any] = json.loads(answer)
        return result

    def _start(self) -> subprocess.Popen[bytes]:
        if self._worker is not None and self._worker.poll() is None:
            return self._worker
        with hangup_spares_children():
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "server.ltsconf.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd=Path(__file__).parents[2],
                env={"PATH": os.environ.get("PATH", ""), "PYTHONUTF8": "1"},
            )
        assert self._worker.stdin is not None
        os.set_blocking(self._worker.stdin.fileno(), False)
        self._wait_until_ready(self._worker)
        return self._worker

    def _wait_until_ready(self, worker: subprocess.Popen[bytes]) -> None:
        """Let it import Jinja2 before the clock of a rendering runs."""
        assert worker.stdin is not None
        assert worker.stdout is not None
        os.write(worker.stdin.fileno(), b'{"text": "", "facts": {}}\n')
        if not select.select([worker.stdout], [], [], 30)[0] or not os.read(
            worker.stdout.fileno(), 4096
        ):
            self._stop()
            raise RenderingFailedError("the process that renders templates does not start")

    def _stop(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        worker.kill()
        worker.wait()
        for stream in (worker.stdin, worker.stdout):
            if stream is not None:
                stream.close()


_HINTS = {
    "syntax": "It is Jinja2: {{ node.mac }}, {% if … %}. Without `# jinja2` in the first line"
    " braces are plain text.",
    "undefined": "A template has node, image, farm and secrets; a fact that may be missing is"
    " written {{ node.serial | default('none') }}.",
    "limit": "A template for lts.conf fills in values; it makes no long texts.",
    "error": "Correct the expression in that line.",
}


@cache
def shared_renderer() -> Renderer:
    """The renderer of callers that bring none; its worker ends with this process."""
    renderer = Renderer()
    atexit.register(renderer.close)
    return renderer


@cache
def shared_checker() -> Renderer:
    """A second renderer, for callers that may not wait for a rendering under way."""
    checker = Renderer()
    atexit.register(checker.close)
    return checker


def describe_node(facts: Facts) -> str:
    """How messages name the node of these facts."""
    node = facts.get("node", {})
    for name in ("mac", "ip", "hostname"):
        if name in node:
            return f"node {node[name]}"
    return ""


class LtsTemplate:
    """An lts.conf that must be rendered before a node can be resolved: a Conf (interface.py).

    `render` gives the LtsConf of one node; a bad rendering is that node's
    error alone. Renderings are kept by their facts. It can be pickled, if
    `read_include` can: renderings and renderer stay behind then.
    """

    needs_rendering = True

    def __init__(
        self, main: Included, read_include: ReadInclude, renderer: Renderer | None = None
    ) -> None:
        self.main = main
        self.read_include = read_include
        self._renderer = renderer or shared_renderer()
        self._cache: dict[str, LtsConf | LtsConfError] = {}
        self._last: tuple[bytes, object, LtsConf] | None = None

    @classmethod
    def parse(
        cls,
        text: bytes,
        read_include: ReadInclude = read_nothing,
        *,
        path: str = "lts.conf",
        renderer: Renderer | None = None,
    ) -> LtsTemplate:
        """A template from its text, which is not rendered yet."""
        return cls(Included("main", path, text), read_include, renderer)

    def __reduce__(self) -> tuple[type[LtsTemplate], tuple[Included, ReadInclude]]:
        return LtsTemplate, (self.main, self.read_include)

    @property
    def template(self) -> str:
        """The path that messages name it by."""
        return self.main.path

    @property
    def size(self) -> int:
        """Bytes of the template's text, its includes left out."""
        return len(self.main.data or b"")

    @property
    def has_sections(self) -> bool:
        """True: only a rendering could tell otherwise."""
        return True

    def with_renderer(self, renderer: Renderer | None) -> LtsTemplate:
        """The same template, rendered by another process; nothing is rendered yet."""
        return LtsTemplate(self.main, self.read_include, renderer)

    def peek(self, node: NodeId) -> dict[str, str]:
        """Nothing: a rendering takes too long for a quick look."""
        return {}

    def locate_settings(self, key: str) -> Iterator[tuple[str, str]]:
        """(path:line, value) of each line that sets a key in plain words: what is rendered,
        each machine's own rendering says."""
        name = re.escape(encode(key))
        setting = re.compile(
            rb"""[ \t]*"?%b"?[ \t]*=[ \t]*["']?([^"'{}#]+?)["']?[ \t]*""" % name, re.IGNORECASE
        )
        main = self.main
        lines = (main.origin.data if main.origin is not None else main.data or b"").split(b"\n")
        for number, text in enumerate(lines, start=1):
            if match := setting.fullmatch(text.rstrip(b"\r")):
                yield f"{main.path}:{number}", decode(match[1])

    def list_settings(self) -> Iterator[tuple[str, str]]:
        """(key, value) of each line of the template that looks like a setting."""
        for match in _SETTING.finditer(decode(self.main.data or b"")):
            yield match[1], match[2].strip().strip("\"'")

    def find_unknown(
        self, farm: Mapping[str, Any] | None = None, secrets: Mapping[str, Any] | None = None
    ) -> list[Problem]:
        """The names that no node can have, as errors; raises as `check`."""
        return check_names(self.main, self.check(), farm=farm, secrets=secrets)

    def draft(self, facts: Facts) -> LtsConf:
        """The rendering in which unknown names stand for themselves; raises as `render`."""
        text = self.render_text(facts, placeholders=True)
        return LtsConf.parse_included(self.locate(text), self.read_include)

    def check(self, renderer: Renderer | None = None) -> list[Use]:
        """The names that it uses (lines are those of the file that people can open).

        Raises LtsConfError if the text is no template: what can be said without a node.
        """
        try:
            uses = (renderer or self._renderer).check(self.main.data or b"", path=self.main.path)
        except LtsConfError as error:
            raise self._at_origin(error) from None
        origin = self.main.origin
        if origin is None:
            return uses
        return [Use(use.path, origin.find_line(use.line), use.guarded) for use in uses]

    def render(self, facts: Facts) -> LtsConf:
        """The configuration for these facts (make_facts). Raises LtsConfError.

        Its lines, and those of the error, are the template's.
        """
        # A digest: the secrets among the facts are not wanted in memory for each node.
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        known = self._cache.get(key)
        if known is None:
            try:
                known = self._parse(self.render_text(facts))
            except RenderingFailedError:
                raise
            except LtsConfError as error:
                known = error
            if len(self._cache) >= MAX_RENDERINGS:
                self._cache.clear()
            self._cache[key] = known
        if isinstance(known, LtsConfError):
            raise known
        return known

    def _parse(self, text: bytes) -> LtsConf:
        """Parse a rendered text. Machines whose text is the same share the result."""
        lines = getattr(text, "lines", None)
        if self._last is not None and self._last[:2] == (text, lines):
            return self._last[2]
        conf = LtsConf.parse_included(self.locate(text), self.read_include)
        self._last = (text, lines, conf)
        return conf

    def render_text(self, facts: Facts, *, placeholders: bool = False) -> bytes:
        """The rendered text; with `placeholders`, unknown names stand for themselves."""
        try:
            return self._renderer.render(
                self.main.data or b"", facts, path=self.main.path, placeholders=placeholders
            )
        except LtsConfError as error:
            raise self._at_origin(error) from None

    def locate(self, text: bytes) -> Included:
        """A rendered text as a file that knows where its lines come from, if anybody does."""
        lines = getattr(text, "lines", None)
        if lines is None:
            return Included("main", f"{self.main.path} (rendered)", text)
        origin = Origin(lines, self.main.data or b"").through(self.main.origin)
        return Included("main", self.main.path, text, origin)

    def _at_origin(self, error: LtsConfError) -> LtsConfError:
        """The error with the line of the file that the template stands in."""
        if self.main.origin is not None and error.line:
            error.line = self.main.origin.find_line(error.line)
        return error
