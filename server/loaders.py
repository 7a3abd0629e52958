"""Which loader a machine is told over DHCP: by its MAC, as lts.conf and the store say."""

from collections.abc import Callable

from imagebuild.store import Image
from server.bootplan import choose_image
from server.boottree import Site, UnlistedError
from server.content import Refused
from server.errors import ServerError
from server.inventory import Inventory
from server.ltsconf import LtsConf, NodeId
from server.protocols.dhcp import Client, Loaders

GRUB_BIOS = "grub/i386-pc/core.0"
GRUB_UEFI = "grub/x86_64-efi/core.efi"
IPXE_BIOS = "ipxe/undionly.kpxe"
IPXE_UEFI = "ipxe/snponly.efi"
IPXE_SCRIPT = "boot.ipxe"


def find_loaders(
    client: Client,
    site: Site,
    inventory: Inventory,
    *,
    proxy: bool,
    only_listed: bool = False,
) -> Loaders:
    """The loaders of the image that this machine boots.

    proxy: the addresses come from another DHCP server. only_listed: a machine
    that is not in the inventory gets none. Raises Refused that says why.
    """
    machine = inventory.by_mac.get(client.mac)
    node = NodeId(
        hostname=machine.hostname if machine else None,
        ip=machine.ip if machine else None,
        mac=client.mac,
    )
    if machine is None and only_listed:
        error = UnlistedError(node)
        raise Refused(f"{error.message}; {error.hint}")
    return loaders_of(_choose(site, node), proxy=proxy)


def make_find_loaders(
    site: Callable[[], Site], inventory: Inventory, *, proxy: bool, only_listed: bool = False
) -> Callable[[Client], Loaders]:
    """`find_loaders` for a running server, where the site changes under it."""
    return lambda client: find_loaders(
        client, site(), inventory, proxy=proxy, only_listed=only_listed
    )


def loaders_of(image: Image, *, proxy: bool) -> Loaders:
    """What an image has for each firmware.

    Beside another DHCP server it is iPXE for all: GRUB looks for its menu at the
    server that gave the address, whatever the boot server's offer said
    (docs/dhcp.md, GRUB and proxyDHCP).
    """

    def path(file: str) -> str:
        return f"/ltsp/{image.name}/{file}" if f"boot/{file}" in image.manifest.files else ""

    return Loaders(
        image.name,
        bios=path(IPXE_BIOS if proxy else GRUB_BIOS),
        uefi=path(IPXE_UEFI if proxy else GRUB_UEFI),
        http=path(IPXE_UEFI),
        ipxe=f"/ltsp/{image.name}/{IPXE_SCRIPT}",
    )


def _choose(site: Site, node: NodeId) -> Image:
    """The node's image; where its IMAGE is wrong, the default, whose menu then says so.

    A template is not rendered for this: the default image's loader asks for the
    node's own menu, too.
    """
    try:
        wanted = ""
        if isinstance(site.ltsconf, LtsConf):
            wanted = site.ltsconf.resolve(node).get("IMAGE", "")
        return choose_image(wanted, site.images, site.default_image)[0]
    except ServerError as error:
        try:
            return choose_image("", site.images, site.default_image)[0]
        except ServerError:
            raise Refused(f"{error.message}; {error.hint}") from error
