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


def make_image(
    name: str = "amd64", files: tuple[str, ...] = GRUB + IPXE, architecture: str = "amd64"
) -> Image:
    manifest = cast(Any, SimpleNamespace(files=dict.fromkeys(files), architecture=architecture))
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


ARM = make_image("arm64", ("boot/grub/arm64-efi/core.efi", "boot/ipxe/ipxe-arm64.efi"), "arm64")
PXE = Client(OTHER, vendor="PXEClient", architectures=(11,))
HTTP = Client(OTHER, vendor="HTTPClient", architectures=(19,))


def test_an_arm64_image_has_uefi_alone() -> None:
    loaders = loaders_of(ARM, proxy=True)
    assert loaders.architecture == "arm64"
    assert (loaders.bios, loaders.uefi) == ("", "/ltsp/arm64/ipxe/ipxe-arm64.efi")
    assert loaders.http == "/ltsp/arm64/ipxe/ipxe-arm64.efi"
    grub = loaders_of(ARM, proxy=False, grub=True)
    assert grub.uefi == "/ltsp/arm64/grub/arm64-efi/core.efi"


@pytest.mark.parametrize("default", [None, {"amd64": "amd64", "arm64": "arm64"}])
def test_each_machine_of_a_mixed_farm_gets_its_own(default: dict[str, str] | None) -> None:
    site = replace(make_site(b"[default]\nA = 1\n", make_image(), ARM), default_image=default)
    for client in (PXE, HTTP):
        assert find_loaders(client, site, INVENTORY, proxy=True).image == "arm64"
    for number in (0, 7, 9):
        client = Client(OTHER, vendor="PXEClient", architectures=(number,))
        assert find_loaders(client, site, INVENTORY, proxy=True).image == "amd64"


def test_an_image_of_the_other_architecture_leads_to_one_whose_menu_says_so() -> None:
    site = make_site(b"[default]\nIMAGE = amd64\n", make_image(), ARM)
    assert find_loaders(PXE, site, INVENTORY, proxy=True).image == "arm64"


def test_a_store_without_an_image_for_the_machine_refuses_in_words() -> None:
    site = make_site(b"[default]\nA = 1\n", make_image())
    with pytest.raises(Refused, match="is for amd64 machines, and this machine is arm64") as caught:
        find_loaders(PXE, site, INVENTORY, proxy=True)
    assert caught.value.cause == "architecture"
