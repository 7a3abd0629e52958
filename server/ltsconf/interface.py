"""Conf: the questions that a plain lts.conf and a template of one answer alike.

So nobody has to ask which of the two it is. Only `needs_rendering` tells them apart, for a
caller that may not wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from server.ltsconf.conf import LtsConf, NodeId
from server.ltsconf.files import read_nothing
from server.ltsconf.names import Use
from server.ltsconf.problem import Problem
from server.ltsconf.scan import Included, ReadInclude
from server.ltsconf.template import Facts, LtsTemplate, Renderer, is_template


class Conf(Protocol):
    """An lts.conf in force, or one that may become it: LtsConf or LtsTemplate."""

    @property
    def needs_rendering(self) -> bool:
        """Whether `render`, `draft` and `check` may take seconds: ask them in a thread then."""
        ...

    @property
    def template(self) -> str:
        """The path of the template; "" of a plain text."""
        ...

    @property
    def size(self) -> int:
        """Bytes of the text."""
        ...

    @property
    def has_sections(self) -> bool:
        """Whether it may give some node anything."""
        ...

    def render(self, facts: Facts) -> LtsConf:
        """What counts for the node of these facts (template.make_facts). Raises LtsConfError."""
        ...

    def draft(self, facts: Facts) -> LtsConf:
        """The text as the linter reads it, unknown names left standing. Raises LtsConfError."""
        ...

    def with_renderer(self, renderer: Renderer | None) -> Conf:
        """The same text, rendered by a process of the caller's."""
        ...

    def check(self, renderer: Renderer | None = None) -> list[Use]:
        """The names that it takes from outside; LtsConfError where it is no template at all."""
        ...

    def find_unknown(
        self, farm: Mapping[str, Any] | None = None, secrets: Mapping[str, Any] | None = None
    ) -> list[Problem]:
        """The names that no node can have.

        farm, secrets: what there is, None where the caller does not know.
        """
        ...

    def peek(self, node: NodeId) -> dict[str, str]:
        """The node's values as far as they are known at once; raises as LtsConf.resolve."""
        ...

    def locate_settings(self, key: str) -> Iterator[tuple[str, str]]:
        """(path:line, value) of each line that sets a key; of a template those in plain words."""
        ...

    def list_settings(self) -> Iterator[tuple[str, str]]:
        """(key, value) of all that is set in the text, for whatever node."""
        ...


def parse_conf(main: Included, read_include: ReadInclude = read_nothing) -> Conf:
    """A text as what it is: a template when its first line says so. Raises LtsConfError."""
    if is_template(main.data or b""):
        return LtsTemplate(main, read_include)
    return LtsConf.parse_included(main, read_include)
