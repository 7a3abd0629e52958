"""What the image gets as it is: modes, links, shell that shellcheck has nothing against, C."""

from __future__ import annotations

import configparser
import subprocess
from pathlib import Path

import pytest

from imagebuild.chroot.configure import read_links

ROOTFS = Path(__file__).resolve().parents[2] / "imagebuild" / "rootfs"
FILES = sorted(path for path in ROOTFS.rglob("*") if path.is_file() and not path.is_symlink())
SHELL = [
    path
    for path in FILES
    if path.suffix == ".sh"
    or path.read_bytes()[:9] == b"#!/bin/sh"
    or path.parent.name == "scripts"
]
UNITS = [
    path for path in FILES if path.suffix in (".service", ".path", ".socket", ".network", ".link")
]


@pytest.mark.parametrize("path", SHELL, ids=lambda p: str(p.relative_to(ROOTFS)))
def test_shellcheck(path: Path) -> None:
    done = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True)
    assert done.stdout == ""


@pytest.mark.parametrize("path", SHELL, ids=lambda p: str(p.relative_to(ROOTFS)))
def test_nothing_is_evaluated(path: Path) -> None:
    code = [line.split("#")[0] for line in path.read_text().splitlines()]
    assert not any(word == "eval" for line in code for word in line.split())


def test_what_is_called_is_executable_and_what_is_sourced_is_not() -> None:
    for path in FILES:
        is_program = path.read_bytes()[:2] == b"#!"
        assert bool(path.stat().st_mode & 0o100) is is_program, path


def test_the_tree_holds_no_links() -> None:
    """They stand in rootfs.links: a copy of a checkout may lose them, and nothing would tell."""
    assert [path for path in ROOTFS.rglob("*") if path.is_symlink()] == []
    assert [path for path in ROOTFS.rglob("*.wants") if any(path.iterdir())] == []


def test_links_lead_to_units_of_ours_or_of_systemd() -> None:
    for place, target in read_links().items():
        if target == "/dev/null":
            assert place.split("/")[-2] == "system-generators", place
        elif target.startswith("/usr/lib/systemd/system/bootfarm"):
            assert (ROOTFS / target.lstrip("/")).is_file(), place
        else:
            assert target.startswith("/lib/systemd/system/systemd-networkd"), place


def test_each_unit_of_ours_is_started_by_something() -> None:
    """By a link, by another unit of ours, or by a name that the node's programs call."""
    called = "\n".join(
        path.read_text(errors="replace")
        for path in FILES
        if path not in UNITS or path.suffix in (".path", ".timer", ".socket")
    )
    wanted = {place.rpartition("/")[2] for place in read_links()}
    for path in UNITS:
        twin = {path.with_suffix(kind).name for kind in (".path", ".timer", ".socket")}
        if path.parent.name == "system" and path.name not in wanted:
            assert path.name in called or path.stem in called or wanted & twin, path


def test_programs_of_units_are_there() -> None:
    for path in UNITS:
        for line in path.read_text().splitlines():
            key, _, value = line.partition("=")
            if key.startswith("Exec") and value.startswith("/usr/lib/bootfarm/"):
                assert (ROOTFS / value.split()[0].lstrip("/")).is_file(), line


@pytest.mark.parametrize("path", UNITS, ids=lambda p: p.name)
def test_units_parse(path: Path) -> None:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    assert parser.sections()


@pytest.mark.parametrize("path", UNITS, ids=lambda p: p.name)
def test_systemd_takes_the_unit(path: Path) -> None:
    if path.suffix == ".network":
        pytest.skip("networkd reads it")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", path],
        capture_output=True,
        text=True,
    )
    bad = [
        line
        for line in done.stderr.splitlines()
        if path.name in line
        and any(word in line for word in ("Refusing", "bad unit file", "nknown", "cycle"))
    ]
    assert bad == []


def test_nbdroot_compiles_without_a_warning_and_says_how_it_is_used(tmp_path: Path) -> None:
    program = tmp_path / "nbdroot"
    sources = sorted((ROOTFS / "usr/src/bootfarm").glob("*.c"))
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-static"]
    subprocess.run(["gcc", *flags, "-o", program, *sources], check=True)
    dynamic = subprocess.run(["readelf", "--dynamic", program], capture_output=True, text=True)
    assert "no dynamic section" in dynamic.stdout
    for words in ([], ["attach"], ["attach", "/dev/nbd0", "not-an-ip", "10809", "x"], ["fly"]):
        done = subprocess.run([program, *words], capture_output=True, text=True)
        assert done.returncode == 2
        assert "usage: nbdroot attach /dev/nbdN IPV4 PORT EXPORT" in done.stderr


NETWORK = ROOTFS / "etc/systemd/network"


def read_unit(path: Path) -> dict[str, dict[str, str]]:
    """A unit's sections, for those that have each key once."""
    parser = configparser.RawConfigParser(strict=True, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return {name: dict(parser[name]) for name in parser.sections()}


@pytest.mark.parametrize("name", ["20-bootfarm.network", "25-bootfarm-others.network"])
def test_no_card_loses_its_address(name: str) -> None:
    unit = read_unit(NETWORK / name)
    assert unit["Match"] == {"Type": "ether", "Kind": "!*"}
    assert (unit["Network"]["KeepConfiguration"], unit["Network"]["IgnoreCarrierLoss"]) == (
        "yes",
        "yes",
    )


def test_the_card_of_the_root_goes_first() -> None:
    root, others = (
        read_unit(NETWORK / name) for name in ("20-bootfarm.network", "25-bootfarm-others.network")
    )
    assert "RouteMetric" not in root["DHCPv4"]  # systemd's own: 1024
    script = (ROOTFS / "usr/lib/bootfarm/udhcpc-script").read_text()
    assert "\nROUTE_METRIC=4096\n" in script
    assert int(others["DHCPv4"].pop("RouteMetric")) > 4096
    assert others["DHCPv4"] == root["DHCPv4"]
    assert others["Network"] == root["Network"]


def test_what_others_made_stays() -> None:
    unit = read_unit(ROOTFS / "etc/systemd/networkd.conf.d/bootfarm.conf")
    assert unit["Network"]["ManageForeignRoutes"] == "no"
    assert unit["Network"]["ManageForeignRoutingPolicyRules"] == "no"
    link = read_unit(NETWORK / "20-bootfarm-virtual.link")
    assert link["Link"]["MACAddressPolicy"] == "none"
    assert {"vxlan", "geneve", "bridge", "veth"} <= set(link["Match"]["Kind"].split())
