"""Templates: facts in, one node's lts.conf out; bounded, strict, and nobody else's trouble."""

import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from server.ltsconf import LtsConf, LtsConfError, NodeId
from server.ltsconf.template import (
    MAX_TEMPLATE,
    LtsTemplate,
    Renderer,
    is_template,
    make_facts,
    read_secrets,
)

NODE = NodeId("node-1", "10.9.0.11", "52:54:00:00:00:01")
HEAD = b"# jinja2\n[default]\n"


def render(renderer: Renderer, body: bytes, **more: Any) -> LtsConf:
    facts = make_facts(NODE, **more)
    return LtsTemplate.parse(HEAD + body, renderer=renderer).render(facts)


def resolve(renderer: Renderer, body: bytes, **more: Any) -> dict[str, str]:
    return render(renderer, body, **more).resolve(NODE)


def test_only_the_first_line_makes_a_template() -> None:
    assert is_template(b"# jinja2\n[default]\n")
    assert is_template(b"#jinja2\r\n")
    assert not is_template(b"\n# jinja2\n")
    assert not is_template(b"# jinja2 is not used\n")
    conf = LtsConf.parse(b'[default]\nA="{{ node.mac }}"\n')
    assert conf.resolve(NODE) == {"A": "{{ node.mac }}"}


def test_facts(renderer: Renderer) -> None:
    values = resolve(
        renderer,
        b'A="{{ node.mac }} {{ node.serial }}"\nB={{ image.versions["docker.io"] }}\n'
        b"C={{ farm.site }}\nD={{ secrets.k8s.token }}\n"
        b'{% if node.hostname.startswith("node-") %}E=1\n{% endif %}',
        serial="ABC",
        image={"name": "amd64", "versions": {"docker.io": "20.10"}},
        farm={"site": "west"},
        secrets={"k8s": {"token": "t"}},
    )
    assert values == {"A": "52:54:00:00:00:01 ABC", "B": "20.10", "C": "west", "D": "t", "E": "1"}


def test_bytes_that_are_not_utf8_pass(renderer: Renderer) -> None:
    assert resolve(renderer, b'A="\xff{{ node.ip }}"\n') == {"A": "\udcff10.9.0.11"}


@pytest.mark.parametrize(
    ("body", "line", "says"),
    [
        (b"A=1\nB={{ nosuch }}\n", 4, "'nosuch' is undefined"),
        (b"A={{ node.serial }}\n", 3, "node.serial is undefined"),
        (b"A={{ secrets.token }}\n", 3, "secrets.token is undefined"),
        (b"A={% if %}\n", 3, "Expected an expression"),
        (b"A={{ 1 / 0 }}\n", 3, "division by zero"),
        (b"A={{ ''.__class__.__mro__ }}\n", 3, "unsafe"),
        (b"A={{ 'x\\ny' }}\n", 3, "one line"),
        (b"{% include '/etc/passwd' %}\n", 3, ""),
    ],
)
def test_errors_name_line_and_node(renderer: Renderer, body: bytes, line: int, says: str) -> None:
    with pytest.raises(LtsConfError) as caught:
        render(renderer, body)
    assert caught.value.line == line
    assert says in caught.value.message
    assert "52:54:00:00:00:01" in caught.value.message or not says
    assert caught.value.hint
    assert resolve(renderer, b"A=1\n") == {"A": "1"}


@pytest.mark.parametrize(
    "body",
    [
        b"A={{ 'a' * 10**10 }}\n",
        b"A={{ 'a' | center(9999999999) }}\n",
        b"{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}\n",
        b"A={{ [[0] * 99999] * 99999 | map('string') | list }}\n",
    ],
)
def test_memory_and_output_are_bounded(renderer: Renderer, body: bytes) -> None:
    with pytest.raises(LtsConfError):
        render(renderer, body)
    assert resolve(renderer, b"A=1\n") == {"A": "1"}


def test_time_is_bounded_and_the_next_node_is_served() -> None:
    renderer = Renderer(seconds=2)
    loop = b"{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}\n"
    try:
        with pytest.raises(LtsConfError, match="longer than"):
            render(renderer, loop)
        assert resolve(renderer, b"A=1\n") == {"A": "1"}
    finally:
        renderer.close()


def test_a_bad_rendering_is_one_nodes_trouble(renderer: Renderer) -> None:
    template = LtsTemplate.parse(HEAD + b"A={{ {'10.9.0.11': 'x'}[node.ip] }}\n", renderer=renderer)
    assert template.render(make_facts(NODE)).resolve(NODE) == {"A": "x"}
    other = NodeId("node-2", "10.9.0.12", "52:54:00:00:00:02")
    with pytest.raises(LtsConfError, match="52:54:00:00:00:02"):
        template.render(make_facts(other))
    assert template.render(make_facts(NODE)).resolve(NODE) == {"A": "x"}


