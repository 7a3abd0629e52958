"""What is wrong with the server itself, and what /healthz says."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from server.farm.config import explain_hosts_file
from server.nodes.timelines import Nodes
from server.observe.secrecy import Secrecy
from server.services.running import Running
from server.sources.sources import Sources
from server.troubles import Trouble
from server.web.access import Token

_log = logging.getLogger(__name__)


class Health:
    """Problems of the server, a line each. problems: those that were there before the start."""

    def __init__(
        self,
        *,
        sources: Sources,
        nodes: Nodes,
        secrecy: Secrecy,
        token: Token | None,
        running: Running,
        problems: Sequence[str],
        peers: Callable[[], Iterable[Trouble]] = lambda: (),
    ) -> None:
        """peers: gives what of the farm's other servers wants a person."""
        self._sources = sources
        self._nodes = nodes
        self._secrecy = secrecy
        self._token = token
        self._running = running
        self._peers = peers
        self._failures: dict[str, str] = {text: text for text in problems}

    def fail(self, what: str, message: str) -> None:
        """Report that a part of the server, or a duty of it, does not work until it is `mended`."""
        if self._failures.get(what) != message:
            _log.error("%s", message)
        self._failures[what] = message

    def mended(self, what: str) -> None:
        """Report that the part works, or works again."""
        self._failures.pop(what, None)

    def troubles(self) -> list[Trouble]:
        """Every trouble that a person has to see to, without secrets."""
        troubles = self._sources.troubles()
        troubles += [Trouble("server", text) for text in self._failures.values()]
        if hosts := explain_hosts_file(self._sources.farm.current):
            troubles.append(Trouble("farm", f"{hosts}: sections by its names match nothing"))
        if self._token is not None and self._token.problem:
            troubles.append(Trouble("server", self._token.problem))
        troubles += self._peers()
        # A refused lts.conf is told with the line that is wrong.
        return [
            dataclasses.replace(trouble, text=self._secrecy.mask(trouble.text))
            for trouble in troubles
        ]

    def problems(self) -> list[str]:
        """The troubles as text, a line each."""
        return [trouble.text for trouble in self.troubles()]

    def count_unseen(self) -> int:
        """Machines of the inventory that were never seen, or so long ago that it is forgotten."""
        machines = self._sources.farm.current.inventory.machines
        return sum(machine.mac not in self._nodes for machine in machines)

    def describe(self) -> dict[str, Any]:
        """What /healthz says: `degraded` where something wants a person.

        failing: no machine can boot. What is asked for is answered in either case, and
        whoever restarts servers must not do so for it: /livez is for that.
        """
        troubles = self.troubles()
        images: dict[str, dict[str, str]] = {}
        for image in self._sources.store.images:
            for tag in image.tags:
                images.setdefault(image.name, {})[tag] = image.digest
        return {
            "status": "degraded" if troubles else "ok",
            "failing": any(trouble.stops for trouble in troubles),
            "problems": [trouble.text for trouble in troubles],
            "images": images,
            "exports": sorted(self._sources.farm.current.exports),
            "services": {
                name: ports[0] if len(ports) == 1 else list(ports)
                for name, ports in self._running.ports().items()
            },
            "nodes": len(self._nodes),
            "unseen": self.count_unseen(),
        }
