"""What `/metrics` reads of the running server at each scrape."""

import time
from collections.abc import Callable, Mapping

from server.diagnosis import FarmFacts
from server.metrics.metrics import Metrics, Present
from server.services.http import HttpService
from server.services.nbd import NbdService
from server.services.workers import PooledNbd, WorkerPool
from server.sources import Sources


def make_metrics(
    sources: Sources,
    *,
    services: Callable[[], Mapping[str, object]],
    pool: Callable[[], WorkerPool | None],
    problems: Callable[[], list[str]],
    farm: Callable[[], FarmFacts],
    max_nodes: int,
) -> Metrics:
    """The metrics of a server. services, pool: those of now, which are made later."""

    def attached() -> dict[str, int]:
        nbd = services().get("nbd")
        if not isinstance(nbd, NbdService | PooledNbd):
            return {}
        return {digest: len(clients) for digest, clients in nbd.connections().items()}

    def connections() -> dict[str, int]:
        found = {}
        http = services().get("http")
        if isinstance(http, HttpService):
            found["http"] = http.open_count()
        if "nbd" in services():
            found["nbd"] = sum(attached().values())
        return found

    def workers() -> Mapping[int, int | None]:
        present = pool()
        return present.processes() if present is not None else {}

    ltsconf = sources.ltsconf
    return Metrics(
        Present(
            problems=lambda: len(problems()),
            images=lambda: sources.store.images,
            connections=connections,
            attached=attached,
            loads=lambda: {"ok": ltsconf.taken, "refused": ltsconf.refusals},
            loaded_at=lambda: ltsconf.taken_at,
            is_refused=lambda: bool(ltsconf.problem),
            workers=workers,
            clock=time.time,
            farm=farm,
        ),
        max_nodes=max_nodes,
    )
