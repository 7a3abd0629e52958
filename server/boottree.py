"""The boot tree of TFTP and HTTP, and NBD's export names: what a client gets for what it writes.

A path is taken apart and each part is compared with what there is; text from a
client never becomes part of a path on disk, but for a folder that `--boot-tree`
names, which it cannot leave (server/extras.py).
"""

import functools
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagebuild.manifest import MANIFEST_NAME, is_digest, is_image_name
from imagebuild.store import Image
from server.background import Background, Job, shared_background
from server.bootplan import BootPlan, Farm, plan_boot
from server.config import Menu
from server.content import BytesContent, Content, Export, FileContent, NotFound, Refused
from server.errors import ServerError
from server.extras import NO_EXTRAS, Extras
from server.identity import Identifier, Identity
from server.inventory import inventory_line, not_listed
from server.ltsconf import LtsConf, LtsTemplate, NodeId
from server.ltsconf.template import RenderingFailedError
from server.netboot import (
    render_grub_cfg,
    render_grub_error,
    render_grub_held,
    render_ipxe,
    render_ipxe_error,
    render_ipxe_held,
)
from server.rendering import Known, NotYetError, plan_template

MAX_PATH = 1024
MAX_PLANS = 4096
MAX_JOBS = 1024
"""Nodes that wait for their rendering; more than that are told to ask again."""
AGAIN_SECONDS = 60.0
"""A rendering that was too slow is tried again after so long: perhaps the machine was busy."""
GRUB_ARCHITECTURES = ("i386-pc", "x86_64-efi")
ROOTFS = "rootfs.squashfs"
_ASK_AGAIN = "ask again in some seconds; if that does not end, the template is too slow"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Site:
    """All that plans are made of, as it stands at one moment; replaced as a whole.

    unlisted: what machines outside the inventory get: boot, menu or refuse.
    """

    images: tuple[Image, ...]
    ltsconf: LtsConf | LtsTemplate
    default_image: str | None = None
    cmdline: tuple[str, ...] = ()
    on_error: str = "shell"
    menu: Menu = field(default_factory=Menu)
    unlisted: str = "boot"
    facts: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, Any] = field(default_factory=dict, repr=False)
    extras: Extras = NO_EXTRAS


@dataclass(frozen=True)
class Ports:
    """Where nodes find the services. address_of: client IP -> the server's address for it."""

    http: int
    nbd: int
    address_of: Callable[[str], str]


@dataclass(frozen=True)
class Held:
    """A machine that has a plan, and boots it only when a person says so."""

    plan: BootPlan
    reason: str


Told = Callable[[str, str, BootPlan | Held | str], None]
"""(client IP, path, the plan that was made for it or why there is none)."""


class UnlistedError(ServerError):
    """A machine outside the inventory, where farm.yaml lets only listed ones boot."""

    def __init__(self, node: NodeId) -> None:
        super().__init__(
            f"{not_listed(node)}, and farm.yaml lets only listed machines boot",
            hint=f"add `{inventory_line(node)}` below inventory: there, and restart bootfarm",
        )


