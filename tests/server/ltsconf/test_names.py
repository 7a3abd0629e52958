"""Names of a template: those that no node can have are told, with line and remedy."""

from collections.abc import Mapping
from typing import Any

import pytest

from server.ltsconf import LtsTemplate
from server.ltsconf.names import check_names


def find(body: str, **known: Mapping[str, Any]) -> list[tuple[int, str, str]]:
    template = LtsTemplate.parse(f"# jinja2\n[default]\n{body}\n".encode())
    found = check_names(template.main, template.check(), **known)
    return [(one.line, one.message, one.hint) for one in found]


@pytest.mark.parametrize(
    ("body", "message", "hint"),
    [
        ("A={{ secret.join_token }}", "no name 'secret'", "Did you mean secrets?"),
        ("A={{ node.hostnam }}", "node has no 'hostnam'", "Did you mean node.hostname?"),
        ("A={{ node['hostnam'] }}", "node has no 'hostnam'", "Did you mean node.hostname?"),
        ("A={{ node.hostnam | default('x') }}", "node has no 'hostnam'", "node.hostname"),
        ("A={{ image.tag }}", "image has no 'tag'", "image has name, digest"),
        ("{% if false %}A={{ nosuch }}{% endif %}", "no name 'nosuch'", "It has node, image"),
        ("A={{ node.hostname ~ nod.ip }}", "no name 'nod'", "Did you mean node?"),
    ],
)
def test_what_is_fixed(body: str, message: str, hint: str) -> None:
    ((line, said, remedy),) = find(body)
    assert line == 3
    assert message in said
    assert hint in remedy


@pytest.mark.parametrize(
    "body",
    [
        "A={{ node.hostname.split('-')[0] }} {{ node.get('serial', 'x') }}",
        "A={{ node.labels.rack }} {{ node.bmc }} {{ node.uuid }}",
        "A={{ image.versions['docker.io'] }} {{ image.versions.kubelet }}",
        "{% set rack = node.ip %}{% for x in range(3) %}A={{ x }}{{ rack }}{{ loop.index }}\n"
        "{% endfor %}",
        "{% macro m(a) %}{{ a }}{% endmacro %}A={{ m(node.mac) }}",
        "A={{ farm.anything }} {{ secrets.anything }}",
    ],
)
def test_what_passes(body: str) -> None:
    assert find(body) == []


def test_what_the_farm_knows() -> None:
    farm, secrets = {"api": "x", "net": {"dns": "y"}}, {"token": "t"}
    body = (
        "A={{ farm.apl }}\nB={{ farm.net.dn }}\nC={{ secrets.tokn }}\n"
        "D={{ farm.more | default('x') }}\n{% if farm.e is defined %}E={{ farm.e }}{% endif %}"
    )
    found = find(body, farm=farm, secrets=secrets)
    assert [(line, message) for line, message, _ in found] == [
        (3, "farm has no 'apl'"),
        (4, "farm.net has no 'dn'"),
        (5, "secrets has no 'tokn'"),
    ]
    assert "Did you mean farm.net.dns?" in found[1][2]
    ((_, _, remedy),) = find("A={{ secrets.token }}", secrets={})
    assert "directory of secrets" in remedy
