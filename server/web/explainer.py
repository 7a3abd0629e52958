"""What a node's next boot gets from lts.conf, and from which line; never waited for long.

Secrets are masked here, before anything is shown.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from server.background import Background, Job, shared_background
from server.boot.plan import PlanError
from server.boot.settlement import settle
from server.errors import ServerError
from server.ltsconf import LtsConf, is_flat_key
from server.ltsconf.explain import Explanation, Place, explain
from server.machines.identity import Identifier, Identity
from server.nodes.given import Printer
from server.nodes.node import Node
from server.observe.secrecy import Secrecy
from server.site import Site

MAX_JOBS = 16
"""Explanations under way or not fetched yet."""


@dataclass(frozen=True)
class Value:
    """A variable of a node, masked. value: None where NONE unset it."""

    key: str
    value: str | None
    origin: Place
    overrode: tuple[Place, ...]
    step: str


@dataclass(frozen=True)
class Values:
    """A node's lts.conf. problem: why there is none, or "". pending: ask again in a moment.

    rollout: what a rollout has to do with its image, or "". prints: of the values as they are,
    unmasked (nodes.given); "" where there are none.
    """

    values: tuple[Value, ...] = ()
    image: str = ""
    problem: str = ""
    pending: bool = False
    prints: str = ""
    rollout: str = ""


class Explainer:
    """Explains nodes' lts.conf; one for a server, in the loop's thread."""

    def __init__(
        self,
        site: Callable[[], Site],
        identifier: Identifier,
        secrecy: Secrecy,
        background: Background | None = None,
        printer: Printer | None = None,
    ) -> None:
        self._site = site
        self._printer = printer
        self._identifier = identifier
        self._secrecy = secrecy
        self._background = background or shared_background()
        self._jobs: OrderedDict[tuple[int, Identity, str], Job[Values]] = OrderedDict()

    def explain(self, node: Node) -> Values:
        """What the node's next boot gets; never raises, and waits a fifth of a second at most."""
        site = self._site()
        identity = self._identify(node)
        name = node.boot.image if node.boot is not None else ""
        if not site.ltsconf.needs_rendering:
            return self._make(site, identity, name)
        key = (id(site), identity, name)
        job = self._jobs.get(key)
        if job is None:
            job = self._background.submit(lambda: self._make(site, identity, name))
            self._jobs[key] = job
            if len(self._jobs) > MAX_JOBS:
                self._jobs.popitem(last=False)[1].cancelled = True
        if not self._background.wait(job):
            return Values(pending=True)
        del self._jobs[key]
        outcome = job.outcome
        return outcome if isinstance(outcome, Values) else Values(problem="it cannot be explained")

    def _identify(self, node: Node) -> Identity:
        """The node as the server would know it, even if its address is another node's by now."""
        if node.ip:
            identity = self._identifier.identify(node.ip)
            if node.mac is None or identity.mac == node.mac:
                return identity
        return self._identifier.describe(node.ip, node.mac, node.hostname)

    def _make(self, site: Site, identity: Identity, name: str) -> Values:
        try:
            return self._explain(site, identity, name)
        except ServerError as error:
            words = error.one_line()
            return Values(problem=self._secrecy.mask(words))

    def _explain(self, site: Site, identity: Identity, name: str) -> Values:
        try:
            settled = settle(site, identity.node_id, identity.known, name or None)
        except PlanError as error:
            # What it gets can be said without an image, where it need not be rendered for one.
            values: tuple[Value, ...] = ()
            if not site.ltsconf.needs_rendering:
                values = self._mask(site.ltsconf.render({}), identity, {}, "", "")
            return Values(values, problem=self._secrecy.mask(error.one_line()))
        values = self._mask(
            settled.conf,
            identity,
            settled.defaults,
            settled.image.name,
            site.ltsconf.template,
        )
        prints = ""
        if self._printer is not None:
            found = settled.conf.resolve(identity.node_id, settled.defaults)
            given = {key: value for key, value in found.items() if is_flat_key(key)}
            prints = f"{self._printer.mark} {self._printer.print_values(given)}"
        return Values(values, settled.reference, prints=prints, rollout=settled.rollout)

    def _mask(
        self,
        conf: LtsConf,
        identity: Identity,
        defaults: dict[str, str],
        image: str,
        template: str,
    ) -> tuple[Value, ...]:
        found = explain(conf, identity.node_id, defaults, image=image, template=template)
        return tuple(self._mask_one(explanation) for explanation in found)

    def _mask_one(self, found: Explanation) -> Value:
        def mask(value: str) -> str:
            text = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            return self._secrecy.mask_value(found.key, text)

        origins = [
            Place(mask(place.value), place.why, place.where)
            for place in (found.origin, *found.overrode)
        ]
        value = None if found.value is None else mask(found.value)
        return Value(found.key, value, origins[0], tuple(origins[1:]), found.step)