class BootTree:
    """Looks paths and exports up for a client; one for all services.

    site: gives the present Site. Plans are remembered until the Site changes.
    """

    def __init__(
        self,
        site: Callable[[], Site],
        identifier: Identifier,
        ports: Ports,
        told: Told = lambda client, path, outcome: None,
        background: Background | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._site = site
        self._identifier = identifier
        self._ports = ports
        self._told = told
        self._background = background or shared_background()
        self._clock = clock
        self._jobs: dict[tuple[Identity, str], Job[BootPlan]] = {}
        self._again: dict[tuple[Identity, str], float] = {}
        self._plans: OrderedDict[tuple[Identity, str], BootPlan | ServerError] = OrderedDict()
        self._planned_for: Site | None = None

    def lookup(self, path: str, client_ip: str, mac: str | None = None) -> Content:
        """What `path` is for the client at `client_ip`.

        mac: what the client says its MAC is. Raises NotFound or Refused, and
        nothing else on any input.
        """
        try:
            return self._lookup(path, client_ip, mac)
        except ServerError as error:
            raise NotFound(_one_line(error)) from error
        except (NotFound, Refused):
            raise
        except Exception as error:
            _log.exception("looking up %r for %s", path[:200], client_ip)
            raise NotFound("the server could not look this up; its log says why") from error

    def plan(self, client_ip: str, name: str | None = None, mac: str | None = None) -> BootPlan:
        """The plan of the node at an address; ServerError when it has none, or Refused."""
        site = self._site()
        if site is not self._planned_for:
            self._forget()
            self._planned_for = site
        identity = self._identifier.identify(client_ip, mac)
        if site.unlisted == "refuse" and not self._is_listed(identity):
            raise UnlistedError(identity.node_id)
        key = (identity, name or "")
        if key in self._again and self._clock() >= self._again[key]:
            del self._again[key]
            self._plans.pop(key, None)
        found = self._plans.get(key)
        if found is None:
            found = self._plans[key] = self._make_plan(site, identity, name)
            if isinstance(found, RenderingFailedError):
                self._again[key] = self._clock() + AGAIN_SECONDS
            if len(self._plans) > MAX_PLANS:
                self._plans.popitem(last=False)
        if isinstance(found, ServerError):
            raise found
        return found

    def export(self, name: str, client_ip: str) -> Export | None:
        """The NBD export of that name for a client: `[/]opt/ltsp/<image>[@<digest>]`, or a
        further one of farm.yaml or `--export`."""
        word = name.removeprefix("/").removeprefix("opt/ltsp/")
        if word == name.removeprefix("/"):
            return self._site().extras.export(name)
        head, separator, digest = word.partition("@")
        if not is_image_name(head):
            return None
        if separator:
            image = self._find_image(head, digest)
        else:
            image = self._planned_image(head, client_ip, name)
        return _export(image) if image is not None else None

    def list_exports(self, client_ip: str) -> Sequence[str]:
        """Names for NBD_OPT_LIST: the further ones, each image's current one, one a digest."""
        site = self._site()
        images = site.images
        current = [f"/opt/ltsp/{image.name}" for image in images if "current" in image.tags]
        exact = [f"/opt/ltsp/{image.name}@{image.digest}" for image in images]
        return [*site.extras.exports, *current, *exact]

    # Inside

    def _make_plan(
        self, site: Site, identity: Identity, name: str | None
    ) -> BootPlan | ServerError:
        farm = Farm(
            address=self._ports.address_of(identity.ip),
            http_port=self._ports.http,
            nbd_port=self._ports.nbd,
            default_image=site.default_image,
            cmdline=site.cmdline,
            on_error=site.on_error,
        )
        conf = site.ltsconf
        if isinstance(conf, LtsTemplate):
            return self._await_plan(site, conf, identity, farm, name)
        try:
            return plan_boot(identity.node_id, site.images, conf, farm, name)
        except ServerError as error:
            return error

    def _await_plan(
        self, site: Site, template: LtsTemplate, identity: Identity, farm: Farm, name: str | None
    ) -> BootPlan | ServerError:
        """A plan out of a template, made in the background; NotYetError when that takes long."""
        key = (identity, name or "")
        job = self._jobs.get(key)
        if job is None:
            if len(self._jobs) >= MAX_JOBS:
                self._jobs = {key: job for key, job in self._jobs.items() if not job.done.is_set()}
            if len(self._jobs) >= MAX_JOBS:
                raise NotYetError(
                    f"{len(self._jobs)} nodes wait for their rendering of lts.conf", hint=_ASK_AGAIN
                )
            known = Known(site.facts, site.secrets, identity.known)
            make = functools.partial(
                plan_template, identity.node_id, site.images, template, farm, name, known
            )
            job = self._jobs[key] = self._background.submit(make)
        if not self._background.wait(job):
            raise NotYetError("this node's lts.conf is still being rendered", hint=_ASK_AGAIN)
        del self._jobs[key]
        outcome = job.outcome
        if isinstance(outcome, Exception) and not isinstance(outcome, ServerError):
            raise outcome
        return outcome

    def _forget(self) -> None:
        """Plans and work for a Site that is no more."""
        for job in self._jobs.values():
            job.cancelled = True
        self._jobs.clear()
        self._plans.clear()
        self._again.clear()

    def _planned_image(self, name: str, client_ip: str, export: str = "") -> Image | None:
        """The image of the client's plan; without a plan, the current one of that name.

        export: what is told of when there is none; a loader's files are not,
        for the menu that the loader asks for next will say it.
        """
        try:
            return self.plan(client_ip, name).image
        except ServerError as error:
            if export:
                self._told(client_ip, export, _one_line(error))
                if isinstance(error, NotYetError):
                    return None  # which one it boots is not known yet
            return self._find_image(name, "current")

    def _find_image(self, name: str, tag_or_digest: str) -> Image | None:
        for image in self._site().images:
            if image.name == name and (
                image.digest == tag_or_digest or tag_or_digest in image.tags
            ):
                return image
        return None

    def _lookup(self, path: str, client_ip: str, mac: str | None) -> Content:
        parts = _split(path)
        folder = self._site().extras.folder
        if folder is not None and (found := folder.find(parts)) is not None:
            return found
        if len(parts) < 3 or parts[0] != "ltsp" or not is_image_name(parts[1]):
            raise NotFound("the boot tree is /ltsp/<image>/...")
        name, rest = parts[1], parts[2:]
        match rest:
            case [tag, *inner] if tag.startswith("@"):
                return self._exact_file(name, tag[1:], "/".join(inner))
            case ["lts.conf"]:
                return BytesContent(
                    self.plan(client_ip, name, mac).flat.encode("utf-8", "surrogateescape")
                )
            # GRUB tries grub.cfg-01-<mac> and grub.cfg-<address in hex> first: the same
            # answer, five requests earlier.
            case ["grub", file] if file == "grub.cfg" or file.startswith("grub.cfg-"):
                return self._grub_cfg(name, client_ip, path)
            case ["grub", arch, "grub.cfg"] if arch in GRUB_ARCHITECTURES:
                return self._grub_cfg(name, client_ip, path)
            case ["boot.ipxe"]:
                return self._ipxe(name, client_ip, path)
            case ["vmlinuz" | "initrd.img" as file]:
                return _file(self.plan(client_ip, name).image, file)
            case ["grub" | "ipxe" as kind, *inner]:
                image = self._planned_image(name, client_ip)
                if image is None:
                    raise NotFound(f"there is no image {name}")
                return _loader(image, kind, "/".join(inner))
            case _:
                raise NotFound(f"the boot tree of {name} has no such file")

    def _exact_file(self, name: str, digest: str, file: str) -> Content:
        image = self._find_image(name, digest) if is_digest(digest) else None
        if image is None:
            raise NotFound(f"there is no image {name}@{digest[:12]}; read the menu again")
        return _file(image, file)

    def _is_listed(self, identity: Identity) -> bool:
        """Whether the inventory has it, or it is the server's own machine, where `doctor` runs."""
        ip = identity.ip
        return identity.is_listed or ip.startswith("127.") or ip == self._ports.address_of(ip)

    def _hold(self, plan: BootPlan, client_ip: str) -> Held | None:
        """The plan as one that waits for a person, where farm.yaml wants that for this machine."""
        if self._site().unlisted != "menu":
            return None
        if self._is_listed(self._identifier.identify(client_ip)):
            return None
        return Held(
            plan,
            f"{not_listed(plan.node)}: its boot menu waits for somebody at the machine,"
            f" or for `{inventory_line(plan.node)}` below inventory: in farm.yaml",
        )

    def _grub_cfg(self, name: str, client_ip: str, path: str) -> Content:
        menu = self._site().menu
        try:
            plan = self.plan(client_ip, name)
            held = self._hold(plan, client_ip)
            text = render_grub_held(plan, menu) if held else render_grub_cfg(plan, menu)
            self._told(client_ip, path, held or plan)
        except ServerError as error:
            self._told(client_ip, path, _one_line(error))
            node = self._identifier.identify(client_ip).node_id
            text = render_grub_error(node, error, menu)
        return BytesContent(text.encode())

    def _ipxe(self, name: str, client_ip: str, path: str) -> Content:
        base = f"http://{self._ports.address_of(client_ip)}:{self._ports.http}"
        script = f"/ltsp/{name}/boot.ipxe"
        try:
            plan = self.plan(client_ip, name)
            held = self._hold(plan, client_ip)
            make = render_ipxe_held if held else render_ipxe
            text = make(plan, base, script)
            self._told(client_ip, path, held or plan)
        except ServerError as error:
            self._told(client_ip, path, _one_line(error))
            node = self._identifier.identify(client_ip).node_id
            text = render_ipxe_error(node, error, base, script)
        return BytesContent(text.encode())


def _split(path: str) -> list[str]:
    """A path's parts; empty ones (`//`) left out, dots and odd characters refused."""
    if len(path) > MAX_PATH or not path.isprintable() or "\\" in path:
        raise NotFound("not a path of the boot tree")
    parts = [part for part in path.split("/") if part]
    if "." in parts or ".." in parts:
        raise NotFound("not a path of the boot tree")
    return parts


def _file(image: Image, file: str) -> FileContent:
    """A file of an image, by its key in the manifest."""
    if file == MANIFEST_NAME:
        return _checked(image.path / MANIFEST_NAME)
    if file not in image.manifest.files:
        raise NotFound(f"image {image.name}@{image.digest[:12]} has no file {file}")
    return _checked(image.path.joinpath(*file.split("/")))


def _loader(image: Image, kind: str, file: str) -> FileContent:
    """A boot loader's file of an image. kind: grub or ipxe."""
    prefix = f"boot/{kind}/"
    if not any(known.startswith(prefix) for known in image.manifest.files):
        raise NotFound(
            f"image {image.name}@{image.digest[:12]} has no {kind} loader: build it again"
        )
    return _file(image, prefix + file)


def _checked(path: Path) -> FileContent:
    try:
        return FileContent(path, path.stat().st_size)
    except OSError as error:
        _log.error("%s: %s", path, error.strerror)
        raise NotFound("the file of this image is gone; read the menu again") from None


def _export(image: Image) -> Export | None:
    if ROOTFS not in image.manifest.files:
        return None
    return Export(
        name=f"/opt/ltsp/{image.name}@{image.digest}",
        path=image.path / ROOTFS,
        size=image.manifest.files[ROOTFS].size,
        digest=image.digest,
        description=_describe(image.manifest.versions, image),
    )


def _describe(versions: Mapping[str, str], image: Image) -> str:
    words = [f"{key} {version}" for key, version in sorted(versions.items())]
    return ", ".join([f"{image.name} {image.digest[:12]}", *words])[:200]


def _one_line(error: ServerError) -> str:
    return f"{error}; {error.hint}" if error.hint else str(error)
