"""The farm in its container: a machine boots from it, and the container is replaced under it.

The image is the one that tests/imagebuild/test_image_docker.py builds; the engine keeps it.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from imagebuild.store.images import Image, Store
from rack.ltsconf import example_lts_conf, render_lts_conf
from rack.machine import NodeSpec
from rack.node import Node
from rack.rack import Rack
from rack.server import Server
from tests.docker_engine import Engine, import_base, kept_engine, package_state
from tests.e2e.images import HOUSE, RESULTS, run_bootfarm
from tests.server.farm import publish

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]

BOOT = 600.0
START_SECONDS = 120.0
COLLECT_AFTER = 5
MARK = "bootfarm.test=two"
"""A word of the second image's kernel command line."""
LIMITS = (
    *("--network", "host", "--user", "10069:10069", "--cap-drop", "ALL"),
    *("--cap-add", "NET_BIND_SERVICE", "--read-only", "--volume", "farm:/var/lib/bootfarm"),
)
CHECK = ("exec", "farm", "bootfarm", "healthcheck", "--config", "/etc/bootfarm/farm.yaml")
UNREAD = "usr/share/perl usr/share/doc usr/share/misc"
"""Directories of the image whose files no boot reads."""


def build(engine: Engine, recipe: Path, tag: str) -> str:
    """Build a container image; the digest of its node image."""
    said = run_bootfarm(
        *("container", "build", str(recipe), "--engine", engine.url, "--network", "host"),
        *("--base-image", "bootfarm-base:bookworm", "--squashfs-level", "3"),
        *("--build-arg", f"PACKAGES_AS_OF={package_state()}", "--tag", tag),
    )
    return said.split()[-1].partition("@")[2]


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`farm:one` and `farm:two` in the engine's store: the demo, and with one word more."""
    with kept_engine(tmp_path_factory.mktemp("builds")) as engine:
        import_base(engine)
        demo = HOUSE / "recipes/demo.yaml"
        # Its paths begin with ../build, and its name is part of what the stages read.
        two = HOUSE / "build/demo.yaml"
        two.write_text(demo.read_text().replace("\ncmdline:\n", f"\ncmdline:\n  - {MARK}\n"))
        try:
            return [build(engine, demo, "farm:one"), build(engine, two, "farm:two")]
        finally:
            two.unlink()


