"""The flat text: what is rendered is what is parsed, and the order is LTSP 5's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.ltsconf import (
    LtsConf,
    LtsConfError,
    NodeId,
    is_flat_key,
    parse_flat,
    render_flat,
    sort_numbered,
)

keys = st.from_regex(r"\A[A-Z_][A-Z0-9_]{0,12}\Z")
# What an lts.conf can give: bytes but newline and NUL, as text.
values = st.binary(max_size=40).map(
    lambda raw: raw.replace(b"\n", b"").replace(b"\0", b"").decode("utf-8", "surrogateescape")
)


@given(st.dictionaries(keys, values, max_size=12))
def test_round_trip(settings: dict[str, str]) -> None:
    text = render_flat(settings)
    assert parse_flat(text) == settings
    encoded = text.encode("utf-8", "surrogateescape")
    assert parse_flat(encoded.decode("utf-8", "surrogateescape")) == settings


@given(st.dictionaries(keys, values, max_size=12))
def test_the_text_is_in_the_order_of_the_steps(settings: dict[str, str]) -> None:
    parsed = parse_flat(render_flat(settings))
    for prefix in ("RCFILE_", "A", ""):
        ordered = [item for item in parsed.items() if item[0].startswith(prefix)]
        assert ordered == sort_numbered(settings, prefix)


def quotable(value: str) -> bool:
    return '"' not in value and value.upper() != "NONE"


@given(
    st.dictionaries(
        keys.filter(lambda key: key not in ("LIKE", "INCLUDE")),
        values.filter(quotable),
        max_size=12,
    )
)
def test_what_is_written_in_quotes_resolves_to_itself(settings: dict[str, str]) -> None:
    lines = "".join(f'{key} = "{value}"\n' for key, value in settings.items())
    text = ("[default]\nX__=1\n" + lines).encode("utf-8", "surrogateescape")
    assert LtsConf.parse(text).resolve(NodeId()) == {"X__": "1", **settings}


def test_the_format() -> None:
    assert render_flat({"B": 'say "hi"', "A": "", "RCFILE_10": "b", "RCFILE_2": "a"}) == (
        '# bootfarm lts.conf\nA=""\nB="say "hi""\nRCFILE_2="a"\nRCFILE_10="b"\n# end\n'
    )


def test_keys_that_are_no_variable_names_are_left_out() -> None:
    assert parse_flat(render_flat({"MY KEY": "1", "0": "2", "//OLD": "3", "ä": "4", "A": "5"})) == {
        "A": "5"
    }
    assert not is_flat_key("")
    assert not is_flat_key("A\n")


@pytest.mark.parametrize("value", ["a\nb", "a\0b"])
def test_a_value_is_one_line(value: str) -> None:
    with pytest.raises(LtsConfError, match="newline or a NUL"):
        render_flat({"A": value})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "begins with"),
        ('# bootfarm lts.conf\nA="1"\n', "was cut"),
        ('# bootfarm lts.conf\nA="1"\n# end', "was cut"),
        ('# bootfarm lts.conf\nA="1\n# end\n', "not KEY"),
        ("# bootfarm lts.conf\nA=1\n# end\n", "not KEY"),
        ('# bootfarm lts.conf\na="1"\n# end\n', "not KEY"),
        ('# bootfarm lts.conf\nA="1"\nA="2"\n# end\n', "twice"),
    ],
)
def test_anything_else_is_refused(text: str, says: str) -> None:
    with pytest.raises(LtsConfError, match=says):
        parse_flat(text)
