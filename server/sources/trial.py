"""What a text of lts.conf is tried on, and what became of it; server.boot.rehearsal tries."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from imagebuild.errors import count_words
from server.farm.inventory import Inventory
from server.ltsconf import Conf, NodeId
from server.site import Site
from server.troubles import Trouble

MAX_MACHINES = 10_000
"""That a text is tried on; a survey has seconds for them."""

# No machine has them: documentation's address (RFC 5737), a MAC of local administration.
MADE_UP = NodeId("any-other-machine", "192.0.2.1", "02:00:00:00:00:01")


@dataclass(frozen=True)
class Subject:
    """A machine that a text is tried on. known: serial and the like, as templates have it."""

    node: NodeId
    known: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The machine in words."""
        if self.node == MADE_UP:
            return "any machine that the inventory does not have"
        return self.node.hostname or self.node.mac or self.node.ip or "?"


class Audience:
    """The machines that get an lts.conf: the inventory's, those seen lately, and one made up.

    seen: gives the nodes that the server has seen, the last first. architecture: of a machine,
    by its MAC, as its firmware said; "" where that is not known.
    """

    def __init__(
        self,
        inventory: Inventory | None = None,
        *,
        unlisted: str = "boot",
        seen: Callable[[], Iterable[NodeId]] = tuple,
        architecture: Callable[[str | None], str] = lambda mac: "",
    ) -> None:
        self.inventory = inventory or Inventory()
        self.unlisted = unlisted
        self.seen = seen
        self.architecture = architecture

    def list(self) -> list[Subject]:
        """At most MAX_MACHINES, without doubles; how many there are otherwise is `count`."""
        subjects = [
            self._subject(NodeId(machine.hostname, machine.ip, machine.mac), machine.known)
            for machine in self.inventory.machines
        ]
        listed = {machine.mac for machine in self.inventory.machines}
        strangers = [node for node in self.seen() if node.mac not in listed]
        if self.unlisted != "refuse":
            subjects += [self._subject(node, {}) for node in strangers]
        made_up = [Subject(MADE_UP)] if self.unlisted != "refuse" or not subjects else []
        return [*subjects[: MAX_MACHINES - len(made_up)], *made_up]

    def _subject(self, node: NodeId, known: Mapping[str, Any]) -> Subject:
        architecture = self.architecture(node.mac)
        return Subject(node, {**known, "arch": architecture} if architecture else known)


@dataclass(frozen=True)
class Reason:
    """Why machines get nothing: the words, how many machines, the names of the first."""

    words: str
    count: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What became of a text on all its machines.

    total: machines; tried: how many the budget allowed; failed: how many get nothing.
    errors, warnings: the linter's counts; remark, advice: its first error, and first warning.
    broken: why there is no verdict. troubles: what else is wrong, whichever machines there are.
    """

    total: int = 0
    tried: int = 0
    failed: int = 0
    reasons: tuple[Reason, ...] = ()
    errors: int = 0
    warnings: int = 0
    remark: str = ""
    advice: str = ""
    broken: str = ""
    troubles: tuple[Trouble, ...] = ()

    @property
    def stops(self) -> bool:
        """Whether no machine gets anything."""
        return self.failed == self.tried > 0

    def describe(self, path: str) -> list[str]:
        """What wants a person, a line each."""
        lines = [self.broken] if self.broken else []
        for reason in self.reasons[:3]:
            many = f"{reason.count} of {self.tried} machines"
            if self.failed == self.tried == reason.count and self.tried > 1:
                many = f"none of {self.tried} machines"
                lines.append(f"{many} can boot with {path}: {reason.words}")
                continue
            shown = ", ".join(reason.names)
            more = ", …" if reason.count > len(reason.names) else ""
            lines.append(f"{many} cannot boot with {path}: {reason.words} ({shown}{more})")
        if len(self.reasons) > 3:
            rest = sum(reason.count for reason in self.reasons[3:])
            lines.append(f"{rest} more machines cannot boot with {path}, for other reasons")
        if self.tried < self.total and lines and not self.broken:
            lines.append(f"{path} was tried on {self.tried} of {self.total} machines, no more")
        return [*lines, *self.describe_errors(path)]

    def describe_errors(self, path: str) -> list[str]:
        """What the linter calls an error, in a line, if there is any."""
        if not self.errors:
            return []
        many = count_words(self.errors, "error")
        return [f"{path} is in force with {many} of `lts check`: {self.remark}"]

    def list_troubles(self, path: str) -> list[Trouble]:
        """The lines of `describe`, each with its kind."""
        errors = self.describe_errors(path)
        lines = self.describe(path)
        machines = lines[: len(lines) - len(errors)]
        return [
            *(
                Trouble("server" if line == self.broken else "machines", line, self.stops)
                for line in machines
            ),
            *(Trouble("ltsconf", line) for line in errors),
            *self.troubles,
        ]


class Trial(Protocol):
    """A survey under way; verdict: None until it is done."""

    @property
    def verdict(self) -> Verdict | None: ...

    def cancel(self) -> None: ...


class Rehearser(Protocol):
    """Tries texts on an audience of machines."""

    audience: Audience

    def make_decision(self, conf: Conf, site: Site) -> Callable[[], bool]:
        """Something to call, in any thread: LtsConfError says why no machine can use the text."""
        ...

    def start(self, site: Site) -> Trial:
        """Have what is in force tried on all machines."""
        ...
