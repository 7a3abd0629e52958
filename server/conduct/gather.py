"""What this server knows of a rollout's machines, put together with what the cluster says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from server.background import Background, Job, shared_background
from server.boot.settlement import explain_pinned, settle
from server.conduct.cluster import View
from server.diagnosis import Finding
from server.errors import ServerError
from server.farm.inventory import Inventory
from server.ltsconf import Conf
from server.machines.identity import Identifier, Identity
from server.nodes.node import LIVE_ROOT, Node
from server.nodes.timelines import Nodes
from server.rollout.overlay import NO_OVERLAY
from server.rollout.seen import Observations, Seen
from server.rollout.spec import Spec, is_selected
from server.rollout.state import BUSY, LOST, WAITING, Machine, Rollout
from server.rollout.step import Member
from server.site import Site

READY = "ready"


class Gatherer:
    """Looks at machines; in the loop's thread.

    attached: digest to clients' addresses, None where this process does not serve NBD.
    """

    def __init__(
        self,
        *,
        site: Callable[[], Site],
        nodes: Nodes,
        identifier: Identifier,
        inventory: Callable[[], Inventory],
        diagnose: Callable[[Node, float], Finding | None],
        attached: Callable[[], Mapping[str, Sequence[str]] | None],
        background: Background | None = None,
    ) -> None:
        self._site = site
        self._nodes = nodes
        self._identifier = identifier
        self._inventory = inventory
        self._diagnose = diagnose
        self._attached = attached
        self._background = background or shared_background()
        self._pinned: dict[str, str] = {}
        self._jobs: dict[str, Job[str]] = {}
        self._pinned_for: tuple[Conf, object, str] | None = None

    def list_members(self, spec: Spec, view: View | None, target: str) -> list[Member]:
        """The machines that a rollout is for: listed ones, and others that were seen.

        target: the digest that is rolled out.
        """
        labels = {one.mac: one.labels for one in self._inventory().machines}
        keys = dict.fromkeys(labels)
        keys |= dict.fromkeys(
            node.mac for node in self._nodes.nodes() if node.mac and not node.played
        )
        found = []
        for key in keys:
            name = self._name_of(key)
            node = view.nodes.get(name) if view is not None else None
            if not is_selected(
                spec,
                mac=key,
                name=name,
                labels=dict(labels.get(key, ())),
                node_labels=node.labels if node is not None else None,
            ):
                continue
            image, digest = self._find_last_good(key, target)
            control = node is not None and node.is_control_plane
            found.append(Member(key, name, image, digest, control))
        return found

    def look(self, rollout: Rollout, view: View | None, now: float) -> Observations:
        """All of a rollout's machines, as they are now."""
        readers = self._find_readers()
        target = rollout.image
        seen = {
            key: self._look_at(machine, target, view, readers, rollout.wave, now)
            for key, machine in rollout.machines.items()
        }
        tagged = self._site().find_image(rollout.image, rollout.spec.tag)
        return Observations(
            machines=seen,
            has_cluster=view is not None,
            away=view.away if view is not None else frozenset(),
            cluster_size=len(view.nodes) if view is not None else 0,
            tag_digest=tagged.digest if tagged is not None and rollout.spec.tag else "",
        )

    def _look_at(
        self,
        machine: Machine,
        target: str,
        view: View | None,
        readers: Mapping[str, set[str]] | None,
        wave: int,
        now: float,
    ) -> Seen:
        node = self._nodes.get(machine.key)
        seen = _describe(node, readers)
        is_next = machine.phase == WAITING and machine.wave <= wave
        if node is not None and machine.phase in (*BUSY, LOST):
            finding = self._diagnose(node, now)
            # A note says that a step goes on: nothing is wrong with it.
            if finding is not None and finding.severity != "note":
                seen = replace(seen, finding=finding.headline, cause=finding.rule)
        if is_next:
            pinned = self._find_pinned(machine, target)
            seen = replace(seen, is_known=pinned is not None, pinned=pinned or "")
        found = view.nodes.get(machine.name) if view is not None else None
        return replace(seen, node=found)

    def _find_readers(self) -> Mapping[str, set[str]] | None:
        """The digests that each machine reads over NBD."""
        attached = self._attached()
        if attached is None:
            return None
        readers: dict[str, set[str]] = {}
        for digest, clients in attached.items():
            for client in clients:
                readers.setdefault(self._nodes.key_of(client), set()).add(digest)
        return readers

    def _find_last_good(self, key: str, target: str) -> tuple[str, str]:
        """Name and digest of the last image with which a machine became ready."""
        node = self._nodes.get(key)
        if node is None:
            return "", ""
        for boot in (*([node.boot] if node.boot else []), *reversed(node.past)):
            if READY in boot.phases and boot.digest and boot.digest != target:
                return boot.image, boot.digest
        return "", ""

    def _name_of(self, key: str) -> str:
        """The name of its Node: its hostname, in lower case; else its MAC."""
        return (self._identify(key).hostname or key).lower()

    def _identify(self, key: str) -> Identity:
        node = self._nodes.get(key)
        ip, hostname = (node.ip, node.hostname) if node is not None else ("", None)
        return self._identifier.describe(ip, key, hostname)

    def _find_pinned(self, machine: Machine, target: str) -> str | None:
        """Why lts.conf keeps a rollout from a machine, or ""; None: it is being found out."""
        site = self._site()
        now = (site.ltsconf, site.images, target)
        if self._pinned_for is None or any(
            one is not other for one, other in zip(now[:2], self._pinned_for[:2], strict=True)
        ):
            self._pinned.clear()
            self._jobs.clear()
            self._pinned_for = now
        if machine.key in self._pinned:
            return self._pinned[machine.key]
        identity = self._identify(machine.key)
        plain = replace(site, overlay=NO_OVERLAY)
        name = machine.last_image or None
        if not site.ltsconf.needs_rendering:
            self._pinned[machine.key] = _explain(plain, identity, name, target)
            return self._pinned[machine.key]
        job = self._jobs.get(machine.key)
        if job is None:
            job = self._background.submit(lambda: _explain(plain, identity, name, target))
            self._jobs[machine.key] = job
        if not job.done.is_set():
            return None
        outcome = self._jobs.pop(machine.key).outcome
        words = outcome if isinstance(outcome, str) else "its lts.conf cannot be read"
        self._pinned[machine.key] = words
        return words


def _explain(site: Site, identity: Identity, name: str | None, target: str) -> str:
    try:
        settled = settle(site, identity.node_id, identity.known, name)
        wanted = settled.conf.resolve(identity.node_id).get("IMAGE", "")
    except ServerError:
        return "it has no plan: its page says why"  # masked there, and not here
    return explain_pinned(wanted, settled.image, target) or ""


def _describe(node: Node | None, readers: Mapping[str, set[str]] | None) -> Seen:
    """What the timeline says. Of several exports that are read, the one of its boot counts."""
    boot = node.boot if node is not None else None
    if node is None or boot is None:
        return Seen(is_in_maintenance=node is not None and node.maintenance)
    attached: str | None = None
    if readers is not None:
        found = readers.get(node.key, set())
        attached = boot.digest if boot.digest in found else min(found, default="")
    return Seen(
        boot=boot.started,
        image=boot.image,
        digest=boot.digest,
        is_up=boot.last_phase() == READY,
        attached=attached,
        lives_on_nbd=boot.facts.get(LIVE_ROOT) is True,
        is_in_maintenance=node.maintenance,
    )
