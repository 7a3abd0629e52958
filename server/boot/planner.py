"""The planner: what the machine at an address boots, asked as often as anybody likes.

Plans are kept until the Site changes. Where lts.conf is a template they are made in a thread:
NotYetError tells a client that asks meanwhile to ask again.
"""

import functools
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from imagebuild.store.images import Image
from server.background import Background, Job, shared_background
from server.boot.plan import BootPlan, Decision, Farm, Held, PlanError, Unplanned
from server.boot.settlement import plan_node
from server.errors import ServerError
from server.farm.inventory import inventory_line, not_listed
from server.ltsconf.template import RenderingFailedError
from server.machines.identity import Identifier, Identity
from server.services.ratelimit import RateLimit
from server.site import Site, UnlistedError

MAX_PLANS = 4096
"""Plans that are kept, a few kilobytes each; of more nodes the oldest is made again."""
MAX_JOBS = 1024
"""Nodes that wait for their rendering; one more is answered that it shall ask again."""
RENDERINGS_RATE, RENDERINGS_BURST = 40.0, 80.0
"""A second and at once, for each MAC, and for all addresses together that have none: a rendering
costs two milliseconds of the loop, and a forged request for any file wants one."""
MAX_STRANGE = 16
"""Names of images that there are not of which the log tells."""
AGAIN_SECONDS = 60.0
"""A rendering that was too slow is tried again after so long: perhaps the machine was busy."""
_log = logging.getLogger(__name__)
_ASK_AGAIN = "ask again in some seconds; if that does not end, the template is too slow"


class NotYetError(PlanError):
    """The plan is being made: ask again."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint=_ASK_AGAIN, cause="not_yet")


@dataclass(frozen=True)
class Ports:
    """Where nodes find the services. address_of: client IP -> the server's address for it."""

    http: int
    nbd: int
    address_of: Callable[[str], str]


Report = Callable[[str, str, Decision], None]
"""(client IP, path or export that was asked for, what was decided for it)."""
_Key = tuple[Identity, str]


