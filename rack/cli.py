"""Commands of the virtual rack; see COMMANDS."""

import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from imagebuild.architecture import ARCHITECTURES, DEFAULT
from imagebuild.options import Renamed, examples
from imagebuild.store.shown import format_size
from rack.cache import checkout_directory
from rack.control import ControlSocket, ask, state_directory, the_only_rack
from rack.demo import DemoOptions, run_demo
from rack.detach import Detach, run_detachable
from rack.errors import RackError
from rack.kubernetes.repository import sources_line
from rack.kubernetes.source import SOURCES, Source, build
from rack.ltsconf import example_lts_conf, without_join
from rack.machine import NodeSpec
from rack.namespace import enter_argv
from rack.node import ssh_argv
from rack.progress import printed_steps
from rack.rack import Rack
from rack.smoke import smoke_command
from rack.terminal import attach_console


def default_store() -> Path:
    """The store that the demo builds into: `build/store` of the checkout."""
    return checkout_directory() / "build" / "store"


KUBERNETES = click.option(
    "--kubernetes",
    type=click.Choice(SOURCES),
    default="modules",
    show_default=True,
    help="The present one, from its Go modules; or 1.20 from Debian's source package, "
    "for machines that reach no Go proxy.",
)


@click.group(
    epilog=examples("bootfarm rack up", "bootfarm rack boot node-1", "bootfarm rack console node-1")
)
def rack() -> None:
    """A virtual rack: DHCP, QEMU nodes and a real control plane in a namespace."""
    checkout_directory()  # or the reason why there is none


@rack.command(epilog=examples("bootfarm rack packages"))
@KUBERNETES
def packages(kubernetes: Source) -> None:
    """Build Kubernetes, containerd and cri-dockerd into a local apt repository.

    The first time compiles for minutes, and says beforehand how many; later runs
    use the cache ($BOOTFARM_CACHE or ~/.cache/bootfarm), a family of programs at a
    time. The repository is build/rack/apt, container images to preload are
    build/rack/images/*.tar; with `--kubernetes debian` below build/rack/debian.
    """
    began = time.monotonic()
    with printed_steps() as progress:
        made = build(progress, kubernetes)
    click.echo(f"packages ready after {time.monotonic() - began:.0f} s: {made.directory}")
    click.echo(f"  {sources_line(made.apt)}")


@rack.command(
    epilog=examples(
        "bootfarm rack up", "bootfarm rack up --no-control-plane --store store --lts-conf lts.conf"
    )
)
@click.option(
    "--store", type=click.Path(path_type=Path), help="The store: serve this one [build/store]."
)
@click.option(
    "--lts-conf",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The lts.conf: serve this one [netboot-config/examples/lts.conf]; {{ token }}, {{ api }}, "
    "{{ ca_hash }}, {{ ssh_key }} and {{ netconsole_target }} are filled in.",
)
@click.option(
    "no_server",
    "--dhcp-only",
    cls=Renamed,
    older=("--no-server",),
    is_flag=True,
    help="No server but DHCP's: run `bootfarm serve` yourself.",
)
@click.option("--no-control-plane", is_flag=True, help="No Kubernetes.")
@KUBERNETES
def up(
    store: Path | None,
    lts_conf: Path | None,
    no_server: bool,
    no_control_plane: bool,
    kubernetes: Source,
) -> None:
    """Put the rack up; it stays until `bootfarm rack down`."""
    store = store or default_store()
    if not no_server and not store.is_dir():
        raise RackError(
            f"there is no store {store}",
            hint="name one by --store, or build it: "
            f"`bootfarm build recipes/demo.yaml --store {store}`",
        )

    def work(detach: Detach) -> None:
        state = state_directory()
        with the_only_rack(state):
            directory = state / "up"
            shutil.rmtree(directory, ignore_errors=True)
            with Rack(directory, kubernetes=kubernetes) as here:
                with printed_steps() as progress:
                    progress("network and DHCP")
                    here.report_to(progress)
                    if not no_control_plane:
                        here.start_control_plane()
                    if not no_server:
                        progress("bootfarm serve")
                        here.serve(store, _choose_lts_conf(lts_conf, not no_control_plane))
                control = ControlSocket(here, state)
                click.echo(f"the rack is up; its logs are in {here.directory}")
                click.echo("  bootfarm rack boot NAME | console NAME | ssh NAME | status | down")
                detach(here.directory / "rack.log")
                control.wait_down()

    sys.exit(run_detachable(work))


