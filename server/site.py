"""All that plans are made of, and the error of a machine that gets none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from imagebuild.store.images import Image
from server.errors import ServerError
from server.farm.config import Config, Menu
from server.farm.defaultimage import DefaultImage
from server.farm.extras import NO_EXTRAS, Extras
from server.farm.inventory import inventory_line, not_listed
from server.farm.peers import OtherServer
from server.ltsconf import Conf, NodeId
from server.rollout.overlay import NO_OVERLAY, Overlay


@dataclass(frozen=True)
class Site:
    """All that plans are made of, as it stands at one moment; replaced as a whole.

    unlisted: what machines outside the inventory get: boot, menu or refuse. servers: the farm's
    other servers as they were last seen. refused: images of the store that may not be served,
    each with the reason in one line (`require_signed`).
    overlay: the images that a rollout gives to machines in place of lts.conf's.
    """

    images: tuple[Image, ...]
    ltsconf: Conf
    default_image: DefaultImage = None
    cmdline: tuple[str, ...] = ()
    on_error: str = "shell"
    loader: str = "ipxe"
    menu: Menu = field(default_factory=Menu)
    unlisted: str = "boot"
    facts: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, Any] = field(default_factory=dict, repr=False)
    extras: Extras = NO_EXTRAS
    servers: tuple[OtherServer, ...] = ()
    refused: tuple[tuple[Image, str], ...] = ()
    overlay: Overlay = NO_OVERLAY

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of all images of the store, also of those that may not be served."""
        return frozenset(image.name for image in (*self.images, *(one for one, _ in self.refused)))

    def find_image(self, name: str, tag_or_digest: str) -> Image | None:
        """The image of that name with a tag, or a whole digest."""
        for image in self.images:
            if image.name == name and (
                image.digest == tag_or_digest or tag_or_digest in image.tags
            ):
                return image
        return None


def make_site(
    config: Config,
    images: tuple[Image, ...],
    ltsconf: Conf,
    secrets: Mapping[str, Any],
    extras: Extras = NO_EXTRAS,
) -> Site:
    """The Site of what farm.yaml says, with these images, text, secrets and extras."""
    return Site(
        images=images,
        ltsconf=ltsconf,
        default_image=config.default_image,
        cmdline=config.cmdline,
        on_error=config.on_error,
        loader=config.loader,
        menu=config.menu,
        unlisted=config.unlisted,
        facts=config.facts,
        secrets=secrets,
        extras=extras,
    )


class UnlistedError(ServerError):
    """The inventory does not list the machine, and farm.yaml lets only listed ones boot."""

    def __init__(self, node: NodeId) -> None:
        super().__init__(
            f"{not_listed(node)}, and farm.yaml lets only listed machines boot",
            hint=f"add `{inventory_line(node)}` below inventory: there",
            cause="not_listed",
        )
