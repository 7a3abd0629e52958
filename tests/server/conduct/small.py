"""A farm of some machines whose boots are events, as services see them, and a conductor over it."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from imagebuild.store.images import Store
from server.background import Background, Job
from server.boot.plan import Farm, plan_boot
from server.boot.settlement import settle
from server.conduct.conductor import Conductor
from server.conduct.gather import Gatherer
from server.diagnosis import FarmFacts, diagnose
from server.events import Event
from server.farm.inventory import Inventory, Machine
from server.ltsconf import LtsConf
from server.machines.identity import make_identifier
from server.nodes.timelines import Nodes
from server.rollout.overlay import Overlay
from server.site import Site
from tests.server.farm import GOOD, publish


class Now(Background):
    """Work is done at once."""

    def submit(self, work: Callable[[], object]) -> Job:  # type: ignore[type-arg]
        job = Job(work)
        job.run()
        return job


class SmallFarm:
    """`count` machines, all booted into `current`; `candidate` is published beside it."""

    def __init__(
        self, directory: Path, count: int = 3, conf: str = GOOD, cluster: bool = False
    ) -> None:
        self.store = directory / "store"
        self.state = directory / "state"
        self.state.mkdir(exist_ok=True)
        if not self.store.exists():
            publish(self.store, kernel="1")
            publish(self.store, kernel="2", tags=["candidate"])
        self.now = 1_700_000_000.0
        self.machines = [
            Machine(
                f"52:54:00:00:00:{at:02x}",
                f"10.9.0.{at + 10}",
                f"node-{at}",
                labels=(("rack", f"r{at % 2}"),),
            )
            for at in range(1, count + 1)
        ]
        self.inventory = Inventory(tuple(self.machines))
        self.nodes = Nodes()
        self.attached: dict[str, list[str]] | None = {}
        self.overlay = Overlay()
        self.conf = LtsConf.parse(conf.encode())
        self.has_cluster = cluster
        self.sick: set[str] = set()
        for machine in self.machines:
            self.boot(machine)
        self.conductor = self.make_conductor()

    @property
    def site(self) -> Site:
        images = tuple(Store(self.store).images())
        return Site(images, self.conf, overlay=self.overlay)

    def digest(self, tag: str) -> str:
        return Store(self.store).get("amd64", tag).digest

    def _lay_over(self, overlay: Overlay) -> None:
        self.overlay = overlay

    def make_conductor(self) -> Conductor:
        """As a server that starts makes it."""
        identifier = make_identifier(self.inventory, {}, None)
        gatherer = Gatherer(
            site=lambda: self.kept_site(),
            nodes=self.nodes,
            identifier=identifier,
            inventory=lambda: self.inventory,
            diagnose=lambda node, now: diagnose(node, now, FarmFacts()),
            attached=lambda: self.attached,
            background=Now(),
        )
        conductor = Conductor(
            state=self.state,
            store=self.store,
            site=self.kept_site,
            gatherer=gatherer,
            lay_over=self._lay_over,
            has_cluster=self.has_cluster,
            clock=lambda: self.now,
            background=Now(),
        )
        conductor.load()
        return conductor

    def kept_site(self) -> Site:
        """The same object as long as nothing has changed, as Sources has it."""
        fresh = self.site
        kept = getattr(self, "_kept", None)
        if kept is None or kept.images != fresh.images or kept.overlay != fresh.overlay:
            images = (
                kept.images if kept is not None and kept.images == fresh.images else fresh.images
            )
            self._kept = dataclasses.replace(fresh, images=images)
        found: Site = self._kept
        return found

    def boot(self, machine: Machine) -> str:
        """It is switched on: it gets its plan, and comes up. The digest that it boots."""
        mac = machine.mac
        identity = make_identifier(self.inventory, {}, None).describe("", mac, None)
        plan = plan_boot(identity.node_id, settle(self.site, identity.node_id), Farm("10.9.0.1"))
        digest = plan.image.digest
        said = {"status": "ok", "boot": f"{self.now}"}
        steps = [
            ("dhcp", "dhcp", {"request": "discover", "firmware": "x86 BIOS", "status": "ok"}),
            ("tftp", "transfer", {"path": "/ltsp/amd64/ipxe/undionly.kpxe", "status": "ok"}),
            ("plan", "menu", {"path": "/ltsp/amd64/boot.ipxe", "status": "ok", "digest": digest}),
            ("beacon", "initramfs", said),
        ]
        if digest == self.digest("candidate") and mac in self.sick:
            steps += [("beacon", "join", {**said, "status": "error", "detail": "kubelet is dead"})]
        else:
            steps += [("beacon", "ready", said)]
        for source, phase, detail in steps:
            self.now += 0.5
            self.nodes.record(Event(self.now, mac, source, phase, {"image": "amd64", **detail}))
        if self.attached is not None:
            for readers in self.attached.values():
                if mac in readers:
                    readers.remove(mac)
            self.attached.setdefault(digest, []).append(mac)
        return digest

    def turn(self, count: int = 1, seconds: float = 30.0) -> None:
        for _ in range(count):
            self.now += seconds
            self.conductor.turn()

    def phases(self) -> Sequence[str]:
        assert self.conductor.rollout is not None
        return [one.phase for one in self.conductor.rollout.machines.values()]
