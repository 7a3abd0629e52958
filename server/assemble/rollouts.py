"""The conductor of rollouts, and the thread that asks the cluster for it."""

import secrets
import socket
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from server.conduct.cluster import Cluster
from server.conduct.conductor import Conductor
from server.conduct.gather import Gatherer
from server.conduct.hand import Hand
from server.errors import ServerError
from server.farm.config import Config
from server.kubernetes.api import Api, ApiError
from server.kubernetes.kubeconfig import open_account
from server.metrics.rollouts import RolloutFacts
from server.observe.feed import Changes
from server.services.hotloop import HotLoop
from server.sources.sources import Sources

NAMESPACE: Final = "bootfarm"
LOOP_SECONDS: Final = 30.0
"""How long the loop may take to answer the thread."""


@dataclass(frozen=True)
class RolloutParts:
    """hand: None where there is no cluster."""

    conductor: Conductor
    hand: Hand | None = None


def check_rollouts(config: Config, state: Path | None) -> Api | None:
    """The cluster's API where rollouts ask it. ServerError: a setting that they take is missing,
    or the kubeconfig is not good."""
    settings = config.rollout
    if not settings.enabled:
        return None
    for there, what, hint in (
        (state, "is kept nowhere", "give a `state` directory too"),
        (config.store, "has no store to take images from", "give a `store`"),
        ("http" in config.services or None, "cannot be asked for", "run the service http, too"),
    ):
        if there is None:
            raise ServerError(f"{config.source}: rollout.enabled: a rollout {what}", hint=hint)
    return _open_api(config) if settings.cluster else None


def make_rollouts(
    config: Config,
    loop: HotLoop,
    state: Path | None,
    sources: Sources,
    gatherer: Callable[[], Gatherer],
    changes: Changes,
) -> RolloutParts | None:
    """None where farm.yaml has no rollouts. ServerError: a setting that they take is missing."""
    if not config.rollout.enabled:
        return None
    api = check_rollouts(config, state)
    assert state is not None
    assert config.store is not None
    conductor = Conductor(
        state=state,
        store=config.store,
        site=lambda: sources.current,
        gatherer=gatherer(),
        lay_over=sources.lay_over,
        changed=lambda: changes.note(""),
        has_cluster=api is not None,
    )
    conductor.load()
    if api is None:
        return RolloutParts(conductor)
    identity = f"{socket.gethostname()}-{secrets.token_hex(4)}"
    cluster = Cluster(api, _find_namespace(config, api), identity)
    return RolloutParts(conductor, Hand(cluster, conductor, InLoop(loop)))


def describe_rollouts(parts: RolloutParts | None) -> RolloutFacts:
    """What `/metrics` says of them; None: farm.yaml has none."""
    if parts is None:
        return RolloutFacts()
    conductor = parts.conductor
    return RolloutFacts(conductor.rollout, conductor.leads, conductor.has_problem)


class InLoop:
    """Has a call made in the loop's thread, and gives what it returns or raises."""

    def __init__(self, loop: HotLoop) -> None:
        self._loop = loop

    def __call__(self, work: Callable[[], Any]) -> Any:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(run)
            return future.result(LOOP_SECONDS)
        except (RuntimeError, TimeoutError):
            raise ServerError("the server is stopping, or too busy to answer itself") from None


def _open_api(config: Config) -> Api:
    api = open_account(config.rollout.kubeconfig)
    if api is None:
        raise ServerError(
            f"{config.source}: rollout.enabled: nothing says which cluster the machines are in",
            hint="name an account's kubeconfig (`rollout: {kubeconfig: FILE}`), or say"
            " `rollout: {cluster: false}`: nothing is drained then, and people reboot",
        )
    return api


def _find_namespace(config: Config, api: Api) -> str:
    if config.rollout.namespace is not None:
        return config.rollout.namespace
    try:
        return api.namespace
    except ApiError:  # a kubeconfig's account
        return NAMESPACE
