"""Keys that packages make for one machine: made at boot where a package wants them."""

from __future__ import annotations

from typing import Any

import pytest

SNAKEOIL = "etc/ssl/private/ssl-cert-snakeoil.key"


@pytest.fixture
def packaged(node: Any) -> Any:
    """A node whose image has ssl-cert and bind9."""
    for program in ("make-ssl-cert", "rndc-confgen"):
        node.write(f"usr/sbin/{program}", "", mode=0o755)
    (node.root / "etc/ssl/private").mkdir(parents=True)
    (node.root / "etc/bind").mkdir()
    node.stub("make-ssl-cert", f'echo "$*" >"$BOOTFARM_ROOT/{SNAKEOIL}"')
    node.stub("rndc-confgen", 'echo "$1" >"$3"')
    node.stub("chown", 'echo "chown $*" >>"$BOOTFARM_ROOT/calls"')
    return node


def test_missing_keys_are_made(packaged: Any) -> None:
    packaged.script("local-keys")
    assert packaged.read(SNAKEOIL) == "generate-default-snakeoil --force-overwrite\n"
    assert packaged.read("etc/bind/rndc.key") == "-a\n"
    assert (packaged.root / "etc/bind/rndc.key").stat().st_mode & 0o777 == 0o640
    assert packaged.read("calls") == f"chown bind:bind {packaged.root}/etc/bind/rndc.key\n"


def test_what_a_recipe_or_a_volume_brings_stays(packaged: Any) -> None:
    packaged.write(SNAKEOIL, "ours\n")
    packaged.write("etc/bind/rndc.conf", "ours\n")
    packaged.script("local-keys")
    assert packaged.read(SNAKEOIL) == "ours\n"
    assert not (packaged.root / "etc/bind/rndc.key").exists()


def test_an_image_without_the_packages_gets_nothing(node: Any) -> None:
    node.script("local-keys")
    assert not (node.root / "etc/ssl").exists()
