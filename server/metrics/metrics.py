"""The counters behind `/metrics`, and the gauges that are read when it is asked for.

No label grows with the number of nodes: labels are phases, statuses, causes,
protocols, routes, kinds of problems, the store's images and the workers' numbers. Belongs to the
loop's thread.
"""

import itertools
import platform
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from imagebuild.store.images import Image
from server.diagnosis import FarmFacts
from server.events import Event
from server.metrics.causes import CAUSES, OTHER, cause_of
from server.metrics.findings import SEVERITIES, Findings
from server.metrics.rollouts import RolloutFacts, describe_rollout
from server.metrics.space import FILLS, Fullness
from server.metrics.tally import AT_REST, Tally, is_whole
from server.nodes.effects import STATUSES
from server.nodes.node import Boot, Node
from server.nodes.phases import ORDER, PHASES
from server.nodes.space import KINDS
from server.quantities import sort_naturally
from server.troubles import KINDS as TROUBLES
from server.troubles import Trouble

BOOT_SECONDS: Final = (15, 30, 45, 60, 90, 120, 180, 240, 300, 420, 600, 900, 1800, 3600)
PHASE_SECONDS: Final = (0.1, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1800)
PROTOCOLS: Final = ("tftp", "http", "nbd")
TRANSFER_STATUSES: Final = ("ok", "stop", "error")
ROUTES: Final = ("ltsp", "beacon", "join", "api", "page", "healthz", "metrics", OTHER)
CODES: Final = ("2xx", "3xx", "4xx", "5xx")
LABEL_NAMES: Final = 8
LABEL_VALUES: Final = 64
"""Labels of the inventory that are counted by, and values of one; the others are `other`."""


@dataclass(frozen=True)
class Present:
    """What is read at each scrape.

    connections: protocol to open connections. attached: digest to open NBD
    connections of it. loads: how often lts.conf was taken and refused.
    loaded_at: when it was last taken, seconds since the epoch, or None.
    workers: number to (process id, or None while it is being replaced). farm:
    what the diagnosis knows of it. states: machines by what they are in lists. places:
    machines by label's name, value, and state. troubles, rollout: what there are.
    """

    problems: Callable[[], int]
    images: Callable[[], Sequence[Image]]
    connections: Callable[[], Mapping[str, int]]
    attached: Callable[[], Mapping[str, int]]
    loads: Callable[[], Mapping[str, int]]
    loaded_at: Callable[[], float | None]
    is_refused: Callable[[], bool]
    workers: Callable[[], Mapping[int, int | None]]
    clock: Callable[[], float]
    farm: Callable[[], FarmFacts] = FarmFacts
    states: Callable[[], Mapping[str, int]] = dict
    places: Callable[[], Mapping[tuple[str, str, str], int]] = dict
    troubles: Callable[[], Sequence[Trouble]] = tuple
    rollout: Callable[[], RolloutFacts] = RolloutFacts


