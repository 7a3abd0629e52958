"""A root that the node checks block by block: booted, damaged while it runs, damaged before.

The image is a small one of its own (a recipe that is written here), in a store of its own:
its bytes are changed under a running server.
"""

import hashlib
import os
import shutil

import pytest

from imagebuild.store.images import Image, Store
from imagebuild.store.verity import BLOCK
from rack.machine import NodeSpec
from rack.network import SERVER_IP
from rack.node import Node
from rack.rack import Rack
from tests.e2e.images import HOUSE, RESULTS, alone, run_bootfarm
from tests.e2e.waits import wait_finding, wait_phase

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

RECIPE = """\
extends: {base}
name: amd64
verity: true
files:
  - {{path: /srv/probe, source: probe}}
"""
PROBE = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(32768))
"""A mebibyte that does not compress, so that the squashfs has it as it is."""
LTS_CONF = """
[default]
KEEP_SYSTEM_SERVICES = ssh
RCFILE_01_SSH = "mkdir -p /root/.ssh; echo '{{ ssh_key }}' >> /root/.ssh/authorized_keys"
"""


@pytest.fixture(scope="module")
def image() -> Image:
    """The image, in a store of its own whose files are nobody else's."""
    directory = RESULTS / "verity-image"
    store = directory / "store"
    with alone("build"):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "probe").write_bytes(PROBE)
        base = os.path.relpath(HOUSE / "bench/boot/recipe.yaml", directory)
        (directory / "recipe.yaml").write_text(RECIPE.format(base=base))
        # Anew, also after a run that left it damaged; stages that have not changed are kept.
        shutil.rmtree(store, ignore_errors=True)
        words = ("--store", str(store), "--squashfs-level", "3")
        run_bootfarm("build", str(directory / "recipe.yaml"), *words)
    (found,) = Store(store).images()
    # What the builder keeps may be the same file by another name.
    copy = found.path / "rootfs.squashfs.new"
    shutil.copyfile(found.path / "rootfs.squashfs", copy)
    copy.rename(found.path / "rootfs.squashfs")
    return found


@pytest.fixture(scope="module")
def farm(rack: Rack, image: Image) -> Rack:
    in_memory = NodeSpec("in-memory").completed("").mac
    section = f"[{in_memory}]\nLTSP_NBD_TO_RAM = true\n"
    rack.serve(image.path.parents[2], LTS_CONF + section, config={"default_image": "amd64"})
    return rack


@pytest.fixture(scope="module")
def checked(farm: Rack) -> Node:
    """A machine that runs on the image as it was built."""
    node = farm.boot(NodeSpec("checked", memory=768))
    farm.wait_up(node)
    node.wait_ssh()
    return node


def flip(image: Image, offset: int) -> None:
    """Change the lowest bit of a byte of the root file system as it is served; twice: nothing."""
    with (image.path / "rootfs.squashfs").open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def find_probe(image: Image) -> int:
    """Where in the image a block of the probe lies that is all of its own: past its first half."""
    return (image.path / "rootfs.squashfs").read_bytes().index(PROBE[600_000:604_096])


def test_a_machine_runs_on_a_root_that_is_checked(farm: Rack, image: Image, checked: Node) -> None:
    assert image.manifest.verity is not None
    found = {
        "cat /sys/block/dm-0/dm/name": "bootfarm-root",
        "cat /sys/block/dm-0/ro; ls /sys/block/dm-0/slaves": "1\nnbd0",
        "findmnt -no SOURCE /rofs": "/dev/dm-0",
        "tr ' ' '\\n' </proc/cmdline | grep bootfarm.verity": image.manifest.verity.argument(),
        "cat /sys/block/dm-0/size": str(image.manifest.verity.data_blocks * 8),
        "pgrep -c -f '^@usr/lib/bootfarm/verityroot watch /dev/dm-0 '": "1",
    }
    assert {command: checked.ssh(f"{command}; true").strip() for command in found} == found
    assert wait_phase(farm, checked, "root")["detail"] == "live NBD, verified"
    locked = checked.ssh("grep VmLck /proc/$(pgrep -f '^@.*verityroot')/status")
    assert int(locked.split()[1]) > 0


def test_a_block_that_is_changed_while_it_runs_is_told(
    farm: Rack, image: Image, checked: Node
) -> None:
    place = find_probe(image)
    flip(image, place)
    try:
        said = checked.ssh("cat /srv/probe 2>&1 >/dev/null; true")
        assert "Input/output error" in said
        finding = wait_finding(farm, checked, "image-corrupt", timeout=60)
    finally:
        flip(image, place)
    assert finding["severity"] == "error"
    assert finding["headline"].startswith(
        f"It read blocks of amd64@{image.digest[:12]} from {SERVER_IP} that are not as they were"
        f" built: data {place // BLOCK}."
    )
    assert any("bootfarm doctor --store" in line for line in finding["check"])
    kernel = checked.ssh("dmesg | grep 'device-mapper: verity'")
    assert f"data block {place // BLOCK} is corrupted" in kernel
    # The rest of it works, and the block, too, as soon as it is right.
    digest = checked.ssh("sha256sum </srv/probe").split()[0]
    assert digest == hashlib.sha256(PROBE).hexdigest()


def test_reads_go_on_after_a_server_that_died(farm: Rack, checked: Node) -> None:
    assert farm.server is not None
    count = "dmesg | grep -c 'device-mapper: verity.*corrupted'; true"
    before = checked.ssh(count)
    farm.server.kill()
    farm.server.start()
    checked.ssh("echo 3 >/proc/sys/vm/drop_caches")
    digest = checked.ssh("sha256sum </srv/probe", timeout=120).split()[0]
    assert digest == hashlib.sha256(PROBE).hexdigest()
    assert f"connected to {SERVER_IP} again" in checked.ssh("dmesg")
    assert checked.ssh(count) == before


def test_it_shuts_down_and_its_watcher_with_it(checked: Node) -> None:
    checked.ssh("systemctl poweroff --no-block")
    checked.wait_off(timeout=180)


def test_a_changed_first_block_is_refused_until_it_is_mended(farm: Rack, image: Image) -> None:
    flip(image, 100)
    try:
        node = farm.boot(NodeSpec("refused", memory=768))
        finding = wait_finding(farm, node, "image-mismatch", timeout=500)
        node.wait_console(
            "FAILED in phase root: the image is not the one that the kernel command line names"
        )
        node.wait_console("a shell follows on the console")
    finally:
        flip(image, 100)
    assert (finding["severity"], finding["phase"]) == ("error", "root")
    assert "SQUASHFS error" not in node.console.text()
    # Whoever stands there tries again, and the image is attached anew.
    node.type("exit\n")
    farm.wait_up(node)
    node.wait_ssh()
    assert node.ssh("findmnt -no SOURCE /rofs").strip() == "/dev/dm-0"
    node.power_cut()


def test_an_image_in_memory_was_checked_on_its_way(farm: Rack) -> None:
    node = farm.boot(NodeSpec("in-memory", memory=1024))
    farm.wait_up(node)
    node.wait_ssh()
    assert node.ssh("findmnt -no SOURCE /rofs").strip() == "/dev/loop0"
    assert node.ssh("ls /sys/block | grep -c ^dm-; true").strip() == "0"
    assert node.ssh("pgrep -c -f '^@.*verityroot'; true").strip() == "0"
    assert node.ssh("cat /sys/block/nbd0/size").strip() == "0"
    assert node.ssh("sha256sum </srv/probe").split()[0] == hashlib.sha256(PROBE).hexdigest()
    assert "/dev/dm-0 checks each block of the image" in node.console.text()
    node.power_cut()
