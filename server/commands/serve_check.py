"""`bootfarm serve --check`: all that the server would meet at its start, looked at before.

Everything is told at once, with file and line where there is one. Nothing is
written, and a port is held for as long as it takes to see that it can be had.
"""

import asyncio
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagebuild.errors import count_words, render_check
from imagebuild.store.images import CURRENT, Image
from server.assemble.disk import look_at_extras, make_keeper, make_token, open_nodes, open_store
from server.assemble.parts import list_seen
from server.assemble.rollouts import check_rollouts
from server.assemble.services import fix_names, read_range
from server.boot.plan import PlanError, choose_image
from server.boot.rehearsal import Rehearser, survey
from server.commands.lts_given import Scene
from server.commands.lts_machines import check_on_machines
from server.commands.serve_settings import find_idle, find_shared, list_ports
from server.errors import ServerError
from server.farm.config import Config, explain_hosts_file, load_config
from server.farm.defaultimage import list_defaults
from server.farm.extras import NO_EXTRAS, open_extras, refuse_own
from server.farm.flags import parse_exports, parse_services
from server.farm.limits import apply_limits
from server.join.account import open_account
from server.ltsconf import LtsConf, LtsConfError, NodeId
from server.ltsconf.reading import Given, read_text
from server.ltsconf.redact import redact
from server.protocols.dhcp import Loaders
from server.protocols.http import HttpLimits
from server.services.dhcp import DhcpLimits, DhcpService
from server.services.dns import DnsLimits
from server.services.limits import NbdLimits, TftpLimits
from server.services.ports import bind_port
from server.site import Site, make_site
from server.sources.images import StoreSource
from server.sources.ltsconf import LtsConfSource
from server.sources.secrets import SecretsSource
from server.sources.trial import Audience
from server.yamlfile import Faults, FaultsError, Source, locate

