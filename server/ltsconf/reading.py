"""What `bootfarm lts` reads: a bare lts.conf, a template, or a ConfigMap manifest; and nodes."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from server.ltsconf.conf import LtsConf, NodeId
from server.ltsconf.errors import LtsConfError
from server.ltsconf.files import make_reader, read_main
from server.ltsconf.interface import Conf, parse_conf
from server.ltsconf.lint import lint
from server.ltsconf.manifest import ManifestText, is_manifest, read_manifest
from server.ltsconf.names import NODE_NAMES
from server.ltsconf.problem import Outcome, Problem
from server.ltsconf.scan import Included, ReadInclude
from server.ltsconf.template import LtsTemplate, is_template, make_facts

_MAX_ANSWER = 64 * 2**20
"""Bytes of a server's list of nodes."""


@dataclass(frozen=True)
class Given:
    """What a template may use besides the node: from --fact, --secrets and --image."""

    node: Mapping[str, Any] = field(default_factory=dict)
    farm: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, Any] = field(default_factory=dict)
    image: Mapping[str, Any] | None = None

    def make_facts(self, node: NodeId) -> dict[str, Any]:
        """The facts of one node; what --fact says of it counts first."""
        known = {"hostname": node.hostname, "ip": node.ip, "mac": node.mac, **self.node}
        whole = replace(
            node, hostname=known.pop("hostname"), ip=known.pop("ip"), mac=known.pop("mac")
        )
        rest = {name: value for name, value in known.items() if value is not None}
        return make_facts(whole, image=self.image, farm=self.farm, secrets=self.secrets, **rest)


@dataclass(frozen=True)
class Text:
    """One lts.conf, wherever it stood."""

    main: Included
    read_include: ReadInclude
    manifest: ManifestText | None = None

    @property
    def is_template(self) -> bool:
        """Whether the first line makes it a template."""
        return is_template(self.main.data or b"")

    def parse(self, *, ltsp5: bool = False) -> LtsConf:
        """The text as a plain lts.conf, whatever its first line says."""
        return LtsConf.parse_included(self.main, self.read_include, ltsp5=ltsp5)

    def make_source(self) -> Conf:
        """The text as what its first line says: plain or a template. Raises LtsConfError."""
        return parse_conf(self.main, self.read_include)

    def lint(
        self,
        *,
        farm: Mapping[str, Any] | None = None,
        secrets: Mapping[str, Any] | None = None,
    ) -> list[Problem]:
        """All problems; a template is rendered with placeholders first.

        farm, secrets: what a template may take from them; None where the caller does not
        know.
        """
        main = self.main
        if self.is_template:
            try:
                facts = make_facts(NodeId("placeholder", "192.0.2.1", "02:00:00:00:00:01"))
                template = LtsTemplate(main, self.read_include)
                text = template.locate(template.render_text(facts, placeholders=True))
                unknown = template.find_unknown(farm, secrets)
            except LtsConfError as error:
                return [_problem_of_template(error)]
            return [*unknown, *lint(text, self.read_include, rendered=True)]
        return lint(main, self.read_include)


def _problem_of_template(error: LtsConfError) -> Problem:
    return Problem(
        "template",
        "error",
        Outcome.FINE,
        error.path,
        max(error.line, 1),
        max(error.column, 1),
        error.message,
        error.hint,
    )


def read_texts(file: Path, root: Path, *, bare: bool = False, shown: str = "") -> list[Text]:
    """The lts.conf texts of a file (- is standard input): one, or one for each ConfigMap.

    With `bare` it is an lts.conf, whatever it looks like. shown: its name in messages.
    """
    if str(file) == "-":
        main = Included("main", shown or "<stdin>", sys.stdin.buffer.read())
    else:
        main = read_main(file, pipes=True)
        main = replace(main, path=shown or main.path)
    if not bare and is_manifest(main.data or b""):
        return [Text(one.main, one.make_reader(), one) for one in read_manifest(main)]
    return [Text(main, make_reader(root, main))]


def read_text(file: Path, root: Path, *, bare: bool = False) -> Text:
    """The one lts.conf of a file; LtsConfError if a manifest holds several."""
    texts = read_texts(file, root, bare=bare)
    if len(texts) > 1:
        names = ", ".join(text.manifest.name for text in texts if text.manifest)
        raise LtsConfError(
            f"holds several manifests with an lts.conf: {names}",
            path=str(file),
            hint="Give a manifest with one.",
        )
    return texts[0]


def fetch_nodes(url: str) -> list[NodeId]:
    """The nodes that a running server has seen (its /api/nodes)."""
    address = url.rstrip("/") + "/api/nodes"
    if not address.startswith(("http://", "https://")):
        raise LtsConfError(f"{url!r} is no URL", hint="Write http://SERVER:8080.")
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            data = json.loads(answer.read(_MAX_ANSWER))
        return [NodeId(node["hostname"] or None, node["ip"] or None, node["mac"]) for node in data]
    except (OSError, urllib.error.URLError, ValueError, KeyError, TypeError) as error:
        raise LtsConfError(
            f"no list of nodes from {address}: {error}",
            hint="Is `bootfarm serve` running there, with its http service?",
        ) from None


def parse_facts(pairs: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`node.x=y`, `node.labels.x=y` and `farm.x=y` words as two mappings; LtsConfError for a name
    that no node has."""
    found: dict[str, dict[str, Any]] = {"node": {}, "farm": {}}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        kind, dot, rest = name.partition(".")
        if not equals or not dot or not rest or kind not in found:
            raise LtsConfError(
                f"--fact {pair!r} is not understood",
                hint="Write --fact node.serial=ABC123 or --fact farm.site=west.",
            )
        first, *more = rest.split(".")
        if kind == "node" and (first not in NODE_NAMES or len(more) != (first == "labels")):
            raise LtsConfError(
                f"--fact {name}: no node has that",
                hint=f"There are {', '.join(NODE_NAMES)}; a label is node.labels.NAME=VALUE.",
            )
        place = found[kind]
        for word in (first, *more)[:-1]:
            place = place.setdefault(word, {})
            if not isinstance(place, dict):
                raise LtsConfError(
                    f"--fact {name}: another --fact gives {word} a value of its own",
                    hint="Leave one of the two out.",
                )
        place[(first, *more)[-1]] = value
    return found["node"], found["farm"]