def test_what_is_rendered_is_parsed_strictly(renderer: Renderer) -> None:
    with pytest.raises(LtsConfError, match="belongs to no key") as caught:
        render(renderer, b"A={{ 'x=y' }}\n")
    assert (caught.value.path, caught.value.line, caught.value.column) == ("lts.conf", 3, 3)


def test_secrets_of_a_mounted_directory(tmp_path: Path) -> None:
    data = tmp_path / "..2026"
    data.mkdir()
    (data / "token").write_text("abc\n")
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "token").symlink_to("..data/token")
    (tmp_path / "k8s").mkdir()
    (tmp_path / "k8s" / "ca").write_text("x\ny\n")
    assert read_secrets(tmp_path) == {"token": "abc", "k8s": {"ca": "x\ny"}}
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(LtsConfError, match="cannot be read"):
        read_secrets(tmp_path)
    with pytest.raises(LtsConfError, match="cannot be read"):
        read_secrets(tmp_path / "nosuch")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"A={{ node.mac\n", "lts.conf:3:1: "),
        (b"{% for x in y %}\n", "lts.conf:3:1: "),
        (b"A={{ 1 | nosuch }}\n", "No filter named 'nosuch'"),
        (b"#" * MAX_TEMPLATE, "larger than"),
    ],
)
def test_what_is_no_template_is_told_without_a_node(
    renderer: Renderer, body: bytes, says: str
) -> None:
    with pytest.raises(LtsConfError) as caught:
        LtsTemplate.parse(HEAD + body, renderer=renderer).check()
    assert says in str(caught.value)
    assert caught.value.hint
    LtsTemplate.parse(HEAD + b"A={{ nosuch.name }}{{ 1 / 0 }}\n", renderer=renderer).check()


def test_a_template_can_be_sent_to_another_process(renderer: Renderer) -> None:
    template = LtsTemplate.parse(HEAD + b"A={{ secrets.a }}\n", renderer=renderer)
    before = pickle.dumps(template)
    template.render(make_facts(NODE, secrets={"a": "s3cr3t"}))
    assert pickle.dumps(template) == before, "renderings are not sent along"
    twin = pickle.loads(before)
    assert twin.render(make_facts(NODE, secrets={"a": "b"})).resolve(NODE) == {"A": "b"}


def test_close_ends_a_rendering_that_is_under_way() -> None:
    renderer = Renderer(seconds=50)
    renderer.check(HEAD)
    started, outcome = threading.Event(), list[str]()
    loop = b"{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}\n"

    def work() -> None:
        started.set()
        try:
            render(renderer, loop)
        except LtsConfError as error:
            outcome.append(error.message)

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(30)
    pause = 0.1
    while thread.is_alive():  # it may not have begun to render when the first one comes
        renderer.close()
        thread.join(pause)
        pause *= 2  # a busy machine needs longer to begin anew
    assert len(outcome) == 1
    assert renderer._worker is None


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (b"A=1\nB={{ node.ip }}\n", [1, 2, 3, 4, 5]),
        (b"{% for i in [1, 2] -%}\nA_{{ i }}=x\n{% endfor %}\nB=1\n", [1, 2, 4, 4, 5, 6, 7]),
        (b"{% if node.mac -%}\n\n\nA=1\n{%- endif %}\nB=1\n", [1, 2, 6, 8, 9]),
        # A mark in it would change its length: what may become a value has none.
        (b"{% set x %}a\nb{% endset %}A={{ x | length }}\nB=1\n", [1, 2, 4, 5, 6]),
        (b"A={{ '\\n'.join([]) }}{# a\nb #}\nB=1\n", [1, 2, 3, 5, 6]),
    ],
)
def test_each_line_knows_the_templates(renderer: Renderer, body: bytes, lines: list[int]) -> None:
    text = renderer.render(HEAD + body, make_facts(NODE))
    assert text.lines is not None
    assert list(text.lines) == lines
    assert len(text.split(b"\n")) == len(lines)


def test_values_come_from_the_templates_lines(renderer: Renderer) -> None:
    body = b"{% for i in range(3) %}\nA_{{ i }} = x\n{% endfor %}\nB = {{ node.ip }}\n"
    conf = render(renderer, body)
    (setting,) = conf.trace(NODE)["B"]
    source, line, column = conf.document.locate(setting.entry.offset)
    assert (source.path, line, column, source.excerpt(line)) == (
        "lts.conf", 6, 1, "B = {{ node.ip }}"
    )  # fmt: skip
