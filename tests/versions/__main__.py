"""`make test-kubernetes`: kubelets of several versions join, reboot, and come back after a
power cut; the table goes into docs/kubernetes.md with its date.

Each kubelet is built from its own Go modules: in a copy of the checkout that
`make kubernetes-bump` has moved to it. The newest three minor versions and the present one
join the present control plane, which is the skew that Kubernetes supports; 1.20 joins its own.
Needs root; hours on two cores when nothing is cached. `--only 1.36.3` tries one. `--by
certificate`: joins without a token (docs/join.md).
"""

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rack.errors import RackError
from rack.kubernetes.families import KUBERNETES
from rack.kubernetes.source import Source
from rack.ltsconf import example_lts_conf
from rack.machine import NodeSpec
from rack.node import Node
from rack.rack import Rack
from rack.server import BOOTFARM
from tests.e2e.waits import wait_joined_again
from tests.server.join.account import apply_account, make_kubeconfig

HOUSE = Path(__file__).parents[2]
WORK = HOUSE / "build" / "versions"
PAGE = HOUSE / "docs" / "kubernetes.md"
BEGIN, END = "<!-- versions: make test-kubernetes -->", "<!-- end of versions -->"
OLDER = ("1.34.4", "1.35.4", "1.36.3")
DEBIANS = "1.20.2"
BOOT = 900.0
"""Seconds that a boot to Ready may take on a loaded machine."""
AT_ONCE = 2
"""Machines that are tried side by side: each of them keeps one core busy."""
STEPS = ("join", "reboot", "power cut", "pod")


@dataclass
class Row:
    """A kubelet against a control plane. took: seconds of each step that went well.
    failure: what the first step that did not said."""

    kubelet: str
    control_plane: str
    runtime: str = ""
    took: dict[str, float] = field(default_factory=dict)
    failure: str = ""

    def render(self) -> str:
        """The row of the table."""
        cells = [self.kubelet, self.control_plane, self.runtime or "–"]
        failed = next((step for step in STEPS if step not in self.took), "")
        for step in STEPS:
            if step in self.took:
                cells.append(f"{self.took[step]:.0f} s")
            else:
                cells.append("**failed**" if self.failure and step == failed else "–")
        return f"| {' | '.join(cells)} |"


def say(text: str) -> None:
    """Progress, with the time of day."""
    print(f"{datetime.now():%H:%M:%S} {text}", flush=True)


def run(words: Sequence[str], directory: Path) -> None:
    """Run a command in a checkout; its output goes to ours, RackError when it fails."""
    done = subprocess.run(words, cwd=directory, check=False)
    if done.returncode:
        raise RackError(f"`{' '.join(words[-4:])}` in {directory} ended with {done.returncode}")


def copy_checkout(into: Path) -> None:
    """Every file of the checkout that git knows or would take, links as links, and the compiled
    fast path."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=HOUSE,
        capture_output=True,
        check=True,
    )
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    compiled = [str(path.relative_to(HOUSE)) for path in HOUSE.glob("server/fastpath/*.so")]
    for name in filter(None, [*listed.stdout.decode().split("\0"), *compiled]):
        source, target = HOUSE / name, into / name
        if not source.is_file() and not source.is_symlink():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)


def image_name(version: str) -> str:
    """The node image of a kubelet, for example amd64-k1-36."""
    return "amd64-k" + "-".join(version.split(".")[:2])


def build_image(version: str, store: Path) -> None:
    """Compile a kubelet and put a node image with it into the store."""
    if version == DEBIANS:
        say(f"{version}: packages from Debian's source")
        run([*BOOTFARM, "rack", "packages", "--kubernetes", "debian"], HOUSE)
        checkout, parent = HOUSE, "demo-1.20.yaml"
    else:
        checkout, parent = WORK / version, "demo-containerd.yaml"
        say(f"{version}: a copy of the checkout is moved to it")
        copy_checkout(checkout)
        if version != KUBERNETES.version:
            run([sys.executable, "-m", "rack.kubernetes.bump", version], checkout)
        say(f"{version}: packages")
        run([*BOOTFARM, "rack", "packages"], checkout)
    say(f"{version}: image")
    words = ("build", f"recipes/{parent}", "--name", image_name(version), "--store", str(store))
    run([*BOOTFARM, *words, "--squashfs-level", "3"], checkout)


@contextlib.contextmanager
def farm_of(source: Source, store: Path, versions: Sequence[str], by: str) -> Iterator[Rack]:
    """A rack with the control plane of `source` whose machines boot an image for each version.

    by: how they join: token or certificate.
    """
    directory = WORK / f"rack-{source}"
    shutil.rmtree(directory, ignore_errors=True)
    with Rack(directory, kubernetes=source, progress=say) as rack:
        rack.start_control_plane()
        sections = [
            f"\n[{spec_of(version).completed('').mac}]\nIMAGE = {image_name(version)}\n"
            + ("" if version == DEBIANS else "PREINIT_02_DOCKER_OPTIONS = NONE\n")
            for version in versions
        ]
        config: dict[str, Any] = {"default_image": image_name(versions[-1])}
        text = example_lts_conf().read_text() + "".join(sections)
        if by == "certificate":
            text = re.sub(r'"kubeadm join .*"', '"kubeadm join"', text)
            config |= give_certificates(rack, versions)
        rack.serve(store, text, config=config)
        yield rack


def give_certificates(rack: Rack, versions: Sequence[str]) -> dict[str, Any]:
    """farm.yaml's keys for joins without a token, of an account with k8s/join and no more."""
    apply_account(rack.kubectl)
    authority = rack.directory / "control-plane/pki/ca.crt"
    kubeconfig = rack.directory / "join.kubeconfig"
    text = make_kubeconfig(rack.kubectl, authority, rack.control_plane.facts.api)
    kubeconfig.write_text(text)
    specs = [spec_of(version).completed("") for version in versions]
    return {
        "inventory": [{"mac": spec.mac, "hostname": spec.name} for spec in specs],
        "join": {"certificates": True, "kubeconfig": str(kubeconfig)},
    }


