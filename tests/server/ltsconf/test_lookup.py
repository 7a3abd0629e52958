"""The resolver against the original's algorithm, written down literally."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.ltsconf import LtsConf, LtsConfError, NodeId
from server.ltsconf.glob import match_glob

Sections = Sequence[tuple[str, Sequence[tuple[str, str]]]]
TOO_LONG = 3000


class EndlessError(Exception):
    pass


def resolve_literally(sections: Sections, ids: Sequence[str]) -> dict[str, str]:
    """A chain with repetitions, walked from its end: as LTSP 5 does it."""
    chain: list[int] = []

    def find(name: str, *, glob: bool) -> bool:
        for number, (section, _) in enumerate(sections):
            same = section.lower() == name.lower()
            if (glob and not same and match_glob(section.encode(), name.encode())) or (
                not glob and same
            ):
                chain.append(number)
                return True
        return False

    def follow() -> None:
        at = 0
        while at < len(chain):
            if len(chain) > TOO_LONG:
                raise EndlessError
            for key, value in sections[chain[at]][1]:
                if key == "LIKE":
                    find(value, glob=False)
            at += 1

    for one in ids:
        if find(one, glob=False):
            break
    follow()
    for one in ids:
        if find(one, glob=True):
            follow()
    find("default", glob=False)
    values: dict[str, str] = {}
    for number in reversed(chain):
        for key, value in sections[number][1]:
            if key != "LIKE":
                values[key] = value
    return {key: value for key, value in values.items() if value != "NONE"}


def write(sections: Sections) -> bytes:
    return "".join(
        f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in lines)
        for name, lines in sections
    ).encode()


NAMES = ["pc7", "10.9.0.7", "02:aa", "default", "a", "b", "c", "d"]
GLOBS = ["pc*", "*", "10.9.*", "02:*", "p??", "A"]
# Each a single draw: half of the time of the test would go into composing them.
lines = st.sampled_from(
    [("LIKE", name) for name in NAMES] * 2
    + [(key, value) for key in ("K1", "K2", "K3", "K4") for value in ("1", "2", "3", "NONE")]
)
headers = st.sampled_from([*NAMES * 3, *GLOBS * 4])
documents = st.lists(st.tuples(headers, st.lists(lines, min_size=1, max_size=5)), max_size=9)


@settings(max_examples=1500, deadline=None)
@given(documents)
def test_values_and_their_order(sections: Sections) -> None:
    conf = LtsConf.parse(write(sections))
    node = NodeId("pc7", "10.9.0.7", "02:aa")
    try:
        expected = resolve_literally(sections, ["pc7", "10.9.0.7", "02:aa"])
    except EndlessError:
        with pytest.raises(LtsConfError, match="cycle"):
            conf.resolve(node)
        return
    assert list(conf.resolve(node).items()) == list(expected.items())


def test_defaults_are_the_lowest_layer_and_none_unsets_them_too() -> None:
    conf = LtsConf.parse(b"[default]\nA=1\nB=none\n")
    defaults = {"A": "0", "B": "0", "C": "0"}
    assert conf.resolve(NodeId(), defaults) == {"A": "1", "C": "0"}


def test_a_cycle_names_its_sections_and_a_place() -> None:
    conf = LtsConf.parse(b"[pc7]\nLIKE=a\n[a]\nLIKE=b\n[b]\nLIKE=A\n")
    with pytest.raises(LtsConfError, match=r"(a -> b -> a|b -> a -> b)") as caught:
        conf.resolve(NodeId("pc7"))
    assert caught.value.line in (3, 5)
    assert conf.resolve(NodeId("pc8")) == {}


def test_empty_ids_match_as_the_original_has_it_for_a_node_without_address() -> None:
    conf = LtsConf.parse(b"[pc*]\nA=1\n[*]\nB=1\n")
    assert conf.resolve(NodeId("pc8")) == {"A": "1"}
    assert conf.resolve(NodeId("pc8", "", "")) == {"B": "1", "A": "1"}
