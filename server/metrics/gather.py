"""What `/metrics` reads of the running server at each scrape."""

import time
from collections.abc import Callable, Mapping

from server.diagnosis import FarmFacts
from server.metrics.metrics import Metrics, Present
from server.metrics.rollouts import RolloutFacts
from server.observe.overview import Overview
from server.services.http import HttpService
from server.services.running import Running
from server.sources.sources import Sources
from server.troubles import Trouble


def make_metrics(
    sources: Sources,
    running: Running,
    *,
    troubles: Callable[[], list[Trouble]],
    farm: Callable[[], FarmFacts],
    max_nodes: int,
    machines: Overview,
    rollout: Callable[[], RolloutFacts] = RolloutFacts,
) -> Metrics:
    """The metrics of a server, whose services may be made later."""

    def attached() -> dict[str, int]:
        return {digest: len(clients) for digest, clients in running.attached().items()}

    def connections() -> dict[str, int]:
        found = {}
        http = running.services.get("http")
        if isinstance(http, HttpService):
            found["http"] = http.open_count()
        if "nbd" in running.services:
            found["nbd"] = sum(attached().values())
        return found

    def workers() -> Mapping[int, int | None]:
        return running.pool.processes() if running.pool is not None else {}

    ltsconf = sources.ltsconf
    return Metrics(
        Present(
            problems=lambda: len(troubles()),
            troubles=troubles,
            images=lambda: sources.store.images,
            connections=connections,
            attached=attached,
            loads=lambda: {"ok": ltsconf.taken, "refused": ltsconf.refusals},
            loaded_at=lambda: ltsconf.taken_at,
            is_refused=lambda: bool(ltsconf.problem),
            workers=workers,
            clock=time.time,
            farm=farm,
            states=machines.gauge,
            places=machines.places,
            rollout=rollout,
        ),
        max_nodes=max_nodes,
    )