@dataclass
class Farm:
    """The rack, and an engine inside of its network with the farm's container."""

    rack: Rack
    engine: Engine
    config: Path
    digests: list[str]

    @property
    def data(self) -> Path:
        """The volume, as the host sees it."""
        inspected = self.engine.docker("volume", "inspect", "-f", "{{.Mountpoint}}", "farm")
        return Path(inspected.stdout.strip())

    @property
    def store(self) -> Store:
        return Store(self.data / "store")

    def run(self, image: str) -> None:
        """Start the container with the limits of k8s/ and wait until its check is content."""
        self.engine.docker(
            *("run", "--detach", "--name", "farm", *LIMITS),
            *("--volume", f"{self.config}:/etc/bootfarm:ro", image),
        )
        end = time.monotonic() + START_SECONDS
        while (done := self.engine.docker(*CHECK, check=False)).returncode != 0:
            state = self.inspect("{{.State.Running}}")
            assert state == "true", self.logs()
            assert time.monotonic() < end, done.stdout + done.stderr + self.logs()
            time.sleep(0.5)

    def inspect(self, template: str) -> str:
        return self.engine.docker("inspect", "-f", template, "farm").stdout.strip()

    def logs(self) -> str:
        done = self.engine.docker("logs", "farm", check=False)
        return done.stdout + done.stderr

    def keep_logs(self) -> None:
        with (RESULTS / "container" / "farm.log").open("a") as file:
            file.write(self.logs())

    def remove(self) -> int:
        """End it as a cluster does: SIGTERM, and SIGKILL after five seconds; its exit code."""
        self.keep_logs()
        self.engine.docker("stop", "--time", "5", "farm")
        code = int(self.inspect("{{.State.ExitCode}}"))
        self.engine.docker("rm", "farm")
        return code

    def images(self, *words: str) -> str:
        """`bootfarm images …` inside the container."""
        done = self.engine.docker("exec", "farm", "bootfarm", "images", *words, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def farm(
    rack: Rack, digests: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Farm]:
    rack.start_control_plane()
    config = rack.directory / "config"
    config.mkdir()
    values = yaml.safe_load((HOUSE / "k8s/base/farm.yaml").read_text())
    del values["secrets"]
    values |= {"collect_after": COLLECT_AFTER, "hosts_file": "none"}
    (config / "farm.yaml").write_text(yaml.safe_dump(values))
    lts_conf = render_lts_conf(example_lts_conf().read_text(), rack.lts_values())
    spec = NodeSpec("worker").completed("")
    (config / "lts.conf").write_text(f"{lts_conf}\n[{spec.mac}]\nHOSTNAME = worker\n")
    # What answers on 10.9.0.1 is the container; the rack only asks it.
    rack.server = Server(rack.namespace, rack.directory / "server", Path("none"), config)
    enter = rack.namespace.enter_argv([])
    with kept_engine(tmp_path_factory.mktemp("engine"), enter=enter) as engine:
        farm = Farm(rack, engine, config, digests)
        try:
            yield farm
        finally:
            farm.keep_logs()


@pytest.fixture(scope="module")
def node(farm: Farm) -> Node:
    """A machine that booted from the first container to Ready."""
    farm.run("farm:one")
    node = farm.rack.boot(NodeSpec("worker", memory=1536))
    farm.rack.wait_ready(node, timeout=BOOT)
    return node


def wait_until(what: Callable[[], bool], why: str, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, why
        time.sleep(0.5)


def running_digest(farm: Farm, node: Node) -> str:
    return str(farm.rack.timeline(node)["boot"]["digest"])


def test_a_machine_boots_to_ready_from_it_and_runs_a_pod(farm: Farm, node: Node) -> None:
    assert running_digest(farm, node) == farm.digests[0]
    assert MARK not in node.ssh("cat /proc/cmdline")
    pod = farm.rack.run_pod(node)
    assert pod.phase == "Succeeded"


def test_it_has_run_with_those_limits(farm: Farm, node: Node) -> None:
    status = farm.engine.docker("exec", "farm", "cat", "/proc/1/status").stdout
    assert "Uid:\t10069\t10069\t10069\t10069" in status
    for kind in ("Prm", "Eff", "Bnd"):
        assert f"Cap{kind}:\t0000000000000400" in status
    touched = farm.engine.docker("exec", "farm", "touch", "/usr/lib/bootfarm/x", check=False)
    assert "Read-only file system" in touched.stderr


def test_its_own_check_asks_whether_it_lives_and_the_whole_one_every_service(
    farm: Farm, node: Node
) -> None:
    """Docker restarts nothing because a service has much to do, or a file is missing."""
    wait_until(lambda: farm.inspect("{{.State.Health.Status}}") == "healthy", farm.logs())
    log = json.loads(farm.inspect("{{json .State.Health.Log}}"))
    assert "http: the server's loop turns" in log[-1]["Output"]
    assert "tftp" not in log[-1]["Output"]
    said = farm.engine.docker(*CHECK).stdout
    assert re.search(r"tftp: \d+ bytes of /ltsp/amd64/grub/i386-pc/core\.0", said)
    assert re.search(r"nbd: [1-9]\d* exports", said)
    assert re.search(r"http: (ok|degraded)", said)


def test_another_container_comes_and_the_node_goes_on_reading_its_own_image(
    farm: Farm, node: Node
) -> None:
    assert farm.remove() == 0, "137 would be SIGKILL, after five seconds"
    farm.run("farm:two")
    tags = {image.digest: set(image.tags) for image in farm.store.images()}
    assert tags == {farm.digests[1]: {"current"}, farm.digests[0]: {"previous"}}

    node.ssh("echo 3 > /proc/sys/vm/drop_caches")
    read = node.ssh(
        f"cd /rofs && find {UNREAD} -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum",
        timeout=300,
    )
    assert len(read.splitlines()) > 500
    assert read == hash_files(farm.store.get("amd64", farm.digests[0]))
    assert node.ssh("dmesg | grep -ci 'i/o error' || true").strip() == "0"
    assert running_digest(farm, node) == farm.digests[0]


def hash_files(image: Image) -> str:
    """The same files out of the image itself."""
    target = RESULTS / "container" / "unpacked"
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(
        [
            "unsquashfs",
            "-q",
            "-n",
            "-d",
            target,
            image.path / "rootfs.squashfs",
            *UNREAD.split(),
        ],
        check=True,
        capture_output=True,
    )
    paths = [path for path in target.rglob("*") if path.is_file() and not path.is_symlink()]
    names = sorted(os.fsencode(path.relative_to(target)) for path in paths)
    lines = [
        f"{hashlib.sha256((target / os.fsdecode(name)).read_bytes()).hexdigest()}"
        f"  {name.decode(errors='replace')}\n"
        for name in names
    ]
    shutil.rmtree(target)
    return "".join(lines)


def test_an_image_that_a_node_reads_is_not_collected(farm: Farm, node: Node) -> None:
    """Another one without a tag is: once that is gone, the keeper has looked."""
    farm.images("rm", "amd64:previous")
    other = publish(farm.store.path, "canary")
    subprocess.run(["chown", "-R", "10069:10069", farm.store.path / "images"], check=True)
    farm.images("rm", "--force", "canary:current")
    wait_until(lambda: not other.path.exists(), f"{other.path} is not collected: {farm.logs()}")
    assert farm.digests[0] in {image.digest for image in farm.store.images()}
    assert farm.images("gc").startswith("freed 0 B"), "nor by hand"
    assert farm.digests[0] in {image.digest for image in farm.store.images()}


def test_the_next_boot_gets_the_new_image_and_then_the_old_one_goes(farm: Farm, node: Node) -> None:
    old = farm.store.get("amd64", farm.digests[0]).path
    boot = node.ssh("cat /proc/sys/kernel/random/boot_id")
    node.ssh("systemctl reboot --no-block")
    wait_until(lambda: running_digest(farm, node) == farm.digests[1], farm.logs(), BOOT)
    node.wait_ssh(BOOT)
    assert node.ssh("cat /proc/sys/kernel/random/boot_id") != boot
    assert MARK in node.ssh("cat /proc/cmdline")
    # The machine's old connection ends when the server asks whether it is there still.
    wait_until(lambda: not old.exists(), f"{old} is not collected: {farm.logs()}", 300.0)
    assert [image.digest for image in farm.store.images()] == [farm.digests[1]]
    node.power_cut()
    assert farm.remove() == 0


def test_smoke_boots_a_container_image(farm: Farm, tmp_path: Path) -> None:
    said = run_bootfarm(
        *("rack", "smoke", "farm:two", "--engine", farm.engine.url, "--firmware", "bios"),
        *("--output", str(tmp_path / "smoke")),
    )
    assert "farm:two by bios: up after" in said
    suite = ElementTree.parse(tmp_path / "smoke/junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("1", "0")
    assert MARK in (tmp_path / "smoke/console-bios.log").read_text(errors="replace")
    assert (tmp_path / "smoke/server.log").is_file()


def test_smoke_fails_for_an_image_that_does_not_boot(tmp_path: Path) -> None:
    publish(tmp_path / "store")
    with pytest.raises(AssertionError) as caught:
        run_bootfarm(
            *("rack", "smoke", "amd64", "--store", str(tmp_path / "store"), "--timeout", "25"),
            *("--firmware", "bios", "--output", str(tmp_path / "smoke")),
        )
    assert "amd64 does not boot" in str(caught.value)
    suite = ElementTree.parse(tmp_path / "smoke/junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    assert (tmp_path / "smoke/console-bios.log").is_file()