class Metrics:
    """Everything that `/metrics` says. Nodes.watch calls `change` for each node.

    findings: `advance` of it is to be called each second.
    """

    def __init__(self, present: Present, *, max_nodes: int) -> None:
        # The `_created` series double the number of series, and tell nothing here.
        # Debian 12's, in the container, has it as an environment variable only.
        if disable := getattr(prometheus_client, "disable_created_metrics", None):
            disable()
        self.registry = CollectorRegistry()
        self.tally = Tally(self._booted)
        self.findings = Findings(present.farm)
        self.fullness = Fullness()
        self._make_counters()
        self.registry.register(_Gauges(self, present, max_nodes))
        ProcessCollector(registry=self.registry)

    def _make_counters(self) -> None:
        registry = self.registry
        self._events = Counter(
            "bootfarm_events", "What the services told of.", ["source"], registry=registry
        )
        self._errors = Counter(
            "bootfarm_errors",
            "Errors by the service that saw them, and what was wrong.",
            ["source", "cause"],
            registry=registry,
        )
        self._beacons = Counter(
            "bootfarm_beacons",
            "What nodes said of their own boots.",
            ["phase", "status"],
            registry=registry,
        )
        self._sent = Counter(
            "bootfarm_sent_bytes", "Bytes of content sent.", ["protocol"], registry=registry
        )
        self._transfers = Counter(
            "bootfarm_transfers",
            "Transfers that ended; `stop`: the client had enough, which is no error.",
            ["protocol", "status"],
            registry=registry,
        )
        self._retransmissions = Counter(
            "bootfarm_tftp_retransmissions", "TFTP packets sent again.", registry=registry
        )
        self._reads = Counter("bootfarm_nbd_requests", "NBD requests answered.", registry=registry)
        self._attaches = Counter(
            "bootfarm_nbd_attaches", "NBD connections that opened an export.", registry=registry
        )
        self._requests = Counter(
            "bootfarm_http_requests",
            "HTTP requests answered.",
            ["route", "code"],
            registry=registry,
        )
        self._certificates = Counter(
            "bootfarm_join_certificates",
            "Certificates that the cluster signed for machines that join.",
            registry=registry,
        )
        self._boot_seconds = Histogram(
            "bootfarm_boot_duration_seconds",
            "From a boot's first sign to its being ready; observed once a boot.",
            buckets=BOOT_SECONDS,
            registry=registry,
        )
        self._phase_seconds = Histogram(
            "bootfarm_boot_phase_duration_seconds",
            "From a phase's first sign to the next one's, of boots that became ready.",
            ["phase"],
            buckets=PHASE_SECONDS,
            registry=registry,
        )
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        """Series that exist from the start: a rate is wrong where the first sample is missing."""
        for source, causes in CAUSES.items():
            self._events.labels(source)
            for cause in (*causes, OTHER):
                self._errors.labels(source, cause)
        for phase in PHASES:
            for status in STATUSES:
                self._beacons.labels(phase, status)
        for protocol in PROTOCOLS:
            self._sent.labels(protocol)
        for status in TRANSFER_STATUSES:
            for protocol in ("tftp", "http"):
                self._transfers.labels(protocol, status)
        for phase in PHASES:
            if phase not in AT_REST:
                self._phase_seconds.labels(phase)

    def seed(self, nodes: Iterable[Node]) -> None:
        """Take over the nodes that the server before this one kept."""
        found = [node for node in nodes if not node.played]
        self.tally.seed(found)
        for node in found:
            self.findings.change(node.key, node)
            self.fullness.change(node.key, None if node.maintenance else node)

    def change(self, key: str, node: Node | None) -> None:
        """A node may have changed; None: it was forgotten. Nodes that are played do not count."""
        node = None if node is not None and node.played else node
        self.tally.change(key, node)
        self.findings.change(key, node)
        self.fullness.change(key, None if node is not None and node.maintenance else node)

    def record(self, event: Event, node: Node | None = None) -> None:
        """Count an event, which is of a node or of none; no error of one that somebody works on."""
        source = event.source if event.source in CAUSES else OTHER
        self._events.labels(source).inc()
        detail = event.detail
        status = detail.get("status")
        if status == "error" and node is not None and node.maintenance:
            return
        if status == "error":
            self._errors.labels(*cause_of(event)).inc()
        if source == "nbd":
            self._count_nbd(event)
        elif source == "join":
            if "join_issued" in detail:
                self._certificates.inc()
        elif source == "beacon":
            if event.phase in ORDER and status in STATUSES:
                self._beacons.labels(event.phase, status).inc()
        elif source in ("tftp", "http") and status in TRANSFER_STATUSES and "bytes" in detail:
            self._transfers.labels(source, status).inc()
            self._sent.labels(source).inc(_number(detail["bytes"]))
            if source == "tftp":
                self._retransmissions.inc(_number(detail.get("retries", 0)))

    def _count_nbd(self, event: Event) -> None:
        if event.phase == "traffic":
            self._sent.labels("nbd").inc(_number(event.detail.get("bytes", 0)))
            self._reads.inc(_number(event.detail.get("requests", 0)))
        elif event.phase == "attach":
            self._attaches.inc()

    def count_request(self, path: str, status: int) -> None:
        """Count an HTTP request."""
        code = f"{status // 100}xx"
        self._requests.labels(route_of(path), code if code in CODES else OTHER).inc()

    def _booted(self, boot: Boot) -> None:
        if not is_whole(boot):
            return
        self._boot_seconds.observe(max(0.0, boot.phases["ready"].first - boot.started))
        times = sorted((phase.first, ORDER[name], name) for name, phase in boot.phases.items())
        for (begun, _, name), (ended, _, _) in itertools.pairwise(times):
            if name not in AT_REST:
                self._phase_seconds.labels(name).observe(ended - begun)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The text and its content type, in the format that `accept` wants."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


def bound_places(
    places: Mapping[tuple[str, str, str], int],
) -> Mapping[tuple[str, str, str], int]:
    """The same with at most LABEL_NAMES names, LABEL_VALUES values of each, and `other`."""
    values: dict[str, set[str]] = {}
    for name, value, _ in places:
        values.setdefault(name, set()).add(value)
    kept = {
        name: set(sorted(values[name], key=sort_naturally)[:LABEL_VALUES])
        for name in sorted(values)[:LABEL_NAMES]
    }
    counts: Counts[tuple[str, str, str]] = Counts()
    for (name, value, state), count in places.items():
        if name in kept:
            counts[name, value if value in kept[name] else OTHER, state] += count
    return counts


