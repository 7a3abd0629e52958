"""What the commands of `bootfarm lts` know besides the text: facts, secrets, images, machines.

`--config farm.yaml` gives all of it at once, as the server has it; the other options add to it,
and count first where both say something.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from imagebuild.store.images import Image, Store
from imagebuild.store.manifest import Manifest, parse_manifest
from imagebuild.wholefile import read_whole
from server.addresses import explain_no_card, explain_no_host, parse_ip, parse_mac
from server.boot.plan import PlanError, choose_image, drop_image
from server.boot.settlement import describe_image, lay_over, settle
from server.errors import ServerError
from server.farm.config import Config, load_config
from server.farm.defaultimage import DefaultImage
from server.farm.inventory import Inventory, load_inventory
from server.ltsconf.conf import LtsConf, NodeId
from server.ltsconf.errors import LtsConfError
from server.ltsconf.reading import Given, Text, fetch_nodes, parse_facts
from server.ltsconf.redact import MASK, list_lines, redact
from server.ltsconf.template import read_secrets
from server.nodes.node import architecture_of
from server.nodes.timelines import TIMELINES, Nodes
from server.rollout.overlay import NO_OVERLAY, Overlay, make_overlay
from server.rollout.state import unpack
from server.site import Site

LARGEST_STATE = 64 << 20
"""Bytes of a rollout's state that are read."""
SHORTEST = 4
"""Characters of a secret that is masked within a longer text."""


@dataclass(frozen=True)
class Options:
    """The options of a command, as they were given."""

    config: Path | None = None
    secrets: Path | None = None
    facts: tuple[str, ...] = ()
    image: str | None = None
    store: Path | None = None
    inventory: Path | None = None
    show_secrets: bool = False


@dataclass(frozen=True)
class Scene:
    """What is known beside the text: facts, secrets, images, machines.

    certificates: whether machines may join without a token; None where nobody says.
    images, default_image: what the server would choose from. overlay: the images that a rollout
    gives to machines. architectures: by MAC, of machines that the server has seen. missing: what
    farm.yaml names and this machine has not, a line each.
    """

    given: Given
    defaults: Mapping[str, str] = field(default_factory=dict)
    shown_image: str = ""
    images: tuple[Image, ...] = ()
    default_image: DefaultImage = None
    inventory: Inventory = field(default_factory=Inventory)
    farm: Mapping[str, Any] | None = None
    secrets: Mapping[str, Any] | None = None
    unlisted: str = "boot"
    certificates: bool | None = None
    architectures: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    show_secrets: bool = False
    overlay: Overlay = NO_OVERLAY

    def mask(self, text: str) -> str:
        """The text without the secrets that stand in it, unless they were asked for."""
        if self.show_secrets:
            return text
        whole, within = self._masked
        if text in whole and text.strip():
            return MASK
        for value in within:
            text = text.replace(value, MASK)
        return text

    @cached_property
    def _masked(self) -> tuple[frozenset[str], tuple[str, ...]]:
        """The lines of the secrets, and those long enough to be masked within a text."""
        lines = frozenset(list_lines(self.secrets or {}))
        long = (line for line in lines if len(line) >= SHORTEST)
        return lines, tuple(sorted(long, key=len, reverse=True))

    def hide(self, error: LtsConfError) -> LtsConfError:
        """An error that may quote a secret, with the secret masked."""
        if self.show_secrets:
            return error
        secrets = self.secrets or {}
        return LtsConfError(
            redact(error.message, secrets),
            path=error.path,
            line=error.line,
            column=error.column,
            hint=redact(error.hint or "", secrets),
        )

    def find_node(self, node: NodeId) -> NodeId:
        """The node with what the inventory says of it besides."""
        for machine in self.inventory.machines:
            ids = (machine.mac, machine.ip, (machine.hostname or "").lower() or None)
            asked = (node.mac, node.ip, (node.hostname or "").lower() or None)
            if any(one is not None and one == other for one, other in zip(ids, asked, strict=True)):
                return NodeId(
                    node.hostname or machine.hostname,
                    node.ip or machine.ip,
                    node.mac or machine.mac,
                )
        return node

    def list_nodes(self) -> list[NodeId]:
        """The nodes of the inventory."""
        return [NodeId(one.hostname, one.ip, one.mac) for one in self.inventory.machines]

    def of_farm(
        self, config: Config, images: tuple[Image, ...], secrets: Mapping[str, Any] | None
    ) -> Scene:
        """This scene with what farm.yaml says, and its store and secrets, as they were read."""
        return replace(
            self,
            images=images,
            default_image=config.default_image,
            inventory=config.inventory,
            farm=config.facts,
            secrets=secrets,
            unlisted=config.unlisted,
            certificates=config.join.certificates,
        )

    def find_known(self, node: NodeId) -> dict[str, Any]:
        """What templates know of a node besides its ids: the inventory's facts, and over them those
        of --fact."""
        machine = self.inventory.by_mac.get(node.mac) if node.mac else None
        known = machine.known if machine else {}
        given = dict(self.given.node)
        if "labels" in given:
            given["labels"] = {**known.get("labels", {}), **given["labels"]}
        return {**known, **given}

    def make_conf(self, text: Text, node: NodeId) -> LtsConf:
        """What counts for a node: rendered, if it is a template. Raises LtsConfError."""
        source = text.make_source()
        try:
            if source.needs_rendering and self.given.image is None and self.images:
                site = Site(
                    self.images,
                    source,
                    self.default_image,
                    facts=self.given.farm,
                    secrets=self.given.secrets,
                    overlay=self.overlay,
                )
                return settle(site, node, self.find_known(node)).conf
            whole = replace(self.given, node=self.find_known(node))
            return source.render(whole.make_facts(node))
        except LtsConfError as error:
            raise self.hide(error) from None
        except ServerError as error:
            raise LtsConfError(
                redact(error.message, self.secrets or {}), hint=error.hint or ""
            ) from None

    def find_defaults(self, conf: LtsConf, node: NodeId) -> tuple[Mapping[str, str], str]:
        """The `lts_defaults` of the image that the node boots, and how to name that image."""
        if self.defaults or self.shown_image or not self.images:
            return self.defaults, self.shown_image
        try:
            wanted = conf.resolve(node).get("IMAGE", "")
            image, _ = choose_image(wanted, self.images, self.default_image)
            image, _ = lay_over(self.images, self.overlay, node, wanted, image)
        except PlanError:
            return {}, ""
        return drop_image(image.manifest.lts_defaults), f"{image.name}@{image.digest[:12]}"

    def explain_rollout(self, conf: LtsConf, node: NodeId) -> str:
        """What a rollout has to do with the image of a node, or ""."""
        wanted = conf.resolve(node).get("IMAGE", "")
        try:
            image, _ = choose_image(wanted, self.images, self.default_image)
        except PlanError:
            return ""
        return lay_over(self.images, self.overlay, node, wanted, image)[1]


