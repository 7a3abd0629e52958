"""farm.yaml, lts.conf, its secrets and the store, watched: the last good of each makes the Site."""

import dataclasses
import logging
from collections.abc import Callable

from imagebuild.errors import count_words
from server.background import Background, Job
from server.errors import ServerError
from server.farm.config import Config
from server.farm.extras import open_extras, refuse_own
from server.farm.peers import OtherServer
from server.ltsconf import LtsConfError
from server.rollout.overlay import Overlay
from server.site import Site, make_site
from server.sources.farm import FarmSource
from server.sources.images import StoreSource
from server.sources.ltsconf import LtsConfSource
from server.sources.secrets import SecretsSource
from server.sources.trial import Audience, Rehearser, Trial, Verdict
from server.troubles import Trouble

_log = logging.getLogger(__name__)


class Sources:
    """All that is watched, together: gives the Site that holds now."""

    def __init__(
        self,
        base: Site,
        ltsconf: LtsConfSource,
        store: StoreSource,
        secrets: SecretsSource | None = None,
        rehearser: Rehearser | None = None,
        farm: FarmSource | None = None,
    ) -> None:
        """rehearser: tries lts.conf on the farm's machines, at each change of anything."""
        self.ltsconf = ltsconf
        self.store = store
        self.farm = farm or FarmSource(Config())
        self.secrets = secrets or SecretsSource(None)
        self.audience = rehearser.audience if rehearser is not None else Audience()
        self._rehearser = rehearser
        self.verdict = Verdict()
        self._survey: Trial | None = None
        self._surveyed: tuple[object, object] | None = None
        self._site = base
        self._changed: list[Callable[[], None]] = []
        self._adopted: list[Callable[[Config], None]] = []
        self._background = Background()
        self._trial: tuple[Job[bool], Config] | None = None
        self._rebuild()
        ltsconf.site = lambda: self._site

    @property
    def current(self) -> Site:
        """The Site as it was last seen, without another look."""
        return self._site

    def on_change(self, action: Callable[[], None]) -> None:
        """Have `action` called whenever the Site was replaced."""
        self._changed.append(action)

    def on_farm(self, action: Callable[[Config], None]) -> None:
        """Have `action` called with what of farm.yaml is in force, whenever that has changed."""
        self._adopted.append(action)

    def site(self) -> Site:
        """The present Site, after a look at the files' time stamps."""
        self._look(quick=True)
        return self._site

    def lay_over(self, overlay: Overlay) -> None:
        """Give machines the images of a rollout from now on. What is tried on all machines is
        lts.conf, which has not changed by it."""
        if overlay == self._site.overlay:
            return
        tried = self._surveyed is not None and self._surveyed[0] is self._site
        self._site = dataclasses.replace(self._site, overlay=overlay)
        if tried and self._surveyed is not None:
            self._surveyed = (self._site, self._surveyed[1])
        for action in self._changed:
            action()

    def poll(self) -> None:
        """The thorough look, once a second."""
        self._look(quick=False)
        self.try_out()

    def reload(self) -> None:
        """Read everything again, whether or not it looks changed."""
        self.farm.look_again()
        self.ltsconf.look_again()
        self.secrets.look_again()
        self.store.look_again()
        self.poll()

    @property
    def is_reading(self) -> bool:
        """Whether an edit of farm.yaml or lts.conf is being read or tried."""
        return self.farm.is_reading or self.ltsconf.is_trying or self._trial is not None

    def close(self) -> None:
        """End trials and readings that are under way."""
        if self._survey is not None:
            self._survey.cancel()

    def note_servers(self, servers: tuple[OtherServer, ...]) -> None:
        """The farm's other servers are so from now on."""
        if servers != self._site.servers:
            self._site = dataclasses.replace(self._site, servers=servers)
            for action in self._changed:
                action()

    def try_out(self) -> None:
        """Have what is in force tried on all machines, where anything has changed since.

        A change while a trial is under way ends that trial, and begins another.
        """
        if self._rehearser is None:
            return
        now = (self._site, self.audience.inventory)
        if self._surveyed is None or any(
            one is not other for one, other in zip(now, self._surveyed, strict=True)
        ):
            if self._survey is not None:
                self._survey.cancel()
            self._surveyed = now
            self._survey = self._rehearser.start(self._site)
        if self._survey is not None and self._survey.verdict is not None:
            self._note(self._survey.verdict)
            self._survey = None

    def _note(self, verdict: Verdict) -> None:
        before, self.verdict = self.verdict, verdict
        if verdict == before:
            return
        told = before.list_troubles(self._name)
        for trouble in verdict.list_troubles(self._name):
            if trouble not in told:
                _log.warning("%s", trouble.text)
        if self.ltsconf.path is None:
            return  # there is no lts.conf
        if verdict.warnings and (verdict.warnings, verdict.advice) != (
            before.warnings,
            before.advice,
        ):
            many = f"{count_words(verdict.warnings, 'warning')} of `lts check`"
            first = "the first: " if verdict.warnings > 1 else ""
            _log.warning("%s: in force, with %s: %s%s", self._name, many, first, verdict.advice)

    @property
    def _name(self) -> str:
        return str(self.ltsconf.path) if self.ltsconf.path is not None else "no lts.conf"

    def troubles(self) -> list[Trouble]:
        """What is wrong with the files on disk."""
        farm, store = self.farm, self.store
        found = [Trouble("farm", farm.problem)] if farm.problem else []
        if farm.waiting:
            found.append(Trouble("restart", farm.waiting))
        if self.ltsconf.problem:
            found.append(Trouble("ltsconf", self.ltsconf.problem))
        if self.ltsconf.keep_problem:
            found.append(Trouble("server", self.ltsconf.keep_problem))
        if self.secrets.problem:
            found.append(Trouble("secret", self.secrets.problem))
        if not store.images and not self._site.extras:
            words = f"the store {store.path} holds no image: build or import one"
            if store.refused:
                words = f"no image of the store {store.path} may be served: sign one that may be"
            found.append(Trouble("store", words, stops=True))
        if self.audience.unlisted == "refuse" and not self.audience.inventory.machines:
            words = "unlisted: refuse, and the inventory lists no machine: none can boot"
            found.append(Trouble("machines", words, stops=True))
        return [
            *found,
            *store.troubles(farm.current.default_image),
            *self.verdict.list_troubles(self._name),
        ]

    def problems(self) -> list[str]:
        """The troubles as text, a line each."""
        return [trouble.text for trouble in self.troubles()]

    def _look(self, *, quick: bool) -> None:
        edited = self.ltsconf.has_changed()
        renewed = self.secrets.poll(quick=quick)
        if edited or not quick:
            # Facts come first: a template may be edited together with what it asks for.
            renewed |= self._poll_farm()
        if renewed:
            self._rebuild()
            if self.ltsconf.problem:
                self.ltsconf.look_again()  # what it was refused for may be there now
        # Both are polled, whatever the first says: `or` would leave out the second.
        if any([self.ltsconf.poll(edited), self.store.poll(quick=quick)]):
            self._rebuild()

    # farm.yaml

    def _poll_farm(self) -> bool:
        """Look for an edit, and put it in force if it is good. True when it was."""
        config = self.farm.poll()
        if config is not None:
            if self._trial is not None:
                self._trial[0].cancelled = True
                self._trial = None
            if self._wants_trial(config):
                self._trial = (self._background.submit(self._make_trial(config)), config)
            else:
                return self._adopt(config)
        if self._trial is None or not self._trial[0].done.is_set():
            return False
        job, config = self._trial
        self._trial = None
        outcome = job.outcome
        if isinstance(outcome, LtsConfError):
            self.farm.refuse(outcome)
            return False
        return self._adopt(config)

    def _wants_trial(self, config: Config) -> bool:
        """Whether a config gives a template other facts, or all kernels other arguments, while what
        is in force is of use to some machine."""
        if self._rehearser is None:
            return False
        fails = self.verdict.tried > 0 and self.verdict.failed == self.verdict.tried
        now = self.farm.current
        renders = self.ltsconf.current.needs_rendering
        return not fails and (
            (renders and config.facts != now.facts)
            or (config.cmdline, config.loader) != (now.cmdline, now.loader)
        )

    def _make_trial(self, config: Config) -> Callable[[], bool]:
        """Whether some machine gets its lts.conf with these facts, to be asked in any thread."""
        assert self._rehearser is not None
        site = dataclasses.replace(
            self._site, facts=config.facts, cmdline=config.cmdline, loader=config.loader
        )
        return self._rehearser.make_decision(self.ltsconf.current, site)

    def _adopt(self, config: Config) -> bool:
        now = self.farm.current
        try:
            extras = self._site.extras
            refuse_own(config.boot_tree, config.own_paths)
            if (config.exports, config.boot_tree) != (now.exports, now.boot_tree):
                extras = open_extras(config.exports, config.boot_tree)
            if config.secrets != now.secrets:
                self.secrets.move(config.secrets)
        except ServerError as error:
            self.farm.refuse(error)
            return False
        if config.lts_conf != now.lts_conf:
            self.ltsconf.move(config.lts_conf)
        if not self.farm.take(config):
            return False
        self.audience.inventory = config.inventory
        self.audience.unlisted = config.unlisted
        site = self._site
        made = make_site(config, site.images, site.ltsconf, site.secrets, extras)
        self._site = dataclasses.replace(
            made, servers=site.servers, refused=site.refused, overlay=site.overlay
        )
        for action in self._adopted:
            action(config)
        return True

    def _rebuild(self) -> None:
        self._site = dataclasses.replace(
            self._site,
            images=self.store.images,
            refused=self.store.refused,
            ltsconf=self.ltsconf.current,
            secrets=self.secrets.current,
        )
        for action in self._changed:
            action()
