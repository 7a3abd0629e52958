import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType

import pytest

from imagebuild.store.images import Image
from server.events import Event
from server.metrics.metrics import (
    LABEL_VALUES,
    PHASE_SECONDS,
    Metrics,
    Present,
    bound_places,
    route_of,
)
from server.nodes.phases import PHASES
from server.nodes.timelines import Nodes
from server.observe.marks import ALL_STATES
from tests.server.farm import publish
from tests.server.metrics.scrape import OPEN, Scrape, scrape


def present(images: tuple[Image, ...] = ()) -> Present:
    return Present(
        problems=lambda: 0,
        images=lambda: images,
        connections=lambda: {"http": 2, "nbd": 3},
        attached=lambda: {},
        loads=lambda: {"ok": 4, "refused": 1},
        loaded_at=lambda: 1700000000.0,
        is_refused=lambda: True,
        workers=lambda: {},
        clock=lambda: 0.0,
        states=lambda: dict.fromkeys(ALL_STATES, 1),
    )


def tftp(status: str, **detail: str | int) -> Event:
    return Event(0.0, "10.9.0.1", "tftp", "transfer", {"path": "/x", "status": status, **detail})


def test_bytes_transfers_and_errors() -> None:
    metrics = Metrics(present(), max_nodes=100)
    metrics.record(tftp("start", bytes=0, retries=0))
    metrics.record(tftp("ok", bytes=1000, retries=2))
    metrics.record(tftp("error", bytes=300, retries=7, cause="timeout"))
    metrics.record(tftp("error", cause="not_found"))
    detail: Mapping[str, str | int] = {"file": "/x", "status": "ok", "bytes": 7}
    metrics.record(Event(0.0, "10.9.0.1", "http", "transfer", detail))
    metrics.record(Event(0.0, "10.9.0.1", "nbd", "attach", {"bytes": 0}))
    metrics.record(Event(0.0, "", "nbd", "traffic", {"bytes": 4096, "requests": 3}))
    metrics.record(Event(0.0, "10.9.0.1", "nbd", "detach", {"bytes": 4096}))
    seen = scrape(metrics)
    assert seen.get("bootfarm_sent_bytes_total", protocol="tftp") == 1300
    assert seen.get("bootfarm_sent_bytes_total", protocol="http") == 7
    assert seen.get("bootfarm_sent_bytes_total", protocol="nbd") == 4096
    assert seen.get("bootfarm_nbd_requests_total") == 3
    assert seen.get("bootfarm_nbd_attaches_total") == 1
    assert seen.get("bootfarm_transfers_total", protocol="tftp", status="ok") == 1
    assert seen.get("bootfarm_transfers_total", protocol="tftp", status="error") == 1
    assert seen.get("bootfarm_tftp_retransmissions_total") == 9
    assert seen.get("bootfarm_errors_total", source="tftp", cause="timeout") == 1
    assert seen.get("bootfarm_errors_total", source="tftp", cause="not_found") == 1
    assert seen.get("bootfarm_errors_total", source="tftp", cause="limit") == 0
    assert seen.get("bootfarm_events_total", source="nbd") == 3


def test_boots() -> None:
    metrics = Metrics(present(), max_nodes=100)
    nodes = Nodes()
    nodes.watch(metrics.change)
    for time, phase in ((0.0, "initramfs"), (4.0, "root"), (10.0, "systemd"), (50.0, "ready")):
        event = Event(time, "10.9.0.1", "beacon", phase, {"status": "ok", "boot": "a"})
        metrics.record(event)
        nodes.record(event)
    late = Event(60.0, "10.9.0.2", "beacon", "ready", {"status": "ok", "boot": "b"})
    nodes.record(late)  # the server was not there when it booted
    seen = scrape(metrics)
    assert seen.get("bootfarm_boots_total") == 2
    assert seen.get("bootfarm_nodes", phase="ready", status="ok") == 2
    assert seen.get("bootfarm_boot_duration_seconds_count") == 1
    assert seen.get("bootfarm_boot_duration_seconds_sum") == 50.0
    assert seen.get("bootfarm_boot_duration_seconds_bucket", le="45.0") == 0
    assert seen.get("bootfarm_boot_duration_seconds_bucket", le="60.0") == 1
    name = "bootfarm_boot_phase_duration_seconds_sum"
    assert [seen.get(name, phase=phase) for phase in ("initramfs", "root", "systemd")] == [4, 6, 40]
    assert seen.get("bootfarm_beacons_total", phase="systemd", status="ok") == 1


