"""`/metrics` as Prometheus' own parser reads it."""

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text

from server.metrics.metrics import Metrics

OPEN = "application/openmetrics-text; version=1.0.0"


class Scrape:
    """The samples of one scrape."""

    def __init__(self, text: bytes, *, openmetrics: bool = False) -> None:
        parse = parse_open if openmetrics else parse_text
        self.families: dict[str, Metric] = {family.name: family for family in parse(text.decode())}
        self.samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for sample in self._samples():
            key = (sample[0], frozenset(sample[1].items()))
            assert key not in self.samples, f"{key} stands there twice"
            self.samples[key] = sample[2]

    def _samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        for family in self.families.values():
            for sample in family.samples:
                yield sample.name, sample.labels, sample.value

    def get(self, name: str, **labels: str) -> float | None:
        """A sample; None where there is none."""
        return self.samples.get((name, frozenset(labels.items())))

    def names(self) -> set[str]:
        """The names of all samples."""
        return {name for name, _ in self.samples}


def scrape(metrics: Metrics) -> Scrape:
    """What Prometheus' text format says."""
    return Scrape(metrics.render()[0])
