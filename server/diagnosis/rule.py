"""What a rule is, and what it gives: a Finding."""

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from server.diagnosis.case import Case

Severity = Literal["error", "stalled", "note"]
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "stalled", "note")
VALUE_MAX: Final = 300
"""Characters of one value in a finding's words."""

Values = Mapping[str, object]
"""What a rule saw: the words for its templates. `since`: when that was, if not just now."""


@dataclass(frozen=True)
class Finding:
    """What is the matter with one node.

    rule: a stable id, of RULES. headline: one sentence. check: what to do, in
    order. since: seconds since the epoch. severity: "error": a step failed;
    "stalled": nothing came any more; "note": it goes on, but a person should know.
    """

    rule: str
    phase: str
    severity: Severity
    headline: str
    expected: str
    seen: str
    check: tuple[str, ...]
    since: float

    def to_json(self) -> dict[str, Any]:
        """As the web API has it."""
        return {**vars(self), "check": list(self.check)}


@dataclass(frozen=True)
class Rule:
    """One thing that goes wrong.

    match: what was seen, as values for the templates, or None where the rule
    does not hold. stays: it may hold when later phases were reached, too.
    when: for docs/diagnosis.md, in words.
    """

    id: str
    phase: str
    severity: Severity
    when: str
    headline: str
    expected: str
    seen: str
    check: tuple[str, ...]
    match: Callable[[Case], Values | None]
    stays: bool = False

    def apply(self, case: Case) -> Finding | None:
        """The finding, if the rule holds."""
        values = self.match(case)
        if values is None:
            return None
        words = {
            "server": case.server,
            "node": case.node.key,
            "ip": case.node.ip or "its address",
            "tftp_port": case.farm.tftp_port,
            "http_port": case.farm.http_port,
            "nbd_port": case.farm.nbd_port,
            **{key: _cut(value) for key, value in values.items()},
        }
        since = values.get("since", case.heard)
        phase = str(values.get("phase", self.phase))
        return Finding(
            rule=self.id,
            phase=phase,
            severity=self.severity,
            headline=_fill(self.headline, words),
            expected=_fill(self.expected, words),
            seen=_fill(self.seen, words),
            check=tuple(_fill(line, words) for line in self.check),
            since=since if isinstance(since, float) else case.heard,
        )


def _cut(value: object) -> object:
    return value if not isinstance(value, str) or len(value) <= VALUE_MAX else value[:VALUE_MAX]


class _Formatter(string.Formatter):
    """Fills in names only. What a node said is always a value, never a template."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        return kwargs[field_name], field_name


_FORMATTER: Final = _Formatter()


def _fill(template: str, words: Values) -> str:
    return _FORMATTER.vformat(template, (), words)
