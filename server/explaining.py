"""What a node's next boot gets from lts.conf, and from which line; never waited for long.

Secrets are masked here, before anything is shown.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from server.background import Background, Job, shared_background
from server.bootplan import PlanError, choose_image
from server.boottree import Site
from server.errors import ServerError
from server.identity import Identifier, Identity
from server.ltsconf import LtsConf, LtsTemplate
from server.ltsconf.explain import Explanation, Place, explain
from server.nodes import Node
from server.rendering import Known, settle_template
from server.secrecy import Secrecy

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
    """A node's lts.conf. problem: why there is none, or "". pending: ask again in a moment."""

    values: tuple[Value, ...] = ()
    image: str = ""
    problem: str = ""
    pending: bool = False


class Explainer:
    """Explains nodes' lts.conf; one for a server, in the loop's thread."""

    def __init__(
        self,
        site: Callable[[], Site],
        identifier: Identifier,
        secrecy: Secrecy,
        background: Background | None = None,
    ) -> None:
        self._site = site
        self._identifier = identifier
        self._secrecy = secrecy
        self._background = background or shared_background()
        self._jobs: OrderedDict[tuple[int, Identity, str], Job[Values]] = OrderedDict()

    def explain(self, node: Node) -> Values:
        """What the node's next boot gets; never raises, and waits a fifth of a second at most."""
        site = self._site()
        identity = self._identify(node)
        name = node.boot.image if node.boot is not None else ""
        if not isinstance(site.ltsconf, LtsTemplate):
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
        """The node as the server would know it, also when its address is another's by now."""
        if node.ip:
            identity = self._identifier.identify(node.ip)
            if node.mac is None or identity.mac == node.mac:
                return identity
        return Identity(node.ip, node.mac, node.hostname)

    def _make(self, site: Site, identity: Identity, name: str) -> Values:
        try:
            return self._explain(site, identity, name)
        except ServerError as error:
            words = f"{error}; {error.hint}" if error.hint else str(error)
            return Values(problem=self._secrecy.mask(words))

    def _explain(self, site: Site, identity: Identity, name: str) -> Values:
        node_id = identity.node_id
        template = ""
        conf = site.ltsconf
        if isinstance(conf, LtsTemplate):
            known = Known(site.facts, site.secrets, identity.known)
            template = conf.main.path
            conf, image = settle_template(
                node_id, site.images, conf, site.default_image, name or None, known
            )
            reference = f"{image.name}@{image.digest[:12]}"
            defaults = image.manifest.lts_defaults
        else:
            try:
                wanted = conf.resolve(node_id).get("IMAGE", "")
                image, reference = choose_image(
                    wanted, site.images, site.default_image, name or None
                )
                defaults = image.manifest.lts_defaults
            except PlanError as error:
                values = self._mask(conf, identity, {}, "", "")
                words = f"{error}; {error.hint}" if error.hint else str(error)
                return Values(values, problem=self._secrecy.mask(words))
        defaults = {key: value for key, value in defaults.items() if key != "IMAGE"}
        return Values(self._mask(conf, identity, defaults, image.name, template), reference)

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