class Planner:
    """Makes plans and keeps them; one for all services of a process.

    site: gives the present Site. report: is called with each decision of which people may want
    to know.
    """

    def __init__(
        self,
        site: Callable[[], Site],
        identifier: Identifier,
        ports: Ports,
        report: Report = lambda client, path, decision: None,
        background: Background | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._site = site
        self._identifier = identifier
        self._ports = ports
        self._report = report
        self._background = background or shared_background()
        self._clock = clock
        self._jobs: dict[_Key, Job[BootPlan]] = {}
        self._again: dict[_Key, float] = {}
        self._plans: OrderedDict[_Key, BootPlan | ServerError] = OrderedDict()
        self._planned_for: Site | None = None
        self._strange: set[str] = set()
        self._renderings = RateLimit(RENDERINGS_RATE, RENDERINGS_BURST)

    @property
    def site(self) -> Site:
        """The present Site."""
        return self._site()

    def adopt(self, address_of: Callable[[str], str]) -> None:
        """Give nodes another address of the server from now on; see Ports."""
        self._ports = replace(self._ports, address_of=address_of)
        self._planned_for = None

    def plan(self, client_ip: str, name: str | None = None, mac: str | None = None) -> BootPlan:
        """The plan of the node at an address.

        name: the image's name in the path that it asked for. mac: what the client says its MAC
        is. Raises ServerError when it has no plan, and Refused when the MAC is another's.
        """
        site = self._site()
        if site is not self._planned_for:
            self._forget()
            self._planned_for = site
        if name is not None and name not in site.names:
            self._warn_of_name(client_ip, name, site)
            name = None  # an unknown name decides nothing: all such paths share one plan
        identity = self._identifier.identify(client_ip, mac, fresh=True)
        if site.unlisted == "refuse" and not self._is_listed(identity):
            raise UnlistedError(identity.node_id)
        key = (identity, name or "")
        if key in self._again and self._clock() >= self._again[key]:
            del self._again[key]
            self._plans.pop(key, None)
        found = self._plans.get(key)
        if found is None:
            found = self._plans[key] = self._make_plan(site, key)
            if isinstance(found, RenderingFailedError):
                self._again[key] = self._clock() + AGAIN_SECONDS
            if len(self._plans) > MAX_PLANS:
                self._plans.popitem(last=False)
        if isinstance(found, ServerError):
            raise found
        return found

    def decide(self, client_ip: str, name: str, path: str) -> Decision:
        """The plan as the menu at `path` shall say it: one to boot, one that waits for a person,
        or why there is none. It is reported. Raises Refused as `plan` does."""
        decision: Decision
        try:
            plan = self.plan(client_ip, name)
            decision = self._hold(plan, client_ip) or plan
        except ServerError as error:
            decision = Unplanned(self._identifier.identify(client_ip).node_id, error)
        self._report(client_ip, path, decision)
        return decision

    def image(self, client_ip: str, name: str, export: str = "") -> Image | None:
        """The image of the client's plan; without a plan, the current one of that name.

        export: what is reported as asked for when there is no plan. A loader's files are not,
        for the menu that the loader asks for next will say it.
        """
        try:
            return self.plan(client_ip, name).image
        except ServerError as error:
            if export:
                node = self._identifier.identify(client_ip).node_id
                self._report(client_ip, export, Unplanned(node, error))
                if isinstance(error, NotYetError):
                    return None  # which image the client boots is not known yet
            return self.site.find_image(name, "current")

    def base_url(self, client_ip: str) -> str:
        """The HTTP service's URL, as the client reaches it, without a path."""
        return f"http://{self._ports.address_of(client_ip)}:{self._ports.http}"

    # Inside

    def _make_plan(self, site: Site, key: _Key) -> BootPlan | ServerError:
        identity, name = key
        farm = Farm(
            address=self._ports.address_of(identity.ip),
            http_port=self._ports.http,
            nbd_port=self._ports.nbd,
            cmdline=site.cmdline,
            on_error=site.on_error,
            others=site.servers,
        )
        make = functools.partial(
            plan_node, site, identity.node_id, farm, identity.known, name or None
        )
        if site.ltsconf.needs_rendering:
            return self._await_plan(key, make)
        try:
            return make()
        except ServerError as error:
            return error

    def _await_plan(self, key: _Key, make: Callable[[], BootPlan]) -> BootPlan | ServerError:
        """A plan that is made in the background. Raises NotYetError when that takes long."""
        identity = key[0]
        job = self._jobs.get(key)
        if job is None:
            if not identity.is_listed and not self._renderings.allow(
                identity.mac or "", self._clock()
            ):
                raise NotYetError("too many machines ask for the first time")
            if len(self._jobs) >= MAX_JOBS:
                self._jobs = {key: job for key, job in self._jobs.items() if not job.done.is_set()}
            if len(self._jobs) >= MAX_JOBS:
                raise NotYetError(f"{len(self._jobs)} nodes wait for their rendering of lts.conf")
            job = self._jobs[key] = self._background.submit(make)
        if not self._background.wait(job):
            raise NotYetError("this node's lts.conf is still being rendered")
        del self._jobs[key]
        outcome = job.outcome
        if isinstance(outcome, Exception) and not isinstance(outcome, ServerError):
            raise outcome
        return outcome

    def _forget(self) -> None:
        """Drop the plans, and the work on plans, of a Site that was replaced."""
        for job in self._jobs.values():
            job.cancelled = True
        self._jobs.clear()
        self._plans.clear()
        self._again.clear()

    def _warn_of_name(self, client_ip: str, name: str, site: Site) -> None:
        """Tell once of each name that clients ask below and the store has not; of few in all."""
        if name in self._strange or len(self._strange) >= MAX_STRANGE or not site.names:
            return
        self._strange.add(name)
        _log.warning(
            "%s asks below /ltsp/%s/, and the store has no image of that name (it has: %s): it gets"
            " what IMAGE or default_image says; does DHCP's filename, or a menu, name the right"
            " one?",
            *(client_ip, name[:100], ", ".join(sorted(site.names)[:8])),
        )

    def _is_listed(self, identity: Identity) -> bool:
        """Whether the inventory lists the machine, or it is the server's own machine, where
        `doctor` runs."""
        ip = identity.ip
        return identity.is_listed or ip.startswith("127.") or ip == self._ports.address_of(ip)

    def _hold(self, plan: BootPlan, client_ip: str) -> Held | None:
        """The plan, held until a person boots it, where farm.yaml wants that for this machine."""
        if self._site().unlisted != "menu":
            return None
        if self._is_listed(self._identifier.identify(client_ip)):
            return None
        return Held(
            plan,
            f"{not_listed(plan.node)}: its boot menu waits for somebody at the machine,"
            f" or for `{inventory_line(plan.node)}` below inventory: in farm.yaml",
        )