def test_images_and_who_boots_them(tmp_path: Path) -> None:
    image = publish(tmp_path / "store")
    now = replace(present((image,)), attached=lambda: {image.digest: 5, "cd" * 32: 2})
    metrics = Metrics(now, max_nodes=100)
    nodes = Nodes()
    nodes.watch(metrics.change)
    for number, digest in enumerate([image.digest, image.digest, "cd" * 32, "ef" * 32]):
        path = f"/ltsp/amd64/@{digest}/vmlinuz"
        detail: Mapping[str, str] = {"path": path, "status": "ok"}
        nodes.record(Event(0.0, f"10.9.0.{number}", "tftp", "transfer", detail))
    seen = scrape(metrics)
    labels = {"image": "amd64", "digest": image.digest}
    other = {"image": "other", "digest": "other"}
    assert seen.get("bootfarm_nodes_by_image", **labels) == 2
    assert seen.get("bootfarm_nodes_by_image", **other) == 2
    assert seen.get("bootfarm_nbd_attached", **labels) == 5
    assert seen.get("bootfarm_nbd_attached", **other) == 2
    assert seen.get("bootfarm_image_size_bytes", **labels) == image.size
    assert seen.get("bootfarm_image_tag", tag="current", **labels) == 1
    assert seen.get("bootfarm_images") == 1


def test_the_server_itself() -> None:
    seen = scrape(Metrics(replace(present(), problems=lambda: 2), max_nodes=123))
    assert seen.get("bootfarm_degraded") == 1
    assert seen.get("bootfarm_problems") == 2
    assert seen.get("bootfarm_nodes_limit") == 123
    assert seen.get("bootfarm_connections", protocol="nbd") == 3
    assert seen.get("bootfarm_ltsconf_loads_total", result="refused") == 1
    assert seen.get("bootfarm_ltsconf_refused") == 1
    assert seen.get("bootfarm_ltsconf_load_timestamp_seconds") == 1700000000.0
    (build,) = [labels for name, labels in seen.samples if name == "bootfarm_build_info"]
    assert {key for key, _ in build} == {"version", "python"}
    assert (seen.get("process_cpu_seconds_total") or 0) > 0
    assert (seen.get("process_resident_memory_bytes") or 0) > 1 << 20


def test_workers() -> None:

    now = replace(present(), workers=lambda: {0: os.getpid(), 1: None, 2: 1 << 30})
    seen = scrape(Metrics(now, max_nodes=1))
    assert seen.get("bootfarm_worker_up", worker="0") == 1
    assert seen.get("bootfarm_worker_up", worker="1") == 0
    assert (seen.get("bootfarm_worker_cpu_seconds_total", worker="0") or 0) > 0
    assert (seen.get("bootfarm_worker_resident_memory_bytes", worker="0") or 0) > 1 << 20
    assert seen.get("bootfarm_worker_cpu_seconds_total", worker="1") is None
    assert seen.get("bootfarm_worker_cpu_seconds_total", worker="2") is None  # just ended


def test_requests_by_route() -> None:
    metrics = Metrics(present(), max_nodes=1)
    metrics.count_request("/ltsp/amd64/vmlinuz", 200)
    metrics.count_request("/ltsp/amd64/vmlinuz", 404)
    metrics.count_request("/what/ever", 404)
    metrics.count_request("/", 200)
    seen = scrape(metrics)
    name = "bootfarm_http_requests_total"
    assert seen.get(name, route="ltsp", code="2xx") == 1
    assert seen.get(name, route="ltsp", code="4xx") == 1
    assert seen.get(name, route="other", code="4xx") == 1
    assert seen.get(name, route="page", code="2xx") == 1


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/api/nodes/52:54:00:00:00:01", "api"),
        ("/node/x", "page"),
        ("/metrics", "metrics"),
        ("/beacon", "beacon"),
        ("//", "other"),
        ("/other/x", "other"),
        ("/apis", "other"),
    ],
)
def test_routes(path: str, route: str) -> None:
    assert route_of(path) == route


def test_openmetrics_for_those_who_ask() -> None:
    metrics = Metrics(present(), max_nodes=1)
    text, kind = metrics.render(OPEN)
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
    assert Scrape(text, openmetrics=True).get("bootfarm_nodes_limit") == 1
    assert metrics.render("text/html")[1].startswith("text/plain")


def test_nothing_grows_with_the_nodes_and_what_they_say(tmp_path: Path) -> None:
    image = publish(tmp_path / "store")

    def series(count: int) -> set[object]:
        metrics = Metrics(present((image,)), max_nodes=1000)
        nodes = Nodes(limit=1000)
        nodes.watch(metrics.change)
        for number in range(count):
            address = f"10.9.{number >> 8}.{number & 255}"
            for event in (
                Event(1.0, address, "beacon", "initramfs", {"status": "start", "boot": "a"}),
                Event(2.0, address, "beacon", f"x{number}", {"status": f"y{number}"}),
                Event(3.0, address, f"z{number}", "x", {"status": "error", "cause": address}),
                Event(3.0, address, "tftp", "transfer", {"status": "error", "cause": address}),
                tftp("ok", path=f"/ltsp/x{number}/@{number:064d}/vmlinuz", bytes=1),
                Event(9.0, address, "beacon", "ready", {"status": "ok", "boot": "a"}),
            ):
                metrics.record(event)
                nodes.record(event)
            metrics.count_request(f"/{address}", 100 + number)
        return set(scrape(metrics).samples)

    # The vocabulary of causes and rules decides how many there are: fewer than nodes.
    many = series(800)
    assert series(1000) == many
    assert len(many) < 800


def test_phases_have_room_for_slow_ones() -> None:
    assert max(PHASE_SECONDS) >= 1800


