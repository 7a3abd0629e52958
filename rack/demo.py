"""`make demo`: from nothing to a pod on a machine that booted over the network."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imagebuild.store.shown import format_size
from rack.control import ControlSocket, state_directory, the_only_rack
from rack.detach import Detach
from rack.errors import RackError
from rack.kubernetes.source import Source, build
from rack.kubernetes.stack import Packages
from rack.live import LiveTable
from rack.ltsconf import example_lts_conf
from rack.machine import Firmware, NodeSpec
from rack.node import Node
from rack.pods import PodResult
from rack.progress import printed_steps
from rack.rack import Rack
from rack.server import BOOTFARM
from rack.timeline import render_rows, rows_of

NODE = "node-1"
IMAGE = "amd64"
SQUASHFS_LEVEL = "3"
"""zstd's: a tenth larger than by `bootfarm build` alone, and made in a quarter of the time."""
CPUS = min(2, os.cpu_count() or 1)
"""The node's."""
POD_COMMAND = (
    'echo "hello from a pod on $NODE"; uname -srm; '
    'echo "up for $(cut -d. -f1 /proc/uptime) seconds"'
)


@dataclass(frozen=True)
class DemoOptions:
    """recipe: what is built. memory: MiB. timeout: seconds for the boot to Ready."""

    kubernetes: Source
    recipe: Path
    store: Path
    firmware: Firmware
    memory: int
    timeout: float
    keep: bool


@contextmanager
def stage(number: int, title: str, expected: str, log: Path | None = None) -> Iterator[None]:
    """Print a heading; an error inside says which stage it was and what was expected."""
    print(f"\n[{number}/5] {title}", flush=True)
    began = time.monotonic()
    try:
        yield
    except RackError as error:
        hint = error.hint or (f"the logs are in {log}" if log else "")
        raise RackError(
            f"the demo failed at stage {number} of 5 ({title})\n"
            f"  expected: {expected}\n  {error.message}",
            hint=hint,
        ) from None
    print(f"      done in {time.monotonic() - began:.0f} s", flush=True)


def run_demo(options: DemoOptions, detach: Detach) -> None:
    """Run all five stages; RackError names the stage that failed.

    Detaches if the rack is to be kept.
    """
    began = time.monotonic()
    state = state_directory()
    directory = state / "demo"
    with the_only_rack(state):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        with (
            stage(1, "Kubernetes' packages", "a signed apt repository at build/rack/apt"),
            printed_steps() as progress,
        ):
            packages = build(progress, options.kubernetes)
        with stage(2, f"the node image, {options.recipe.name}", f"an image in {options.store}"):
            build_image(options.recipe, options.store)
        _boot(options, packages, directory, state, began, detach)


def build_image(recipe: Path, store: Path) -> None:
    """Run `bootfarm build`, which shows its own stages; it compresses for somebody who waits."""
    words = ("build", str(recipe), "--store", str(store), "--squashfs-level", SQUASHFS_LEVEL)
    process = subprocess.Popen([*BOOTFARM, *words])
    try:
        code = process.wait()
    except BaseException:
        process.terminate()  # it ends what it runs, and removes its work
        process.wait()
        raise
    if code:
        raise RackError(
            f"`bootfarm build {recipe}` failed with exit code {code}",
            hint="its own message above says why",
        )


def _boot(
    options: DemoOptions,
    packages: Packages,
    directory: Path,
    state: Path,
    began: float,
    detach: Detach,
) -> None:
    with Rack(directory, packages=packages, image_name=IMAGE) as rack:
        with (
            stage(3, "the rack", "DHCP, control plane and server answer", directory),
            printed_steps() as progress,
        ):
            progress("network and DHCP")
            rack.report_to(progress)
            rack.start_control_plane()
            progress("bootfarm serve")
            server = rack.serve(options.store, example_lts_conf())
        control = ControlSocket(rack, state)
        spec = NodeSpec(NODE, firmware=options.firmware, memory=options.memory, cpus=CPUS)
        with stage(4, f"{NODE} boots over the network", "the cluster says it is Ready", directory):
            print(f"      console: bootfarm rack console {NODE}", flush=True)
            node = rack.boot(spec)
            ready = watch_boot(rack, node, options.timeout)
        with stage(5, "a pod runs to its end on it", "the pod Succeeded", directory):
            pod = rack.run_pod(node, command=POD_COMMAND)
        report(rack, node, ready, pod)
        print(
            f"\npeak memory: {NODE}'s QEMU {format_size(node.peak_memory())}, "
            f"bootfarm serve {format_size(server.peak_memory())}; "
            f"the whole demo took {time.monotonic() - began:.0f} s"
        )
        if options.keep:
            print(LOOK_AROUND, flush=True)
            detach(directory / "rack.log")
            control.wait_down()
        else:
            print(LOOK_AGAIN.format(directory=directory), flush=True)


def watch_boot(rack: Rack, node: Node, timeout: float) -> float:
    """Show the boot's phases until the cluster says Ready; seconds from power-on."""
    title = f"{node.name}  {node.mac}  {node.ip}  {node.spec.firmware.upper()}"
    table = LiveTable(title)

    def look() -> None:
        node.check()
        rows = rows_of(rack.timeline_or_nothing(node), node.powered_on_at)
        waiting = "waiting for the cluster to say Ready" if rows else "waiting for its boot ROM"
        table.update(rows, waiting, time.time() - node.powered_on_at)

    try:
        rack.wait_ready(node, timeout, look)
    finally:
        table.close()
    return time.time() - node.powered_on_at


def report(rack: Rack, node: Node, ready: float, pod: PodResult) -> None:
    """Print the result."""
    print(f"\n{node.name}: Ready {ready:.1f} seconds after power-on\n")
    print(render_rows(rows_of(rack.timeline_or_nothing(node), node.powered_on_at)))
    print(f"\n$ kubectl get nodes -o wide\n{rack.kubectl('get', 'nodes', '-o', 'wide').rstrip()}")
    print(f"\n$ kubectl get pods -o wide\n{rack.kubectl('get', 'pods', '-o', 'wide').rstrip()}")
    print(f"\n$ kubectl logs {pod.name}\n{pod.log.rstrip()}")


LOOK_AROUND = f"""
The rack stays up. Look around:
  bootfarm rack status              what is in it
  bootfarm rack console {NODE}      its serial console (Ctrl-] leaves)
  bootfarm rack ssh {NODE}          a shell on it
  bootfarm rack kubectl get pods -A the cluster
  bootfarm rack power {NODE} cut    pull the plug; `on` switches it on again
  bootfarm rack boot node-2         another machine
  bootfarm rack down                end it"""

LOOK_AGAIN = """
Everything is torn down. The logs (consoles, server, DHCP, control plane) are in
  {directory}
To look around in a running rack: `bootfarm demo --keep`, then `bootfarm rack console
node-1`, `bootfarm rack ssh node-1`, `bootfarm rack kubectl get nodes`, `bootfarm rack down`."""