def spec_of(version: str) -> NodeSpec:
    """The machine that boots a version's image."""
    return NodeSpec(f"kubelet-{version.replace('.', '-')}", memory=1536)


def try_version(rack: Rack, node: Node, row: Row) -> None:
    """First join, reboot, power cut while the old Node says Ready, a pod; into the row."""
    version = row.kubelet

    def step(name: str, act: Callable[[], object]) -> None:
        began = time.monotonic()
        act()
        row.took[name] = time.monotonic() - began
        say(f"{version}: {name} {row.took[name]:.0f} s")

    def join() -> None:
        node.power_on()
        rack.wait_ready(node, timeout=BOOT)

    def reboot() -> None:
        mark = node.console.size
        node.ssh("systemctl reboot --no-block")
        node.wait_console(r"reboot: (Restarting|machine restart)", timeout=300, since=mark)
        node.console.begin()
        wait_joined_again(rack, node, BOOT)

    def cut() -> None:
        node.power_cut()
        node.power_on()
        wait_joined_again(rack, node, BOOT)

    try:
        step("join", join)
        row.runtime = read_runtime(rack, node)
        step("reboot", reboot)
        step("power cut", cut)
        step("pod", lambda: rack.run_pod(node, name=f"pod-{image_name(version)}"))
    except (RackError, AssertionError) as error:
        row.failure = str(getattr(error, "message", error))
        say(f"{version}: FAILED: {row.failure}")
    finally:
        node.power_cut()


def read_runtime(rack: Rack, node: Node) -> str:
    """For example containerd 2.4.2."""
    path = "jsonpath={.status.nodeInfo.containerRuntimeVersion}"
    said = rack.kubectl("get", "node", node.name, "-o", path)
    return said.strip().replace("://", " ")


def record(rows: Sequence[Row]) -> None:
    """The table into docs/kubernetes.md, between its markers."""
    when = f"{datetime.now(UTC):%Y-%m-%d}"
    table = "\n".join(
        [
            f"Tried on {when} by `make test-kubernetes`, machines of QEMU without KVM:",
            "",
            f"| kubelet | control plane | runtime | {' | '.join(STEPS)} |",
            f"|---|---|---|{'---|' * len(STEPS)}",
            *(row.render() for row in rows),
            *(f"\n{row.kubelet} failed: {first_line(row.failure)}" for row in rows if row.failure),
        ]
    )
    text = PAGE.read_text()
    found = re.search(f"{re.escape(BEGIN)}.*?{re.escape(END)}", text, re.S)
    if found is None:
        raise RackError(f"{PAGE} has no {BEGIN}")
    fresh = PAGE.with_suffix(".new")
    fresh.write_text(text.replace(found.group(), f"{BEGIN}\n{table}\n{END}"))
    fresh.rename(PAGE)


def first_line(text: str) -> str:
    """Its first line, without where this checkout lies; empty for an empty text."""
    return text.strip().partition("\n")[0].replace(f"{HOUSE}/", "")


def main(words: Sequence[str] | None = None) -> int:
    """Build, boot, print the table; exit code 1 when a version failed."""
    parser = argparse.ArgumentParser(prog="make test-kubernetes", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="VERSION")
    parser.add_argument("--by", choices=("token", "certificate"), default="token")
    parser.add_argument("--record", action="store_true", help="write the table into the docs")
    given = parser.parse_args(words)
    versions = given.only or [DEBIANS, *OLDER, KUBERNETES.version]
    store = WORK / "store"
    rows: list[Row] = []
    sources: tuple[tuple[Source, list[str]], ...] = (
        ("debian", [one for one in versions if one == DEBIANS]),
        ("modules", [one for one in versions if one != DEBIANS]),
    )
    try:
        for version in versions:
            build_image(version, store)
        for source, ones in sources:
            if not ones:
                continue
            with farm_of(source, store, ones, given.by) as rack:
                here = [Row(version, rack.packages.version) for version in ones]
                rows += here
                nodes = [rack.add_node(spec_of(version)) for version in ones]
                with ThreadPoolExecutor(AT_ONCE) as pool:
                    list(pool.map(try_version, [rack] * len(ones), nodes, here))
    except RackError as error:
        print(f"Error: {error.message}", file=sys.stderr)
        return 1
    for row in rows:
        print(row.render())
    if given.record:
        record(rows)
    return 1 if any(row.failure for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