def test_a_scrape_costs_the_same_with_10_000_nodes() -> None:
    """Counted, not timed: how many calls of Python functions one scrape makes."""

    def calls(count: int) -> int:
        metrics = Metrics(present(), max_nodes=count)
        nodes = Nodes(limit=count)
        nodes.watch(metrics.change)
        for number in range(count):
            address = f"10.9.{number >> 8}.{number & 255}"
            detail: Mapping[str, str] = {"status": "start"}
            nodes.record(Event(0.0, address, "beacon", PHASES[number % 15], detail))
        metrics.render()
        made = 0

        def count_call(frame: FrameType, event: str, argument: object) -> None:
            nonlocal made
            made += event == "call"

        sys.setprofile(count_call)
        try:
            metrics.render()
        finally:
            sys.setprofile(None)
        return made

    assert calls(10_000) <= calls(100) * 1.1


def busy_metrics(directory: Path) -> Metrics:
    """The metrics of a server in which everything has happened; for tests of what reads them."""
    image = publish(directory / "store")
    now = replace(present((image,)), workers=lambda: {0: os.getpid()})
    metrics = Metrics(now, max_nodes=100)
    for route in ("/ltsp/x", "/beacon", "/api/nodes", "/", "/healthz", "/metrics", "/other"):
        for status in (200, 304, 404, 500):
            metrics.count_request(route, status)
    return metrics


def test_labels_are_bounded() -> None:
    """However many machines have a value of their own."""
    places = {("unit", str(n), "ready"): 1 for n in range(300)}
    places |= {(f"name_{n}", "x", "off"): 2 for n in range(30)}
    metrics = Metrics(replace(present(), places=lambda: places), max_nodes=1)
    text = metrics.render()[0].decode()
    series = [line for line in text.splitlines() if line.startswith("bootfarm_machines_by_label{")]
    assert len(series) == 8, "names by their order: name_0 and on"
    only = {key: count for key, count in places.items() if key[0] == "unit"}
    bound = bound_places(only)
    assert len(bound) == LABEL_VALUES + 1
    assert bound["unit", "other", "ready"] == 300 - LABEL_VALUES
    assert sum(bound.values()) == 300
    assert bound["unit", "9", "ready"] == 1


def test_what_is_played_counts_nowhere() -> None:
    nodes = Nodes()
    metrics = Metrics(present(), max_nodes=100)
    nodes.watch(metrics.change)
    for ip in ("127.64.0.1", "10.9.0.5"):
        nodes.record(Event(1.0, ip, "tftp", "transfer", {"path": "/ltsp/amd64/vmlinuz"}))
    nodes.play("10.9.0.5", "doctor")
    for _ in range(2):
        metrics.findings.advance(1e4)
        text = metrics.render()[0].decode()
        assert 'bootfarm_nodes{phase="kernel",status="ok"} 0.0' in text
        assert 'bootfarm_nodes_with_finding{rule="kernel-stalled",severity="stalled"} 0.0' in text
    nodes.record(Event(2.0, "10.9.0.5", "beacon", "initramfs", {"boot": "b"}))
    assert 'bootfarm_nodes{phase="initramfs",status="ok"} 1.0' in metrics.render()[0].decode()


def test_a_machine_in_maintenance_fires_no_alert() -> None:
    nodes = Nodes()
    metrics = Metrics(replace(present(), clock=lambda: 1e4), max_nodes=100)
    nodes.watch(metrics.change)
    node = nodes.record(Event(1.0, "10.9.0.1", "beacon", "join", {"status": "error", "boot": "a"}))
    assert node is not None
    full = {"space": "/:99:1:10", "status": "ok"}
    nodes.record(Event(1.0, "10.9.0.1", "beacon", "space", full))
    metrics.findings.advance(1e4)
    before = scrape(metrics)
    assert before.get("bootfarm_nodes_stalled", phase="join") == 1
    assert before.get("bootfarm_fullest_ratio", kind="overlay") == 0.99
    nodes.annotate(node.key, None, maintenance=True)
    metrics.findings.advance(1e4)
    metrics.record(tftp("error", bytes=1, cause="timeout"), node)
    metrics.record(Event(1.0, "10.9.0.1", "beacon", "join", {"status": "error"}), node)
    metrics.record(tftp("ok", bytes=1000, retries=0), node)
    seen = scrape(metrics)
    assert seen.get("bootfarm_nodes_stalled", phase="join") == 0
    assert seen.get("bootfarm_fullest_ratio", kind="overlay") == 0
    assert seen.get("bootfarm_errors_total", source="beacon", cause="join") == 0
    assert seen.get("bootfarm_errors_total", source="tftp", cause="timeout") == 0
    assert seen.get("bootfarm_transfers_total", protocol="tftp", status="error") == 0
    assert seen.get("bootfarm_transfers_total", protocol="tftp", status="ok") == 1
    assert seen.get("bootfarm_nodes", phase="join", status="error") == 1
    assert 'bootfarm_nodes_with_finding{rule="join-failed",severity="error"} 0.0' in (
        metrics.render()[0].decode()
    )
