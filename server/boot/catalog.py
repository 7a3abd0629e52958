"""What is served, as one value: it can be sent to worker processes, which look things up in it."""

import functools
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from server.background import shared_background
from server.boot.plan import Decision, Held, Unplanned
from server.boot.planner import Planner, Ports
from server.boot.tree import BootTree
from server.content import Content, Export
from server.errors import ServerError
from server.events import Emit, Event
from server.farm.config import Config
from server.farm.inventory import Inventory
from server.machines.identity import Identifier, make_identifier
from server.site import Site


class SiteCatalog:
    """One Site and how to tell nodes apart, with the calls that the data path makes.

    Call `open` in the process that uses the catalog: what it makes is not pickled.
    """

    def __init__(self, site: Site, config: Config) -> None:
        self._site = site
        self._address = config.address
        self._listen = config.listen
        self._ports = (config.http.port, config.nbd.port)
        self._inventory: Inventory = config.inventory
        self._address_map: Mapping[str, str] = config.address_map
        self._hosts_file: Path | None = config.hosts_file
        self._tree: BootTree | None = None
        self._identifier: Identifier | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_tree": None, "_identifier": None}

    def open(self, emit: Emit) -> None:
        """Make the boot tree. What is decided for nodes leaves as events through `emit`."""
        identifier = make_identifier(self._inventory, self._address_map, self._hosts_file)
        self._identifier = identifier
        self._tree = BootTree(self.make_planner(lambda: self._site, identifier, emit))
        warm_up(self._site)

    def make_planner(self, site: Callable[[], Site], identifier: Identifier, emit: Emit) -> Planner:
        """A planner for this process. It asks `site` for the present Site at each question."""
        http, nbd = self._ports
        find = functools.partial(find_address, self._address, self._listen)
        report = functools.partial(_emit_decision, emit, site)
        return Planner(site, identifier, Ports(http, nbd, find), report)

    @property
    def tree(self) -> BootTree:
        """The boot tree. Raises RuntimeError before `open`."""
        if self._tree is None:
            raise RuntimeError("SiteCatalog.open was not called")
        return self._tree

    def lookup(self, path: str, client_ip: str) -> Content:
        """See BootTree.lookup."""
        return self.tree.lookup(path, client_ip)

    def export(self, name: str, client_ip: str) -> Export | None:
        """See BootTree.export."""
        return self.tree.export(name, client_ip)

    def list_exports(self, client_ip: str) -> Sequence[str]:
        """See BootTree.list_exports."""
        return self.tree.list_exports(client_ip)

    def is_known(self, client_ip: str) -> bool:
        """Whether the inventory names the machine, or it is the server's own."""
        known = self._identifier is not None and self._identifier.is_listed(client_ip)
        return known or client_ip.startswith("127.")

    def card(self, client_ip: str) -> str:
        """The MAC that answers for an address, or the address."""
        return self._identifier.card(client_ip) if self._identifier is not None else client_ip


def warm_up(site: Site) -> None:
    """Have this process's renderer started before the first node asks, if it will be needed."""
    if site.ltsconf.needs_rendering:
        shared_background().submit(site.ltsconf.check)


def find_address(address: str | None, listen: str, client_ip: str) -> str:
    """The server's address for a client: the one of farm.yaml, else that of the route to the
    client."""
    if address:
        return address
    if listen != "0.0.0.0":
        return listen
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((client_ip, 9))
            return str(probe.getsockname()[0])
        except OSError as error:
            raise ServerError(
                f"no route to {client_ip}: {error.strerror}",
                hint="set `address:` in farm.yaml to the address that nodes shall use",
            ) from None


def _emit_decision(
    emit: Emit, site: Callable[[], Site], client: str, path: str, outcome: Decision
) -> None:
    """Emit the plan of a node, or the reason why it has none, as an event of that node."""
    phase = "root" if path.lstrip("/").startswith("opt/") else "menu"
    if isinstance(outcome, Unplanned):
        detail = {"status": "error", "path": path, "message": outcome.reason}
        detail["cause"] = outcome.cause
    else:
        plan = outcome.plan if isinstance(outcome, Held) else outcome
        detail = {"status": "ok", "path": path, "image": plan.image.name}
        detail["digest"] = plan.image.digest
        asked = path.strip("/").split("/")[1:2]
        if phase == "menu" and asked and asked[0] not in site().names:
            detail["unknown_image"] = asked[0]
        if isinstance(outcome, Held):
            # Not "error": a person may still choose to boot this machine.
            detail.update(status="start", message=outcome.reason, cause="held")
    emit(Event(time.time(), client, "plan", phase, detail))
