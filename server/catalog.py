"""What is served, as one value: it can be sent to worker processes, which look things up in it."""

import functools
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from server.background import shared_background
from server.bootplan import BootPlan
from server.boottree import BootTree, Held, Ports, Site
from server.config import Config
from server.content import Content, Export
from server.errors import ServerError
from server.events import Emit, Event
from server.identity import Identifier, make_identifier
from server.inventory import Inventory
from server.ltsconf import LtsTemplate


class SiteCatalog:
    """One Site and how to tell nodes apart, with the calls that the data path wants.

    It is of use after `open`, in the process that opened it; what `open` makes
    is left behind when it is pickled.
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

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_tree": None}

    def open(self, emit: Emit) -> None:
        """Make the boot tree; plans are told through `emit`."""
        identifier = make_identifier(self._inventory, self._address_map, self._hosts_file)
        self._tree = self.make_tree(lambda: self._site, identifier, emit)
        warm_up(self._site)

    def make_tree(self, site: Callable[[], Site], identifier: Identifier, emit: Emit) -> BootTree:
        """A boot tree for this process, of whatever `site` gives at each lookup."""
        http, nbd = self._ports
        find = functools.partial(find_address, self._address, self._listen)
        return BootTree(site, identifier, Ports(http, nbd, find), functools.partial(_tell, emit))

    @property
    def tree(self) -> BootTree:
        if self._tree is None:
            raise RuntimeError("SiteCatalog.open was not called")
        return self._tree

    def lookup(self, path: str, client_ip: str) -> Content:
        return self.tree.lookup(path, client_ip)

    def export(self, name: str, client_ip: str) -> Export | None:
        return self.tree.export(name, client_ip)

    def list_exports(self, client_ip: str) -> Sequence[str]:
        return self.tree.list_exports(client_ip)


def warm_up(site: Site) -> None:
    """Have this process's renderer started before the first node asks, if it will be needed."""
    if isinstance(site.ltsconf, LtsTemplate):
        shared_background().submit(site.ltsconf.check)


def find_address(address: str | None, listen: str, client_ip: str) -> str:
    """The server's address for a client: farm.yaml's, else the one that routes there."""
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


def _tell(emit: Emit, client: str, path: str, outcome: BootPlan | Held | str) -> None:
    """A plan, or why there is none, as an event of that node."""
    phase = "root" if path.lstrip("/").startswith("opt/") else "menu"
    if isinstance(outcome, str):
        detail = {"status": "error", "path": path, "message": outcome}
    else:
        plan = outcome.plan if isinstance(outcome, Held) else outcome
        detail = {"status": "ok", "path": path, "image": plan.image.name}
        detail["digest"] = plan.image.digest
        if isinstance(outcome, Held):
            # No error: the person may choose to boot it.
            detail.update(status="start", message=outcome.reason)
    emit(Event(time.time(), client, "plan", phase, detail))