def gather(options: Options) -> Scene:
    """Everything that the options name, read; ServerError (file, remedy) for what is wrong."""
    scene = Scene(Given(), show_secrets=options.show_secrets)
    missing: list[str] = []
    if options.config is not None:
        scene, missing = _read_config(options.config, scene, options)
    about_node, about_farm = parse_facts(options.facts)
    secrets = scene.secrets
    if options.secrets is not None:
        secrets = {**(secrets or {}), **read_secrets(options.secrets)}
    farm = None if scene.farm is None else {**scene.farm, **about_farm}
    if options.inventory is not None:
        scene = replace(scene, inventory=load_inventory(options.inventory))
    if options.store is not None:
        scene = replace(scene, images=_read_store(options.store))
    manifest, shown = _find_image(options, scene)
    about_image = None
    if manifest is not None:
        about_image = describe_image(manifest)
        about_node = {"arch": manifest.architecture, **about_node}
    return replace(
        scene,
        given=Given(
            about_node, farm if farm is not None else about_farm, secrets or {}, about_image
        ),
        defaults=drop_image(manifest.lts_defaults) if manifest is not None else {},
        shown_image=shown,
        farm=farm,
        secrets=secrets,
        missing=tuple(missing),
    )


def _read_store(path: Path) -> tuple[Image, ...]:
    """The images; ServerError where there are none, for nothing would be compared with them."""
    images = tuple(Store(path).images()) if path.is_dir() else ()
    if not images:
        what = "holds no image" if path.is_dir() else "is no directory"
        raise ServerError(f"--store {path} {what}", hint="name the store that the server has")
    return images