class _Gauges:
    """The gauges, read when /metrics is asked for."""

    def __init__(self, metrics: Metrics, present: Present, max_nodes: int) -> None:
        self._tally = metrics.tally
        self._findings = metrics.findings
        self._fullness = metrics.fullness
        self._present = present
        self._max_nodes = max_nodes

    def describe(self) -> Iterable[Metric]:
        """No names: the registry need not collect to learn them."""
        return []

    def collect(self) -> Iterable[Metric]:
        self._tally.advance(self._present.clock())
        yield InfoMetricFamily(
            "bootfarm_build",
            "This server.",
            {"version": _version(), "python": platform.python_version()},
        )
        yield from self._nodes()
        yield from self._diagnosis()
        yield from self._machines()
        yield from self._space()
        yield from self._images()
        yield from describe_rollout(self._present.rollout())
        yield from self._server()
        yield from self._workers()

    def _nodes(self) -> Iterable[Metric]:
        tally = self._tally
        nodes = GaugeMetricFamily(
            "bootfarm_nodes",
            'Nodes by the furthest phase of their boot and how it stands; phase "": not booted.',
            labels=["phase", "status"],
        )
        nodes.add_metric(["", ""], tally.nodes["", ""])
        for phase in PHASES:
            for status in STATUSES:
                nodes.add_metric([phase, status], tally.nodes[phase, status])
        yield nodes
        stalled = GaugeMetricFamily(
            "bootfarm_nodes_stalled",
            "Nodes whose boot has been in one phase for more than 10 minutes, less than a day, and"
            " that nobody works on.",
            labels=["phase"],
        )
        for phase in PHASES:
            if phase not in AT_REST:
                stalled.add_metric([phase], tally.stalled[phase])
        yield stalled
        yield GaugeMetricFamily(
            "bootfarm_nodes_limit", "Nodes that are remembered at most.", self._max_nodes
        )
        yield CounterMetricFamily("bootfarm_boots", "Boots that began.", tally.boots)

    def _diagnosis(self) -> Iterable[Metric]:
        present = GaugeMetricFamily(
            "bootfarm_nodes_with_finding",
            "Nodes by what is the matter with them (docs/diagnosis.md).",
            labels=["rule", "severity"],
        )
        found = CounterMetricFamily(
            "bootfarm_findings",
            "How many times a rule of the diagnosis came to hold for a node.",
            labels=["rule", "severity"],
        )
        for rule, severity in SEVERITIES.items():
            present.add_metric([rule, severity], self._findings.present[rule])
            found.add_metric([rule, severity], self._findings.found[rule])
        yield present
        yield found

    def _machines(self) -> Iterable[Metric]:
        states = GaugeMetricFamily(
            "bootfarm_machines",
            "Machines as the status page has them; unseen: of the inventory, never seen;"
            " maintenance: somebody works on them, whatever else they are.",
            labels=["state"],
        )
        for state, count in self._present.states().items():
            states.add_metric([state], count)
        yield states
        places = GaugeMetricFamily(
            "bootfarm_machines_by_label",
            "Machines by the inventory's labels, the first of them by name and by value; the"
            ' other values are "other".',
            labels=["label", "value", "state"],
        )
        for labels, count in bound_places(self._present.places()).items():
            places.add_metric(list(labels), count)
        yield places

    def _space(self) -> Iterable[Metric]:
        fills = GaugeMetricFamily(
            "bootfarm_nodes_by_fill",
            "Nodes by how full, in percent, the fullest of their file systems of a kind is.",
            labels=["kind", "fill"],
        )
        fullest = GaugeMetricFamily(
            "bootfarm_fullest_ratio",
            "How full the fullest file system of a kind is, of all nodes.",
            labels=["kind"],
        )
        for kind in KINDS:
            for fill in FILLS:
                fills.add_metric([kind, fill], self._fullness.fills[kind, fill])
            fullest.add_metric([kind], self._fullness.fullest(kind) / 100)
        yield fills
        yield fullest

    def _images(self) -> Iterable[Metric]:
        images = self._present.images()
        booted = GaugeMetricFamily(
            "bootfarm_nodes_by_image",
            'Nodes by the image of their last boot; "other": it is not in the store any more.',
            labels=["image", "digest"],
        )
        attached = GaugeMetricFamily(
            "bootfarm_nbd_attached",
            "Open NBD connections by image.",
            labels=["image", "digest"],
        )
        size = GaugeMetricFamily(
            "bootfarm_image_size_bytes", "Images in the store.", labels=["image", "digest"]
        )
        tags = GaugeMetricFamily(
            "bootfarm_image_tag",
            "1 for each tag of each image in the store.",
            labels=["image", "tag", "digest"],
        )
        counts, open_now = self._tally.images.copy(), dict(self._present.attached())
        for image in images:
            labels = [image.name, image.digest]
            booted.add_metric(labels, counts.pop((image.name, image.digest), 0))
            attached.add_metric(labels, open_now.pop(image.digest, 0))
            size.add_metric(labels, image.size)
            for tag in image.tags:
                tags.add_metric([image.name, tag, image.digest], 1)
        booted.add_metric([OTHER, OTHER], sum(counts.values()))
        attached.add_metric([OTHER, OTHER], sum(open_now.values()))
        yield booted
        yield attached
        yield size
        yield tags
        yield GaugeMetricFamily("bootfarm_images", "Images in the store.", len(images))

    def _server(self) -> Iterable[Metric]:
        present = self._present
        problems = present.problems()
        yield GaugeMetricFamily("bootfarm_degraded", "1 while /healthz says so.", int(problems > 0))
        yield GaugeMetricFamily("bootfarm_problems", "Lines of /healthz's problems.", problems)
        yield from self._troubles()
        connections = GaugeMetricFamily(
            "bootfarm_connections", "Open connections.", labels=["protocol"]
        )
        for protocol, count in present.connections().items():
            connections.add_metric([protocol], count)
        yield connections
        loads = CounterMetricFamily(
            "bootfarm_ltsconf_loads", "Texts of lts.conf that were read.", labels=["result"]
        )
        for result, count in present.loads().items():
            loads.add_metric([result], count)
        yield loads
        yield GaugeMetricFamily(
            "bootfarm_ltsconf_refused",
            "1 while lts.conf is wrong and the last good text stays in force.",
            int(present.is_refused()),
        )
        loaded_at = present.loaded_at()
        if loaded_at is not None:
            yield GaugeMetricFamily(
                "bootfarm_ltsconf_load_timestamp_seconds",
                "When the lts.conf in force was read.",
                loaded_at,
            )

    def _troubles(self) -> Iterable[Metric]:
        troubles = self._present.troubles()
        yield GaugeMetricFamily(
            "bootfarm_failing",
            "1 while no machine at all can boot.",
            int(any(trouble.stops for trouble in troubles)),
        )
        kinds = GaugeMetricFamily(
            "bootfarm_problems_by_kind",
            "Lines of /healthz's problems by what they are about.",
            labels=["kind"],
        )
        counts = Counts(trouble.kind for trouble in troubles)
        for kind in TROUBLES:
            kinds.add_metric([kind], counts[kind])
        yield kinds

    def _workers(self) -> Iterable[Metric]:
        up = GaugeMetricFamily(
            "bootfarm_worker_up", "1 for each worker process that runs.", labels=["worker"]
        )
        cpu = CounterMetricFamily(
            "bootfarm_worker_cpu_seconds", "CPU time of the workers.", labels=["worker"]
        )
        memory = GaugeMetricFamily(
            "bootfarm_worker_resident_memory_bytes", "Memory of the workers.", labels=["worker"]
        )
        for number, pid in self._present.workers().items():
            up.add_metric([str(number)], int(pid is not None))
            for metric in _process(pid):
                if metric.name == "process_cpu_seconds":
                    cpu.add_metric([str(number)], metric.samples[0].value)
                elif metric.name == "process_resident_memory_bytes":
                    memory.add_metric([str(number)], metric.samples[0].value)
        yield up
        yield cpu
        yield memory


def route_of(path: str) -> str:
    """Which part of the server a path asks for: one of ROUTES."""
    if path == "/":
        return "page"
    first = path.lstrip("/").partition("/")[0]
    if first in ("node", "nodes"):
        return "page"
    return first if first in ROUTES else OTHER


def _process(pid: int | None) -> Iterable[Metric]:
    if pid is None:
        return ()
    return ProcessCollector(pid=lambda: pid, registry=None).collect()


def _number(value: object) -> float:
    """What a counter may be raised by; an odd value in an event cannot break it."""
    return max(0.0, float(value)) if isinstance(value, int | float) else 0.0


def _version() -> str:
    try:
        return version("bootfarm")
    except PackageNotFoundError:
        return "unknown"