def _choose_lts_conf(given: Path | None, has_control_plane: bool) -> Path | str:
    """The file that was given, else the example, as far as it can work."""
    if given or has_control_plane:
        return given or example_lts_conf()
    return without_join(example_lts_conf().read_text())


@rack.command(
    epilog=examples(
        "bootfarm rack boot node-1", "bootfarm rack boot node-2 --firmware uefi --memory 2048"
    )
)
@click.argument("name")
@click.option(
    "--firmware",
    type=click.Choice(["bios", "uefi"]),
    default="bios",
    show_default=True,
    help="The firmware.",
)
@click.option(
    "architecture",
    "--arch",
    type=click.Choice(tuple(ARCHITECTURES)),
    default=DEFAULT,
    show_default=True,
    help="Its architecture: another than amd64 is a preview, boots by UEFI, and boots the image"
    " of that name.",
)
@click.option("--memory", default=1024, show_default=True, help="The machine's memory: MiB.")
@click.option("--cpus", default=1, show_default=True, help="How many processors it has.")
@click.option("--nic", default="virtio-net-pci", show_default=True, help="QEMU's device.")
@click.option("--mac", default="", help="The machine's MAC: made from the name when left out.")
@click.option(
    "--disk",
    "disks",
    multiple=True,
    type=click.Path(exists=True, resolve_path=True),
    help="A raw image of a disk; may be repeated.",
)
def boot(
    name: str,
    firmware: str,
    architecture: str,
    memory: int,
    cpus: int,
    nic: str,
    mac: str,
    disks: tuple[str, ...],
) -> None:
    """Add a bare machine to the rack and switch it on."""
    spec = NodeSpec(
        name,
        mac=mac,
        firmware="uefi"
        if firmware == "uefi" or ARCHITECTURES[architecture].bios is None
        else "bios",
        architecture=architecture,
        memory=memory,
        cpus=cpus,
        nic=nic,
        disks=tuple(Path(disk) for disk in disks),
    )
    fields = asdict(spec) | {"disks": list(disks)}
    del fields["extra_nics"]
    node = ask("boot", spec=fields)
    click.echo(f"{name} is on: {node['ip']}, {node['mac']}")
    click.echo(f"  bootfarm rack console {name}        (its log: {node['console_log']})")


def _find_node(name: str) -> dict[str, str]:
    nodes = {node["name"]: node for node in ask("status")["nodes"]}
    if name not in nodes:
        raise RackError(
            f"the rack has no node {name}", hint=f"it has: {', '.join(nodes) or 'none'}"
        )
    found: dict[str, str] = nodes[name]
    return found


@rack.command(epilog=examples("bootfarm rack console node-1"))
@click.argument("name")
def console(name: str) -> None:
    """Show a node's serial console so far and attach to it; Ctrl-] leaves."""
    node = _find_node(name)
    log = Path(node["console_log"])
    if log.exists():
        sys.stdout.buffer.write(log.read_bytes()[-4000:])
        sys.stdout.flush()
    if node["power"] == "off":
        click.echo(f"\n{name} is off")
        return
    attach_console(Path(node["console_socket"]))


def _exec_inside(argv: Sequence[str]) -> None:
    words = enter_argv(ask("status")["namespace"], argv)
    os.execvp(words[0], words)


@rack.command(
    epilog=examples("bootfarm rack ssh node-1 systemctl status kubelet"),
    context_settings={"ignore_unknown_options": True},
)
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(name: str, command: tuple[str, ...]) -> None:
    """Log in to a node as root, or run COMMAND there."""
    node = _find_node(name)
    _exec_inside(ssh_argv(Path(ask("status")["ssh_key"]), node["ip"], command))


