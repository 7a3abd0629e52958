from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from imagebuild.store.images import Image
from server.boot.loaders import find_loaders, loaders_of, make_find_loaders
from server.content import Refused
from server.farm.inventory import Inventory, Machine
from server.ltsconf import LtsConf, LtsTemplate
from server.protocols.dhcp import Client
from server.site import Site

GRUB = ("boot/grub/i386-pc/core.0", "boot/grub/x86_64-efi/core.efi")
IPXE = ("boot/ipxe/undionly.kpxe", "boot/ipxe/snponly.efi")
LISTED, OTHER = "52:54:00:00:00:01", "52:54:00:00:00:02"
INVENTORY = Inventory((Machine(LISTED, "10.9.0.11", "node-1"),))


def make_image(name: str = "amd64", files: tuple[str, ...] = GRUB + IPXE) -> Image:
    manifest = cast(Any, SimpleNamespace(files=dict.fromkeys(files)))
    return Image(name, "0" * 64, ("current",), Path("/nowhere"), manifest, 1)


def make_site(conf: bytes, *images: Image) -> Site:
    return Site(images=images, ltsconf=LtsConf.parse(conf))


@pytest.mark.parametrize("proxy", [False, True])
def test_it_is_ipxe_for_all_firmware(proxy: bool) -> None:
    loaders = loaders_of(make_image(), proxy=proxy)
    assert loaders.bios == "/ltsp/amd64/ipxe/undionly.kpxe"
    assert loaders.uefi == "/ltsp/amd64/ipxe/snponly.efi"
    assert loaders.http == "/ltsp/amd64/ipxe/snponly.efi"
    assert loaders.ipxe == "/ltsp/amd64/boot.ipxe"


def test_grub_where_it_is_wanted_also_for_a_card_that_is_ipxe() -> None:
    loaders = loaders_of(make_image(), proxy=False, grub=True)
    assert loaders.bios == "/ltsp/amd64/grub/i386-pc/core.0"
    assert loaders.uefi == "/ltsp/amd64/grub/x86_64-efi/core.efi"
    # UEFI's own HTTP Boot has no use for GRUB, which would go on by TFTP.
    assert loaders.http == "/ltsp/amd64/ipxe/snponly.efi"
    assert loaders.ipxe == ""
    assert "undionly" in loaders_of(make_image(), proxy=True, grub=True).bios


def test_an_image_without_ipxe_gives_no_loader_that_could_not_work() -> None:
    loaders = loaders_of(make_image(files=GRUB), proxy=True)
    assert (loaders.bios, loaders.uefi, loaders.http) == ("", "", "")
    assert loaders_of(make_image(files=GRUB), proxy=False).bios.endswith("core.0")


@pytest.mark.parametrize("section", [LISTED, "node-1", "10.9.0.11"])
def test_the_image_is_the_one_that_lts_conf_names(section: str) -> None:
    conf = f"[default]\nIMAGE = amd64\n[{section}]\nIMAGE = storage\n".encode()
    site = make_site(conf, make_image(), make_image("storage"))
    assert find_loaders(Client(LISTED), site, INVENTORY, proxy=True).image == "storage"
    assert find_loaders(Client(OTHER), site, INVENTORY, proxy=True).image == "amd64"


def test_a_wrong_image_leads_to_the_default_whose_menu_says_so() -> None:
    site = make_site(b"[default]\nIMAGE = nonsense\n", make_image())
    assert find_loaders(Client(LISTED), site, INVENTORY, proxy=True).image == "amd64"


def test_an_empty_store_refuses_in_words() -> None:
    with pytest.raises(Refused, match="the store holds no image; build one"):
        find_loaders(Client(LISTED), make_site(b"[default]\nA = 1\n"), INVENTORY, proxy=True)


def test_only_listed_machines_boot_when_farm_yaml_says_so() -> None:
    site = make_site(b"[default]\nA = 1\n", make_image())
    lists = [INVENTORY]
    find = make_find_loaders(
        lambda: replace(site, unlisted="refuse"), lambda: lists[-1], proxy=True
    )
    assert find(Client(LISTED)).image == "amd64"
    with pytest.raises(Refused, match=f"{OTHER} is not in the inventory"):
        find(Client(OTHER))
    lists.append(Inventory((*INVENTORY.machines, Machine(OTHER))))
    assert find(Client(OTHER)).image == "amd64"


def test_the_site_is_asked_for_each_machine() -> None:
    sites = [make_site(b"[default]\nA = 1\n", make_image("one"))]
    find = make_find_loaders(lambda: sites[-1], lambda: INVENTORY, proxy=False)
    assert find(Client(LISTED)).image == "one"
    sites.append(replace(sites[0], images=(make_image("two"),)))
    assert find(Client(LISTED)).image == "two"


def test_a_template_and_a_cycle_lead_to_the_default_image() -> None:
    site = replace(
        make_site(b"", make_image(), make_image("storage")),
        ltsconf=LtsTemplate.parse(b"# jinja2\n[default]\nIMAGE = storage\n"),
        default_image="amd64",
    )
    assert find_loaders(Client(OTHER), site, INVENTORY, proxy=True).image == "amd64"
    cycle = f"[default]\nA = 1\n[{OTHER}]\nLIKE = a\n[a]\nLIKE = b\n[b]\nLIKE = a\n"
    site = make_site(cycle.encode(), make_image())
    assert find_loaders(Client(OTHER), site, INVENTORY, proxy=True).image == "amd64"
