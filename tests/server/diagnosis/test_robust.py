"""Whatever events come, in whatever order: a finding or none, bounded, and never an exception."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from server.causes import CAUSES
from server.diagnosis import RULES, FarmFacts, diagnose
from server.events import Event
from server.nodes.phases import PHASES
from server.nodes.timelines import Nodes
from tests.server.diagnosis.story import BIOS, DIGEST, MAC, UEFI
from tests.server.diagnosis.test_rules import STORIES

WORDS = (
    *("start", "ok", "stop", "error", "discover", "request", BIOS, UEFI, DIGEST),
    *("IMAGE 'x'", "no root: (refused)", "token refused", "[ERROR X]: y", "{0}{a.b}%s", ""),
    *("RCFILE_1: exit 1", "try 1: x; again in 5 s", "x509", "EPERM", "ENOWHERE", "errorcode"),
    *sorted({cause for causes in CAUSES.values() for cause in causes}),
    *(f"/ltsp/amd64/@{DIGEST}/{file}" for file in ("vmlinuz", "initrd.img", "grub/grub.cfg")),
)
KEYS = (
    *("status", "detail", "message", "path", "file", "export", "digest", "boot", "request"),
    *("firmware", "architecture", "loader", "answered", "oack", "asked", "retries", "bytes"),
    *("size", "seconds", "options", "address", "memory", "panic", "dhcp_server"),
    *("cause", "errno", "cards", "ram_image", "ram_free", "rcfile", "exit", "last"),
)
VALUES = st.one_of(
    st.sampled_from(WORDS),
    st.text(max_size=20),
    st.integers(-10, 1 << 70),
    st.booleans(),
    st.floats(),
)
USUAL: tuple[dict[str, str | int | float | bool], ...] = (
    {},
    {"status": "error", "path": BIOS, "answered": False},
    {"status": "error", "path": BIOS, "size": 5},
    {"status": "ok", "path": UEFI},
)
DETAILS = st.builds(
    lambda usual, more: {**usual, **more},
    st.sampled_from(USUAL),
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=8),
)
EVENTS = st.tuples(
    st.floats(0, 5000),
    st.sampled_from(("tftp", "http", "nbd", "dhcp", "beacon", "plan", "netconsole")),
    st.sampled_from((*PHASES, "transfer", "attach", "detach", "error")),
    DETAILS,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENTS, max_size=12), st.floats(-1e9, 1e12), st.sampled_from(("off", "proxy")))
def test_any_events(
    events: list[tuple[float, str, str, dict[str, str | int | float | bool]]],
    now: float,
    dhcp: str,
) -> None:
    nodes = Nodes()
    farm = FarmFacts(dhcp=dhcp)
    for time, source, phase, detail in events:
        node = nodes.record(Event(time, MAC, source, phase, detail))
        assert node is not None
        for moment in (time, now):
            found = diagnose(node, moment, farm)
            if found is not None:
                text = json.dumps(found.to_json())
                assert len(text) < 10_000
                assert found.rule in {rule.id for rule in RULES}
                assert found.phase in PHASES


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(sorted(STORIES)), min_size=1, max_size=3), st.data())
def test_a_story_cut_anywhere_is_judged(names: list[str], data: st.DataObject) -> None:
    """Also after a restart, when only what was written down is left."""
    for name in names:
        story = STORIES[name][0]()
        entries = list(story.node.events)
        nodes = Nodes()
        for entry in entries[: data.draw(st.integers(0, len(entries)))]:
            what = str(entry.get("what", entry["phase"]))
            node = nodes.record(Event(entry["time"], MAC, entry["source"], what, entry["detail"]))
            assert node is not None
            diagnose(node, entry["time"] + 1000, story.farm)
