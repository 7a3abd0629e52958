"""How full nodes' file systems are, as /metrics counts it."""

import random

from server.events import Event
from server.metrics.metrics import Metrics
from server.nodes.timelines import Nodes
from tests.server.metrics.scrape import scrape
from tests.server.metrics.test_metrics import present


class Farm:
    def __init__(self) -> None:
        self.nodes = Nodes(limit=50)
        self.metrics = Metrics(present(), max_nodes=50)
        self.nodes.watch(self.metrics.change)
        self.now = 0.0

    def say(self, number: int, phase: str, space: str = "", boot: str = "one") -> None:
        self.now += 1
        mac = f"52:54:00:00:00:{number:02x}"
        detail = {"status": "ok", "boot": boot} | ({"space": space} if space else {})
        event = Event(self.now, mac, "beacon", phase, detail)
        self.metrics.record(event)
        self.nodes.record(event)

    def fills(self, kind: str) -> dict[str, float | None]:
        seen = scrape(self.metrics)
        fills = ("0-50", "50-80", "80-95", "95-100")
        return {fill: seen.get("bootfarm_nodes_by_fill", kind=kind, fill=fill) for fill in fills}

    def fullest(self, kind: str) -> float | None:
        return scrape(self.metrics).get("bootfarm_fullest_ratio", kind=kind)


def test_nodes_are_counted_by_the_fullest_of_a_kind() -> None:
    farm = Farm()
    farm.say(1, "ready")
    farm.say(1, "space", "/:49:0:650 /srv/a:80:0:9 /srv/b:3:95:9")
    farm.say(2, "ready")
    farm.say(2, "space", "/:50:0:650")
    assert farm.fills("overlay") == {"0-50": 1, "50-80": 1, "80-95": 0, "95-100": 0}
    assert farm.fills("disk") == {"0-50": 0, "50-80": 0, "80-95": 0, "95-100": 1}
    assert farm.fills("containers") == dict.fromkeys(("0-50", "50-80", "80-95", "95-100"), 0)
    assert (farm.fullest("overlay"), farm.fullest("disk"), farm.fullest("run")) == (0.5, 0.95, 0)


def test_who_shuts_down_boots_anew_or_is_forgotten_is_counted_no_more() -> None:
    farm = Farm()
    for number in range(50):
        farm.say(number, "ready")
        farm.say(number, "space", "/:90:0:650")
    assert farm.fills("overlay")["80-95"] == 50
    farm.say(0, "shutdown")
    farm.say(1, "initramfs", boot="two")
    assert farm.fills("overlay")["80-95"] == 48
    for number in range(100, 150):
        farm.say(number, "ready")
    assert set(farm.fills("overlay").values()) == {0}
    assert farm.fullest("overlay") == 0


def test_what_is_counted_as_it_changes_is_what_there_is() -> None:
    farm = Farm()
    seed = random.Random(7)
    for _ in range(600):
        number = seed.randrange(70)
        farm.say(number, seed.choice(["ready", "shutdown", "space"]))
        farm.say(number, "space", f"/:{seed.randrange(101)}:0:650")
    fresh = Metrics(present(), max_nodes=50)
    fresh.seed(farm.nodes.nodes())
    names = ("bootfarm_nodes_by_fill", "bootfarm_fullest_ratio")
    for name in names:
        one, two = (scrape(metrics).families[name].samples for metrics in (farm.metrics, fresh))
        assert sorted(map(str, one)) == sorted(map(str, two))


def test_the_number_of_series_does_not_grow_with_nodes() -> None:
    def series(farm: Farm) -> int:
        return sum(len(family.samples) for family in scrape(farm.metrics).families.values())

    few, many = Farm(), Farm()
    for farm, count in ((few, 1), (many, 40)):
        for number in range(count):
            farm.say(number, "ready")
            farm.say(number, "space", f"/:{number}:0:650 /srv/{number}:{number}:0:9")
    assert series(few) == series(many)
