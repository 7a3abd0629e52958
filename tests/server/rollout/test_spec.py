import pytest

from server.rollout.spec import Spec, SpecError, is_selected, parse_spec

THURSDAY = 0.0
HOUR, DAY = 3600.0, 86_400.0


def test_texts_of_a_query_and_values_of_yaml_are_the_same() -> None:
    query = parse_spec(
        {
            "image": "amd64:candidate",
            "select": "rack=r1,r2;node-*",
            "waves": "1,5%,100%",
            "max_unavailable": "2",
            "failures": "3",
            "tag": "",
        }
    )
    yaml = parse_spec(
        {
            "image": "amd64:candidate",
            "select": ["rack=r1,r2", "node-*"],
            "waves": [1, "5%", "100%"],
            "max_unavailable": 2,
            "failures": 3,
            "tag": "",
        }
    )
    assert query == yaml
    assert query.select == ("rack=r1,r2", "node-*")
    assert query.tag == ""
    assert parse_spec(query.to_json()) == query


def test_defaults() -> None:
    assert parse_spec({"image": "amd64"}) == Spec("amd64")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "image: '' names no image"),
        ({"image": "a b"}, "image: 'a b' names no image"),
        ({"image": "a", "wave": "1"}, "has no key 'wave'"),
        ({"image": "a", "waves": "5%,5%,100%"}, "5% is no more than the wave before it"),
        ({"image": "a", "waves": "1,50%"}, "the last one is not 100%"),
        ({"image": "a", "waves": "0,100%"}, "'0' is no size of a wave"),
        ({"image": "a", "waves": "101%"}, "'101%' is no size"),
        ({"image": "a", "waves": [None]}, "holds more than texts"),
        ({"image": "a", "max_unavailable": "none"}, "'none' is no amount"),
        ({"image": "a", "max_unavailable": True}, "'True' is no text"),
        ({"image": "a", "window": "tonight"}, "'tonight' is no time"),
        ({"image": "a", "window": "22:00-22:00"}, "is no time"),
        ({"image": "a", "window": "mon-fry 22:00-23:00"}, "is no time"),
        ({"image": "a", "window": "29:00-23:00"}, "is no time"),
        ({"image": "a", "select": "rack="}, "'rack=' is no label"),
        ({"image": "a", "select": "k8s:=x"}, "is no label"),
        ({"image": "a", "tag": "a b"}, "'a b' is no tag"),
        ({"image": "a", "failures": "0"}, "failures: 0 is out of bounds"),
        ({"image": "a", "failures": "-1"}, "'-1' is no number"),
        ({"image": "a", "boot_seconds": True}, "is no number"),
        ({"image": "a", "on_failure": "shrug"}, "'shrug' is not known"),
        ({"image": "a", "reboot": "kexec"}, "'kexec' is not known"),
    ],
)
def test_what_is_no_rollout(given: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError) as raised:
        parse_spec(given)
    assert words in raised.value.message
    assert raised.value.hint


@pytest.mark.parametrize(
    ("waves", "members", "sizes"),
    [
        ("1,5%,25%,100%", 100, (1, 5, 25, 100)),
        ("1,5%,25%,100%", 3, (1, 3)),
        ("1,5%,25%,100%", 1, (1,)),
        ("10%,100%", 11, (2, 11)),
        ("5,100%", 3, (3,)),
        ("100%", 7, (7,)),
    ],
)
def test_sizes_of_waves(waves: str, members: int, sizes: tuple[int, ...]) -> None:
    assert parse_spec({"image": "a", "waves": waves}).sizes(members) == sizes


@pytest.mark.parametrize(
    ("window", "when", "is_open"),
    [
        ("", THURSDAY, True),
        ("22:00-23:00", THURSDAY + 22 * HOUR, True),
        ("22:00-23:00", THURSDAY + 23 * HOUR, False),
        ("thu 22:00-05:00", THURSDAY + 23 * HOUR, True),
        ("thu 22:00-05:00", THURSDAY + DAY + 4 * HOUR, True),  # it began on Thursday
        ("thu 22:00-05:00", THURSDAY + 4 * HOUR, False),
        ("thu 22:00-05:00", THURSDAY + DAY + 22 * HOUR, False),
        ("fri-mon 10:00-11:00", THURSDAY + 4 * DAY + 10 * HOUR, True),
        ("fri-mon 10:00-11:00", THURSDAY + 5 * DAY + 10 * HOUR, False),
        ("MON-FRI 00:00-24:00", THURSDAY + DAY + 23.99 * HOUR, True),
        ("MON-FRI 00:00-24:00", THURSDAY + 2 * DAY, False),
    ],
)
def test_windows(window: str, when: float, is_open: bool) -> None:
    assert parse_spec({"image": "a", "window": window}).is_open(when) is is_open


@pytest.mark.parametrize(
    ("select", "fits"),
    [
        ("", True),
        ("rack=r1", True),
        ("rack=r2,r1", True),
        ("rack=r2", False),
        ("rack=r1;site=x", False),
        ("k8s:zone=a", True),
        ("k8s:zone=b", False),
        ("Node-7", True),
        ("node-*", True),
        ("52:54:00:00:00:07", True),
        ("node-8;node-9", False),
        ("node-8;node-7", True),
        ("rack=r1;node-8", False),
    ],
)
def test_select(select: str, fits: bool) -> None:
    spec = parse_spec({"image": "a", "select": select})
    found = is_selected(
        spec,
        mac="52:54:00:00:00:07",
        name="node-7",
        labels={"rack": "r1"},
        node_labels={"zone": "a"},
    )
    assert found is fits


def test_labels_of_a_node_that_the_cluster_has_not() -> None:
    spec = parse_spec({"image": "a", "select": "k8s:zone=a"})
    assert not is_selected(spec, mac="m", name="n", labels={}, node_labels=None)
