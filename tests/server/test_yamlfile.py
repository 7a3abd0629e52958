import pytest

from server.yamlfile import (
    MAX_TOLD,
    Faults,
    FaultsError,
    Section,
    Source,
    YamlError,
    describe,
    locate,
    parse_yaml,
)


def test_aliases_are_refused_with_their_line() -> None:
    with pytest.raises(YamlError, match=r"farm\.yaml:2:4: aliases"):
        parse_yaml("a: &a [x]\nb: *a\n", "farm.yaml")


def test_a_number_with_a_point_is_text_as_it_was_written() -> None:
    section = Section(parse_yaml("a: 1.30\nb: 1.30\nc: [2.0, 10.10]\n", "f"), "f")
    assert section.text("a") == "1.30"
    assert section.number("b", 0.0, 0.0, 9.0) == 1.3
    assert [str(item) for item in section.items("c")] == ["2.0", "10.10"]
    assert describe(parse_yaml("1.30", "f")) == "float 1.30"


def test_lines_of_keys() -> None:
    text = b"a:\n  b:\n  - 1\n  - c: 2\n    d.e: 3\n"
    source = Source("f.yaml", text)
    lines = {path: source.line(path) for path in ("a.b", "a.b[1]", "a.b[1].d.e", "a.x.y[2]", "z")}
    assert lines == {"a.b": 2, "a.b[1]": 4, "a.b[1].d.e": 5, "a.x.y[2]": 1, "z": 1}
    assert locate(source, "a.b") == "f.yaml:2: a.b"
    assert locate(source, "") == "f.yaml:1"
    assert locate("f.yaml", "a.b") == "f.yaml: a.b"
    assert Source("f.yaml", b"a: [").line("a") is None
    assert source == "f.yaml"


def test_a_tab_is_called_a_tab() -> None:
    with pytest.raises(YamlError, match=r"^f\.yaml:2:1: a tab") as caught:
        parse_yaml("a:\n\tb: 1\n", "f.yaml")
    assert "spaces" in caught.value.hint


def test_many_faults_are_cut_short_in_a_log() -> None:
    faults = Faults()
    for number in range(MAX_TOLD + 2):
        faults.add("f", str(number), YamlError(f"f: {number}", hint="none"))
    with pytest.raises(FaultsError) as caught:
        faults.check()
    assert caught.value.one_line().endswith("| and 2 more")
    assert caught.value.format_message().count("hint: none") == MAX_TOLD + 2


def test_a_key_of_others_is_shown_harmless() -> None:
    shown = locate("x.yaml", "a\x1b[31m\n" + "b" * 1000)
    assert shown.isprintable()
    assert len(shown) < 300
