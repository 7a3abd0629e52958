import re
from pathlib import Path

from server.metrics.metrics import Metrics
from tests.server.metrics.scrape import scrape
from tests.server.metrics.test_metrics import present

PAGE = Path(__file__).parents[3] / "docs/monitoring.md"


def test_the_page_names_every_metric_and_no_other() -> None:
    table = PAGE.read_text().partition("## Metrics")[2].partition("\n## ")[0]
    written = set(re.findall(r"`(bootfarm_\w+)`", table))
    families = scrape(Metrics(present(), max_nodes=1)).families
    there = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in families.values()
        if family.name.startswith("bootfarm_")
    }
    assert written == there
