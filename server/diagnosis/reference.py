"""The rules as docs/diagnosis.md has them: made from the rules themselves."""

from server.diagnosis.diagnose import RULES
from server.diagnosis.expectation import EXPECTATIONS
from server.diagnosis.rule import Rule
from server.nodes.phases import PHASES

HEAD = """\
# Diagnosis: what is the matter with a node

The status page, `bootfarm nodes`, `bootfarm node MAC` and `/api/nodes` say in plain words \
why a node does not come up. They look at the node's present boot (its events and reports) \
and at the time, and ask the rules below. Errors come before stalls, stalls before notes; of \
one kind the first rule that holds is told.

- **error**: a step failed.
- **stalled**: nothing came any more, for longer than the phase may take.
- **note**: it goes on, but a person should know.

A rule's id is stable: `/metrics` counts nodes by it, scripts may ask for it. Words in \
braces stand for what was seen.

This page is made from the rules (`python -m server.diagnosis.reference`); a test keeps the \
two equal.
"""


def render_reference() -> str:
    """The whole page."""
    parts = [HEAD, "## How long a phase may be silent", _render_expectations(), "## Rules"]
    parts += [_render_rule(rule) for rule in RULES]
    return "\n".join(parts)


def _render_expectations() -> str:
    lines = ["| after phase | seconds | expected next | why so long |", "|---|---|---|---|"]
    for name in PHASES:
        given = EXPECTATIONS[name]
        seconds = "any" if given.seconds is None else f"{given.seconds:.0f}"
        lines.append(f"| {name} | {seconds} | {given.next} | {given.why} |")
    lines.append("")
    lines.append("While a file is on its way the limit is 1800 s: a transfer that")
    lines[-1] += " stands still is ended by the server within 30 s, and then is an error.\n"
    return "\n".join(lines)


def _render_rule(rule: Rule) -> str:
    scope = ", also when later phases were reached" if rule.stays else ""
    lines = [
        f"### {rule.id}",
        f"{rule.severity}; phase {rule.phase} or before{scope}. {rule.when}",
        "",
        f"> {rule.headline}",
        "",
        f"Expected: {rule.expected}. Seen: {rule.seen}. To check:",
        *(f"{number}. {line}" for number, line in enumerate(rule.check, 1)),
        "",
    ]
    return "\n".join(line.replace("{{", "{").replace("}}", "}") for line in lines)


if __name__ == "__main__":
    print(render_reference(), end="")