_PLACE = re.compile(r"(\S+?):(\d+)(?::\d+)?: ")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: words that begin with its place, and the remedy."""

    words: str
    hint: str

    def render(self) -> str:
        """The fault as text: one line, and one with the remedy."""
        return f"{self.words}\n  hint: {self.hint}" if self.hint else self.words


@dataclass(frozen=True)
class Report:
    """What the check found. warnings: what works, and is likely not meant.

    checked: what was looked at, with counts.
    """

    faults: tuple[Fault, ...]
    warnings: tuple[Fault, ...]
    checked: tuple[str, ...]

    def render(self) -> str:
        """For people: every fault, every warning, and the counts at the end."""
        faults = [fault.render() for fault in self.faults]
        warnings = [warning.render() for warning in self.warnings]
        return render_check(faults, warnings, self.checked)


def check_serve(
    config_file: Path | None,
    flags: Mapping[str, Any],
    override: Callable[..., Config],
    *,
    ports: bool = True,
) -> Report:
    """Look at everything that `bootfarm serve` with these flags would use.

    flags: as `bootfarm serve` has them, a port as `tftp_port`, `services` and `exports` as
    they were typed. override: server.farm.flags.override. ports: whether to bind them.
    """
    check = _Check()
    config = check.read_farm(config_file, flags, override)
    if config is not None:
        check.check_settings(config)
        secrets = check.read_secrets(config)
        images = check.check_store(config)
        check.check_lts_conf(config, images, secrets)
        if ports:
            check.check_ports(config)
    return Report(_order(check.faults), _order(check.warnings), tuple(check.checked))


def _order(faults: Sequence[Fault]) -> tuple[Fault, ...]:
    """Those of one file by their lines, and the files as they were first told."""
    places: dict[str, int] = {}

    def place(fault: Fault) -> tuple[int, int]:
        match = _PLACE.match(fault.words)
        file = match[1] if match else ""
        return places.setdefault(file, len(places)), int(match[2]) if match else 0

    return tuple(sorted(faults, key=place))


class _Check:
    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.warnings: list[Fault] = []
        self.checked: list[str] = []
        self._source = "farm.yaml"
        self._flags: frozenset[str] = frozenset()
        self._fits_dhcp = True
        self._unbootable = ""
        """Why the default image cannot be booted: told once, and not for each machine."""

    # Telling

    def _place(self, key: str) -> str:
        """Where a setting stands: its flag, its line, or its name alone where it is the default."""
        top, _, below = key.partition(".")
        if key in self._flags or (top in self._flags and not below):
            name = f"{top}_{below}" if below else top
            return f"--{'export' if name == 'exports' else name.replace('_', '-')}"
        if isinstance(self._source, Source) and self._source.has(key):
            return locate(self._source, key)
        return f"{key} (the default)"

    def _tell(self, error: ServerError, key: str = "") -> None:
        faults = error.faults if isinstance(error, FaultsError) else (error,)
        for fault in faults:
            words = fault.message
            if isinstance(fault, LtsConfError) and fault.path and fault.line:
                words = f"{fault.path}:{fault.line}:{max(fault.column, 1)}: {words}"
            elif isinstance(fault, LtsConfError) and fault.path and key:
                words = f"{self._place(key)}: {fault.path}: {words}"
            elif key and words.startswith(f"{self._source}: "):
                words = words.removeprefix(f"{self._source}: ").removeprefix(f"{key}: ")
                words = f"{self._place(key)}: {words}"
            elif key and not words.startswith(f"{self._source}:"):
                words = words.removeprefix(f"--{key.replace('_', '-')} ")
                words = f"{self._place(key)}: {words}"
            self._add(words, fault.hint or "")

    def _add(self, words: str, hint: str) -> None:
        fault = Fault(words, hint)
        if fault not in self.faults:
            self.faults.append(fault)

    @contextmanager
    def _catch(self, key: str = "") -> Iterator[None]:
        """A ServerError from within is a fault of the setting `key`."""
        try:
            yield
        except ServerError as error:
            self._tell(error, key)

    # farm.yaml and flags

    def read_farm(
        self, path: Path | None, flags: Mapping[str, Any], override: Callable[..., Config]
    ) -> Config | None:
        """The config of file and flags; a wrong key has its default.

        None: the file cannot be read, and whatever else could be told may be wrong.
        """
        config = Config()
        if path is not None:
            faults = Faults()
            try:
                config = load_config(path, faults=faults)
            except ServerError as error:
                self._tell(error)
                self.checked.append(str(path))
                return None
            self._source = config.source
            for fault in faults.found:
                self._tell(fault)
            machines = count_words(len(config.inventory.machines), "machine")
            self.checked += [str(path), f"inventory ({machines})"]
        given = {name: value for name, value in flags.items() if value not in (None, ())}
        named = {name.removesuffix("_port"): name for name in given if name.endswith("_port")}
        self._flags = frozenset(given) | frozenset(f"{name}.port" for name in named)
        for name, value in given.items():
            with self._catch():
                config = _give(override, config, name, value)
        return config

    def check_settings(self, config: Config) -> None:
        """What one key allows and others do not, and the files and folders that keys name."""
        for name, limits in (("tftp", TftpLimits()), ("nbd", NbdLimits()), ("http", HttpLimits())):
            given = getattr(config, name).limits
            self._try_limits(limits, given, config, f"{name}.limits")
        self._try_limits(DhcpLimits(), config.dhcp_limits, config, "dhcp_limits")
        if (zone := config.dns) is not None:
            self._try_limits(DnsLimits(), zone.limits, config, "dns.limits")
            with self._catch("dns"):
                fix_names(config, zone)
        if config.dhcp_range is not None:
            before = len(self.faults)
            with self._catch("dhcp_range"):
                read_range(config)
            self._fits_dhcp = len(self.faults) == before
        if (config.dhcp == "full") != (config.dhcp_range is not None):
            key = "dhcp" if config.dhcp == "full" else "dhcp_range"
            self._fits_dhcp = False
            self._add(
                f"{self._place(key)}: full gives addresses of a dhcp_range, and nothing else does",
                "`dhcp: full` and `dhcp_range: A-B` go together; proxy and off have no range",
            )
        if problem := explain_hosts_file(config):
            words = problem.removeprefix("hosts_file: ")
            self._add(f"{self._place('hosts_file')}: {words}", "its path, or none")
        told = any("inventory" in fault.words for fault in self.faults)
        if config.unlisted == "refuse" and not config.inventory.machines and not told:
            self._add(
                f"{self._place('unlisted')}: refuse, and the inventory lists no machine: none can"
                " boot",
                "list the machines below inventory, or write `unlisted: boot`",
            )
        if config.collect_after is not None and config.state is None:
            with self._catch("collect_after"):
                make_keeper(config, None)
        for name, file in config.exports.items():
            with self._catch(f"exports.{name}"):
                open_extras({name: file}, None)
        with self._catch("boot_tree"):
            refuse_own(config.boot_tree, config.own_paths)
            open_extras({}, config.boot_tree)
        if not self.faults:
            with self._catch("exports" if config.exports else "boot_tree"):
                look_at_extras(config)
        with self._catch("token_file"):
            make_token(config)
        for wanted, other in find_shared(config):
            self._add(
                f"{self._place(wanted.key)}: {wanted.kind.upper()} port {wanted.port} is"
                f" {other}'s already",
                "give one of them another port",
            )
        for idle in find_idle(config):
            self._warn(f"{self._place(idle.key)}: {idle.words}", idle.hint)
        with self._catch("rollout"):
            check_rollouts(config, config.state)
        if config.join.certificates:
            with self._catch("join"):
                open_account(config.join)
            self._check_joining(config)
        for key in ("state", "record_boot"):
            if (folder := getattr(config, key)) is not None and (problem := _find_obstacle(folder)):
                self._add(
                    f"{self._place(key)}: {folder}: {problem}",
                    "give a directory that the server's user may write to",
                )

    def _check_joining(self, config: Config) -> None:
        """What certificates need besides an account."""
        if config.join.machines == "listed" and not config.inventory.machines:
            self._add(
                f"{self._place('join')}: the inventory lists no machine, and only such ones get a"
                " certificate",
                "list the machines below inventory, or write `machines: any`",
            )
        if "http" not in config.services:
            self._warn(
                f"{self._place('join')}: certificates are asked for over HTTP, which is not served"
                " here",
                "let the process that serves http have `join`, too",
            )

    def _try_limits(
        self, defaults: object, given: Mapping[str, Any], config: Config, path: str
    ) -> None:
        with self._catch(path):
            apply_limits(defaults, given, config.source, path)

    # What is served

    def read_secrets(self, config: Config) -> Mapping[str, Any] | None:
        """The secrets; None where they cannot be read."""
        if config.secrets is None:
            return {}
        source = SecretsSource(config.secrets)
        before = len(self.faults)
        with self._catch("secrets"):
            source.load_first()
        if len(self.faults) > before:
            return None
        self.checked.append(f"secrets ({len(source.current)})")
        return source.current

    def check_store(self, config: Config) -> tuple[Image, ...]:
        """The images; faults where the default one cannot be booted, or something is damaged."""
        has_extras = bool(config.exports) or config.boot_tree is not None
        if config.store is None and has_extras:
            return ()
        store: StoreSource | None = None
        with self._catch("store"):
            store = open_store(config, NO_EXTRAS)
        if store is None:
            return ()
        store.poll()
        images = store.images
        self.checked.append(f"store ({count_words(len(images), 'image')})")
        for problem in store.problems:
            self._add(
                f"{self._place('store')}: {problem}",
                "build or import it again, which replaces it, or take it away: `bootfarm images"
                " rm --force`",
            )
        for image, reason in store.refused:
            if not image.tags:
                continue
            self._add(f"{self._place('require_signed')}: not served: {reason}", "")
        if not images:
            if config.fetching.is_on:
                self._warn(
                    f"{self._place('store')}: the store {config.store} holds no image yet",
                    "the server fetches what its peers and registries have (docs/two-servers.md)",
                )
            elif not has_extras and not store.refused:
                self._add(
                    f"{self._place('store')}: the store {config.store} holds no image",
                    "bootfarm build, or bootfarm images import",
                )
            return ()
        self._check_tags(config, images)
        return images

    def _check_tags(self, config: Config, images: tuple[Image, ...]) -> None:
        names = sorted({image.name for image in images})
        defaults = list_defaults(config.default_image)
        if not defaults and len(names) == 1:
            defaults = [("", names[0])]
        for architecture, default in defaults:
            try:
                choose_image("", images, default, architecture=architecture)
            except PlanError as error:
                key = "default_image" if config.default_image is not None else "store"
                self._unbootable = error.message
                words = error.message.removeprefix(f"{key}: ")
                self._add(f"{self._place(key)}: {words}", error.hint or "")
        if not defaults:
            self._warn(
                f"{self._place('store')}: several images ({', '.join(names)}) and no default_image",
                "name one, unless DHCP's filename or lts.conf's IMAGE does for every machine",
            )
        for name in names:
            current = any(image.name == name and CURRENT in image.tags for image in images)
            if not current and name not in {one.partition(":")[0] for _, one in defaults}:
                self._warn(
                    f"{self._place('store')}: image {name} has no tag {CURRENT!r}",
                    f"bootfarm images tag, if machines are to boot {name} without naming a tag",
                )

    def _warn(self, words: str, hint: str) -> None:
        self.warnings.append(Fault(words, hint))

    def check_lts_conf(
        self, config: Config, images: tuple[Image, ...], secrets: Mapping[str, Any] | None
    ) -> None:
        """What the linter says, and what each machine gets, as at the server's start."""
        path = config.lts_conf
        before = len(self.faults)
        audience = Audience(
            config.inventory, unlisted=config.unlisted, seen=lambda: self._list_seen(config)
        )
        subjects = audience.list()
        site = make_site(config, images, LtsConf.parse(b""), secrets or {})
        conf: Any = site.ltsconf
        if path is not None:
            self._lint(path, config, images, secrets)
            source = LtsConfSource(path, None, site=lambda: site, rehearser=Rehearser(audience))
            # Without the secrets a template that uses them would fail for that alone.
            if len(self.faults) == before and secrets is not None:
                with self._catch("lts_conf"):
                    source.load_first()
                conf = source.current
            self.checked.append(f"{path} (on {count_words(len(subjects), 'machine')})")
        if len(self.faults) > before or not images or secrets is None:
            return
        tried = Site(**{**vars(site), "ltsconf": conf})
        for reason in survey(tried, subjects).reasons:
            if self._unbootable and self._unbootable in reason.words:
                continue
            self._add(
                f"{path or 'no lts.conf'}: {count_words(reason.count, 'machine')} of"
                f" {len(subjects)} cannot boot: {reason.words}",
                f"such as {', '.join(reason.names)}: `bootfarm lts explain` tells more",
            )

    def _list_seen(self, config: Config) -> list[NodeId]:
        """The machines that the server with this state has seen lately.

        A server without HTTP keeps no timelines; a warning where they cannot be read.
        """
        if config.state is None or "http" not in config.services:
            return []
        if not all(os.access(file, os.R_OK) for file in (config.state / "nodes").glob("*.json")):
            self._warn(
                f"{self._place('state')}: what it has of machines seen lately cannot be read: they"
                " are not tried",
                "check as the server's user",
            )
            return []
        return list_seen(open_nodes(config, lambda ip: (None, None), config.state))

    def _lint(
        self,
        path: Path,
        config: Config,
        images: tuple[Image, ...],
        secrets: Mapping[str, Any] | None,
    ) -> None:
        given = Given({}, config.facts, secrets or {}, None)
        scene = Scene(given).of_farm(config, images, secrets)
        try:
            # Without its links, as the server reads it: includes count from where it is.
            root = Path(os.path.realpath(path)).parent
            text = read_text(path, root, bare=True)
            found = text.lint(farm=scene.farm, secrets=scene.secrets)
            found += check_on_machines(text, scene, found)
        except ServerError as error:
            self._tell(error, "lts_conf")
            return
        for problem in found:
            if self._unbootable and self._unbootable in problem.message:
                continue
            words = redact(problem.message, secrets or {})
            words = f"{problem.path}:{problem.line}:{problem.column}: {words}"
            if problem.severity == "error":
                self._add(words, problem.hint)
            else:
                self._warn(words, problem.hint)

    # Ports

    def check_ports(self, config: Config) -> None:
        """Bind each port, and let it go again."""
        shared = [one for one, _ in find_shared(config)]
        held: list[socket.socket] = []
        count = 0
        before = len(self.faults)
        try:
            for one in list_ports(config):
                count += 1
                if one not in shared:
                    with self._catch(one.key):
                        held.append(bind_port(one.service, one.kind, one.address, one.port))
        finally:
            for sock in held:
                sock.close()
        if config.dhcp != "off" and len(self.faults) == before and self._fits_dhcp:
            with self._catch("dhcp"):
                _try_dhcp(config)
        self.checked.append(count_words(count, "port"))


def _give(override: Callable[..., Config], config: Config, name: str, value: Any) -> Config:
    """The config with one flag in it; ServerError if that is wrong."""
    if name == "services":
        value = parse_services(value)
    elif name == "exports":
        value = parse_exports(value)
    return override(config, **{name: value})


def _try_dhcp(config: Config) -> None:
    """Bind as DHCP does: its address and range must be of a network of this machine."""
    loop = asyncio.new_event_loop()
    try:
        service = DhcpService(
            loop,
            mode="proxy" if config.dhcp == "proxy" else "full",
            find_loaders=lambda client: Loaders(""),
            emit=lambda event: None,
            address=config.address or config.listen,
            http_port=config.http.port or None,
            addresses=read_range(config) if config.dhcp_range is not None else None,
        )
        service.bind()
        loop.run_until_complete(service.stop())
    finally:
        loop.close()


def _find_obstacle(folder: Path) -> str:
    """Why a directory cannot be written to, or made; "" if it can."""
    if folder.exists():
        if not folder.is_dir():
            return "is no directory"
        return "" if os.access(folder, os.W_OK | os.X_OK) else "cannot be written to"
    parent = next(path for path in folder.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return f"does not exist and cannot be made in {parent}"
    return ""