def _read_config(path: Path, scene: Scene, options: Options) -> tuple[Scene, list[str]]:
    config = load_config(path)
    missing: list[str] = []
    secrets: Mapping[str, Any] | None = {}
    if config.secrets is not None:
        if config.secrets.is_dir():
            secrets = read_secrets(config.secrets)
        else:
            secrets = None
            missing.append(f"{path}: secrets: {config.secrets} is not here")
    images: tuple[Image, ...] = ()
    if config.store is not None and options.store is None:
        if config.store.is_dir():
            images = tuple(Store(config.store).images())
        else:
            missing.append(f"{path}: store: {config.store} is not here")
    overlay = _read_overlay(config) if config.rollout.enabled else NO_OVERLAY
    scene = scene.of_farm(config, images, secrets)
    architectures = _read_architectures(config.state)
    return replace(scene, overlay=overlay, architectures=architectures), missing


def _read_architectures(state: Path | None) -> dict[str, str]:
    """MAC to architecture, of the machines whose timelines the server keeps here; none where it
    keeps them elsewhere, or lets nobody else read them."""
    if state is None or not os.access(state / TIMELINES, os.R_OK | os.X_OK):
        return {}
    nodes = Nodes()
    nodes.load(state / TIMELINES)
    return {
        node.mac: found for node in nodes.nodes() if node.mac and (found := architecture_of(node))
    }


def _read_overlay(config: Config) -> Overlay:
    """What the server's rollout gives to machines, as it was written down last."""
    file = config.state / "rollout.json" if config.state is not None else None
    if file is None or not file.is_file():
        return NO_OVERLAY
    try:
        return make_overlay(unpack(read_whole(file, LARGEST_STATE), str(file)))
    except OSError as error:
        raise ServerError(
            f"{file}: {error.strerror}", hint="run it as the server's user, or leave --config out"
        ) from None


def _find_image(options: Options, scene: Scene) -> tuple[Manifest | None, str]:
    image = options.image
    if image is None:
        return None, ""
    path = Path(image)
    if path.is_file():
        manifest = parse_manifest(path.read_bytes())
        return manifest, manifest.name
    if not scene.images and options.store is None:
        raise LtsConfError(
            f"--image {image!r} is no file", hint="Give a manifest.json, or --store and a name."
        )
    if options.store is not None:
        name, _, tag = image.replace("@", ":").partition(":")
        found = Store(options.store).get(name, tag or "current")
    else:
        found, _ = choose_image(image, scene.images, scene.default_image)
    return found.manifest, f"{found.name}@{found.digest[:12]}"


def parse_node(hostname: str | None, ip: str | None, mac: str | None) -> NodeId:
    """The ids of the options; UsageError for what no machine has."""
    if hostname is not None and not hostname.strip():
        raise click.BadParameter(f"{hostname!r} is no host name", param_hint="--hostname")
    if mac is not None:
        plain = "".join(char for char in mac.strip() if char not in ":.-")
        pairs = ":".join(plain[at : at + 2] for at in range(0, len(plain), 2))
        if len(plain) != 12 or parse_mac(pairs) is None:
            raise click.BadParameter(
                f"{mac!r} is no MAC address: write six pairs, as 52:54:00:12:34:56",
                param_hint="--mac",
            )
        mac = parse_mac(pairs) or ""
        if why := explain_no_card(mac):
            raise click.BadParameter(f"{mac} {why}", param_hint="--mac")
    if ip is not None:
        address = parse_ip(ip)
        if address is None:
            raise click.BadParameter(
                f"{ip!r} is no IPv4 address: write four numbers, without a mask", param_hint="--ip"
            )
        if why := explain_no_host(address):
            raise click.BadParameter(f"{address} {why}", param_hint="--ip")
        ip = address
    return NodeId(hostname, ip, mac)


def list_nodes(scene: Scene, server: str | None, node: NodeId) -> list[NodeId]:
    """All nodes that the options name: the inventory's, those that a server has seen, one more.

    Without any, those of the server that BOOTFARM_SERVER names.
    """
    nodes = scene.list_nodes()
    has_one = node != NodeId()
    if server is None and not nodes and not has_one:
        server = os.environ.get("BOOTFARM_SERVER") or None
    if server is not None:
        known = {one.mac for one in nodes}
        nodes += [one for one in fetch_nodes(server) if one.mac not in known]
    if has_one:
        whole = scene.find_node(node)
        if whole.mac is None or whole.mac not in {one.mac for one in nodes}:
            nodes.append(whole)
        elif whole != node or len(nodes) > 1:
            nodes = [whole]
    return nodes
