import ast
from pathlib import Path

import pytest

from server.events import Event
from server.metrics.causes import CAUSES, OTHER, cause_of

SERVER = Path(__file__).parents[3] / "server"
# The files in which a cause may be given, by the source of their events.
PLACES = {
    "tftp": ["services/tftp*.py", "protocols/tftp*.py"],
    "http": ["services/http*.py"],
    "nbd": ["services/nbd*.py"],
    "dhcp": ["services/dhcp*.py", "protocols/dhcp*.py", "boot/plan.py", "site.py"],
    "workers": ["services/workers.py"],
    "join": ["join/*.py", "web/join*.py"],
}


def words_of(path: Path) -> set[str]:
    """Every string of a module that is one."""
    return {
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


@pytest.mark.parametrize("source", PLACES)
def test_the_services_give_each_cause_of_theirs(source: str) -> None:
    places = [path for place in PLACES[source] for path in SERVER.glob(place)]
    said = set().union(*map(words_of, places))
    assert set(CAUSES[source]) <= said


def test_errors_of_nodes_have_their_phase() -> None:
    assert cause_of(Event(0.0, "10.9.0.1", "beacon", "join", {"cause": "x"})) == ("beacon", "join")
    assert cause_of(Event(0.0, "10.9.0.1", "plan", "menu", {})) == ("plan", "menu")


def test_what_is_not_known_grows_nothing() -> None:
    assert cause_of(Event(0.0, "", "tftp", "transfer", {"cause": "10.9.0.1"})) == ("tftp", OTHER)
    assert cause_of(Event(0.0, "", "tftp", "transfer", {})) == ("tftp", OTHER)
    assert cause_of(Event(0.0, "", "beacon", "lunch", {})) == ("beacon", OTHER)
    assert cause_of(Event(0.0, "", "something", "x", {})) == (OTHER, OTHER)