@rack.command(
    epilog=examples("bootfarm rack kubectl get nodes"),
    context_settings={"ignore_unknown_options": True},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def kubectl(words: tuple[str, ...]) -> None:
    """Run kubectl as the cluster's administrator."""
    argv = ask("status")["kubectl"]
    if not argv:
        raise RackError("this rack has no control plane", hint="it was put up without one")
    _exec_inside([*argv, *words])


@rack.command(
    name="run",
    epilog=examples("bootfarm rack run curl -s http://10.9.0.1:8080/healthz"),
    context_settings={"ignore_unknown_options": True},
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def run_inside(command: tuple[str, ...]) -> None:
    """Run a command in the rack's network, such as `ping` or `curl`."""
    _exec_inside(command)


@rack.command(epilog=examples("bootfarm rack power node-1 cut"))
@click.argument("name")
@click.argument("action", type=click.Choice(["on", "cut", "button", "reset"]))
def power(name: str, action: str) -> None:
    """Switch a node on, pull its plug, press its power button or its reset button."""
    node = ask("power", name=name, action=action)
    click.echo(f"{name}: {node['power']}")


@rack.command(epilog=examples("bootfarm rack status"))
def status() -> None:
    """What is in the rack, and whether it is on."""
    answer = ask("status")
    click.echo(f"rack up (process {answer['pid']}), files in {answer['directory']}")
    click.echo(f"bootfarm serve: {'running' if answer['server'] else 'not running'}")
    click.echo(f"control plane:  {'running' if answer['kubectl'] else 'none'}")
    for node in answer["nodes"]:
        click.echo(
            f"{node['name']:<12} {node['power']:<9} {node['firmware']:<5} {node['ip']:<13} "
            f"{node['mac']}  peak {format_size(node['peak_memory'])}"
        )


@rack.command(epilog=examples("bootfarm rack down"))
def down() -> None:
    """End the rack: nodes, servers, control plane, namespaces."""
    pid = ask("status")["pid"]
    ask("down")
    end = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and not _is_zombie(pid):
        if time.monotonic() > end:
            raise RackError(f"process {pid}, which holds the rack, does not end")
        time.sleep(0.1)
    click.echo("the rack is down")


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@click.command(epilog=examples("bootfarm demo", "bootfarm demo --keep --firmware uefi"))
@click.option("--keep", is_flag=True, help="Leave the rack up; end it by `bootfarm rack down`.")
@click.option(
    "--store", type=click.Path(path_type=Path), help="The store: build into this one [build/store]."
)
@click.option(
    "--recipe",
    type=click.Path(exists=True, path_type=Path),
    help="What to build [recipes/demo.yaml; with `--kubernetes debian` recipes/demo-1.20.yaml].",
)
@KUBERNETES
@click.option(
    "--firmware",
    type=click.Choice(["bios", "uefi"]),
    default="bios",
    show_default=True,
    help="The firmware.",
)
@click.option("--memory", default=1536, show_default=True, help="The machine's memory: MiB.")
@click.option(
    "--timeout",
    type=click.IntRange(1),
    default=900,
    show_default=True,
    help="How long a boot may take: seconds, until Ready.",
)
def demo(
    keep: bool,
    store: Path | None,
    recipe: Path | None,
    kubernetes: Source,
    firmware: str,
    memory: int,
    timeout: int,
) -> None:
    """Build, serve, boot a bare machine, and watch it join Kubernetes.

    Everything runs on this machine, in namespaces and below build/: packages,
    image, DHCP, server, control plane, one virtual node. Needs root.
    """
    name = "demo-1.20.yaml" if kubernetes == "debian" else "demo.yaml"
    options = DemoOptions(
        kubernetes=kubernetes,
        recipe=recipe or checkout_directory() / "recipes" / name,
        store=store or default_store(),
        firmware="uefi" if firmware == "uefi" else "bios",
        memory=memory,
        timeout=timeout,
        keep=keep,
    )
    sys.exit(run_detachable(lambda detach: run_demo(options, detach)))


rack.add_command(smoke_command)

COMMANDS: list[click.Command] = [rack, demo]
