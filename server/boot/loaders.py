"""Which loader DHCP names to a machine: by its MAC, as lts.conf and the store say."""

from collections.abc import Callable

from imagebuild.architecture import ARCHITECTURES
from imagebuild.store.images import Image
from server.boot.choice import choose_served
from server.content import Refused
from server.errors import ServerError
from server.farm.inventory import Inventory
from server.ltsconf import NodeId
from server.protocols.dhcp import Client, Loaders
from server.site import Site, UnlistedError

IPXE_SCRIPT = "boot.ipxe"


def find_loaders(
    client: Client,
    site: Site,
    inventory: Inventory,
    *,
    proxy: bool,
    only_listed: bool = False,
    grub: bool = False,
) -> Loaders:
    """The loaders of the image that this machine boots.

    proxy: the addresses come from another DHCP server. only_listed: a machine
    that is not in the inventory gets none. grub: for firmware of its own kind, rather
    than iPXE. Raises Refused that says why.
    """
    machine = inventory.by_mac.get(client.mac)
    node = NodeId(
        hostname=machine.hostname if machine else None,
        ip=machine.ip if machine else None,
        mac=client.mac,
    )
    if machine is None and only_listed:
        error = UnlistedError(node)
        raise Refused(error.one_line(), error.cause)
    return loaders_of(_choose(site, node, client.architecture), proxy=proxy, grub=grub)


def make_find_loaders(
    site: Callable[[], Site],
    inventory: Callable[[], Inventory],
    *,
    proxy: bool,
    grub: Callable[[], bool] = lambda: False,
) -> Callable[[Client], Loaders]:
    """`find_loaders` for a running server, where site and inventory change under it."""

    def find(client: Client) -> Loaders:
        now = site()
        only_listed = now.unlisted == "refuse"
        return find_loaders(
            client, now, inventory(), proxy=proxy, only_listed=only_listed, grub=grub()
        )

    return find


def loaders_of(image: Image, *, proxy: bool, grub: bool = False) -> Loaders:
    """What an image has for each firmware: iPXE, which fetches the rest over HTTP many
    times faster, or GRUB where that is wanted (docs/dhcp.md, iPXE or GRUB).

    An image without iPXE gives GRUB, but never beside another DHCP server: GRUB looks for
    its menu at the server that gave the address, whatever the boot server's offer said
    (docs/dhcp.md, GRUB and proxyDHCP).
    """

    def path(file: str) -> str:
        return f"/ltsp/{image.name}/{file}" if f"boot/{file}" in image.manifest.files else ""

    architecture = image.manifest.architecture
    found = {"bios": "", "uefi": "", "http": ""}
    for firmware in ARCHITECTURES[architecture].firmware if architecture in ARCHITECTURES else ():
        ipxe = path(firmware.ipxe_path)
        wants_grub = not proxy and (grub or not ipxe)
        kind = "bios" if firmware.is_bios else "uefi"
        found[kind] = path(firmware.grub_path) if wants_grub else ipxe
        if firmware.http:
            found["http"] = ipxe
    return Loaders(
        image.name,
        **found,
        architecture=architecture,
        # A card's own iPXE is given GRUB, too, where that is wanted.
        ipxe="" if grub and not proxy else f"/ltsp/{image.name}/{IPXE_SCRIPT}",
    )


def _choose(site: Site, node: NodeId, architecture: str) -> Image:
    """The node's image; where its IMAGE is wrong, or of another architecture, the default,
    whose menu then says so.

    A template is not rendered for this: the default image's loader asks for the
    node's own menu, too.
    """
    try:
        wanted = site.ltsconf.peek(node).get("IMAGE", "")
        return choose_served(site, wanted, architecture=architecture)[0]
    except ServerError as error:
        try:
            return choose_served(site, "", architecture=architecture)[0]
        except ServerError:
            raise Refused(error.one_line(), error.cause) from error
