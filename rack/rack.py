"""The virtual rack put together: network, DHCP, server, control plane, nodes.

    with Rack(directory) as rack:
        rack.start_control_plane()
        rack.serve(store, lts_conf)
        node = rack.boot(NodeSpec("node-1"))
        rack.wait_ready(node)

Everything runs in namespaces of its own and ends with the `with` block, or
with the process, however that ends.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from imagebuild.store.images import Store, StoreError
from imagebuild.wholefile import write_whole
from rack.addons import ADDONS, render_addon
from rack.cache import need_tools, run
from rack.controlplane import ControlPlane, JoinFacts
from rack.dhcp import RENDER, Dhcp, Kind
from rack.errors import RackError
from rack.kubernetes.network import build_network_images
from rack.kubernetes.source import Source, build
from rack.kubernetes.stack import Packages
from rack.kvm import find_accelerator, static_busybox
from rack.ltsconf import render_lts_conf
from rack.machine import TCG, MachineFiles, NodeSpec
from rack.namespace import Namespace
from rack.network import NETCONSOLE_IP, SECOND_IP, SERVER_IP, node_address, set_up_network
from rack.node import Node
from rack.pods import PodResult, run_pod
from rack.process import Process
from rack.progress import Progress
from rack.registry import ADDRESS as REGISTRY
from rack.registry import Registry
from rack.server import Server
from rack.timeline import describe_timeline, is_up

NETCONSOLE_PORT = 6666
"""netconsole's default."""


def silent(_: str) -> None:
    """A `progress` that says nothing."""


class Rack:
    """A rack below `directory` (logs, disks, keys; kept when it is closed).

    packages: what the control plane is run from; built when it is first needed, from
    `kubernetes`.
    accelerator: QEMU's; if None, KVM where it boots the served image's kernel, else TCG.
    image_name: whose boot loaders DHCP names. dhcp: what the site has of DHCP
    beside what `serve` does.
    """

    def __init__(
        self,
        directory: Path,
        *,
        progress: Progress = silent,
        packages: Packages | None = None,
        kubernetes: Source = "modules",
        accelerator: Sequence[str] | None = None,
        image_name: str = "amd64",
        dhcp: Kind = "loader",
    ) -> None:
        self.directory = directory.resolve()
        self.nodes: dict[str, Node] = {}
        self.server: Server | None = None
        self.second: Server | None = None
        self._progress = progress
        self._packages = packages
        self._kubernetes: Source = kubernetes
        self._accelerator = accelerator
        self._image_name = image_name
        self._dhcp_kind: Kind = dhcp
        self._control_plane: ControlPlane | None = None
        self._processes: list[Process] = []
        self._taps = 0

    def __enter__(self) -> "Rack":
        need_tools("unshare", "nsenter", "ip", "dnsmasq", "qemu-system-x86_64", "ssh", "ssh-keygen")
        self.directory.mkdir(parents=True, exist_ok=True)
        # Short, because a unix socket's path is.
        self.sockets = Path(tempfile.mkdtemp(prefix="bootfarm-rack-"))
        try:
            self.namespace = Namespace()
        except BaseException:
            shutil.rmtree(self.sockets, ignore_errors=True)
            raise
        try:
            self._start_network()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start_network(self) -> None:
        set_up_network(self.namespace)
        self.dhcp = Dhcp(self.namespace, self._subdirectory("dhcp"), self._dhcp_kind)
        self.dhcp.start(RENDER[self._dhcp_kind](self._image_name))
        argv = [sys.executable, "-m", "rack.netconsole", NETCONSOLE_IP, str(NETCONSOLE_PORT)]
        self._processes.append(self.namespace.start("netconsole", argv, self.netconsole_log))
        self.ssh_key = self._subdirectory("ssh") / "id_rsa"
        if not self.ssh_key.exists():
            make_key = ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-C", "rack"]
            run([*make_key, "-f", self.ssh_key])

    def close(self) -> None:
        """Stop what wants to be stopped, and end everything else. May be called twice."""
        for node in self.nodes.values():
            node.power_cut()
        for server in (self.server, self.second):
            if server is not None and server.is_running():
                server.stop()
        self.namespace.close()
        shutil.rmtree(self.sockets, ignore_errors=True)

    @property
    def netconsole_log(self) -> Path:
        """What nodes' kernels sent by netconsole; each line begins with the sender."""
        return self.directory / "netconsole.log"

    def report_to(self, progress: Progress) -> None:
        """Call `progress` with each step from now on."""
        self._progress = progress

    # The control plane

    @property
    def packages(self) -> Packages:
        """Kubernetes' packages, built now if they are not yet."""
        if self._packages is None:
            self._packages = build(self._progress, self._kubernetes)
        return self._packages

    @property
    def control_plane(self) -> ControlPlane:
        """The control plane. Raises RackError before `start_control_plane`."""
        if self._control_plane is None:
            raise RackError("the rack has no control plane", hint="call start_control_plane()")
        return self._control_plane

    def start_control_plane(self) -> JoinFacts:
        """Start etcd and Kubernetes; what nodes need to join."""
        directory = self._subdirectory("control-plane")
        control_plane = ControlPlane(self.namespace, self.packages, directory)
        facts = control_plane.start(self._progress)
        self._control_plane = control_plane
        return facts

    def start_cluster_network(self) -> Registry:
        """Start the registry and give the cluster kube-router and CoreDNS from it.

        For images with `cni: none`, whose nodes have the registry as docker.io's mirror
        (`registry` among the values of an lts.conf). They are Ready once kube-router is.
        """
        registry = Registry(self.namespace, self._subdirectory("registry"))
        registry.start()
        images = build_network_images(self._progress)
        self._progress("registry: pushing kube-router's and CoreDNS' images")
        registry.push(images.archives)
        for name in ADDONS:
            self.kubectl("apply", "-f", "-", stdin=render_addon(name))
        return registry

    def kubectl(self, *words: str, stdin: str = "", timeout: float = 60.0) -> str:
        """Run kubectl as the cluster's administrator; its output."""
        return self.control_plane.kubectl(*words, stdin=stdin, timeout=timeout)

    def kubectl_argv(self) -> list[str]:
        """The command that a person runs kubectl with; empty without a control plane."""
        if self._control_plane is None:
            return []
        program = str(self.packages.programs / "kubectl")
        return [program, f"--kubeconfig={self._control_plane.kubeconfig}"]

    def wait_ready(
        self, node: Node, timeout: float = 300.0, look: Callable[[], None] | None = None
    ) -> float:
        """Wait until the cluster says the node is Ready; the seconds it took.

        `look` is called at each try, to show how far it is or to give up (by raising).
        """
        try:
            return self.control_plane.wait_node_ready(node.name, timeout, look or node.check)
        except RackError as error:
            raise node.explain(error) from None

    def wait_up(self, node: Node, timeout: float = 500.0) -> None:
        """Wait until the node says that its system runs and its RCFILE_* lines have ended."""
        end = time.monotonic() + timeout
        while not is_up(self.timeline_or_nothing(node), node.powered_on_at):
            node.check()
            if time.monotonic() > end:
                raise node.explain(
                    RackError(f"{node.name} did not say that it is up within {timeout:g} s")
                )
            time.sleep(0.5)

    def run_pod(self, node: Node, timeout: float = 600.0, **options: str) -> PodResult:
        """Run a pod to its end on the node (see pods.run_pod)."""
        try:
            return run_pod(
                self.control_plane, node.name, timeout=timeout, check=node.check, **options
            )
        except RackError as error:
            raise node.explain(error) from None

    # The server

    def lts_values(self) -> dict[str, str]:
        """What the placeholders of an lts.conf stand for in this rack."""
        values = {
            "server": SERVER_IP,
            "registry": REGISTRY,
            "ssh_key": self.ssh_key.with_suffix(".pub").read_text().strip(),
            "netconsole_interface": NodeSpec("any").boot_interface,
            "netconsole_target": NETCONSOLE_IP,
        }
        if self._control_plane is not None:
            facts = self._control_plane.facts
            values |= {"token": facts.token, "api": facts.api, "ca_hash": facts.ca_hash}
        return values

    def serve(
        self,
        store: Path,
        lts_conf: Path | str,
        *,
        config: Mapping[str, Any] | None = None,
        arguments: Sequence[str] = (),
    ) -> Server:
        """Start `bootfarm serve` on 10.9.0.1 with an lts.conf (a file, or its text).

        Placeholders in it are filled in (lts_values). config: farm.yaml's content.
        arguments: further ones for the command.
        """
        template = lts_conf.read_text() if isinstance(lts_conf, Path) else lts_conf
        directory = self._subdirectory("server")
        path = directory / "lts.conf"
        path.write_text(render_lts_conf(template, self.lts_values()))
        self._write_hosts()
        farm = {"hosts_file": str(self._hosts_file), **(config or {})}
        self.server = Server(self.namespace, directory, store, path, farm, arguments)
        self.server.start()
        if self._accelerator is None:
            self._accelerator = self._find_accelerator(store)
        return self.server

    def serve_beside(self, store: Path, *, config: Mapping[str, Any]) -> Server:
        """Start another server, with the lts.conf of the first one, on a machine of its own at
        10.9.0.3. config: farm.yaml's content, whose `peers` make the two know each other."""
        if self.server is None:
            raise RackError("the rack serves nothing", hint="call serve() first")
        farm = {"hosts_file": str(self._hosts_file), "address": SECOND_IP, **config}
        self.second = Server(
            self.namespace,
            self._subdirectory("second"),
            store,
            self.server.lts_conf,
            farm,
            address=SECOND_IP,
            cable="second",
        )
        self.second.start()
        return self.second

    def _find_accelerator(self, store: Path) -> Sequence[str] | None:
        try:
            image = Store(store).get(self._image_name, "current")
        except StoreError:
            return None
        try:
            # Kubernetes takes minutes to build, which a rack without a cluster does not need.
            busybox = self._packages.busybox if self._packages is not None else static_busybox()
        except RackError:
            return None
        return find_accelerator(image.path / "vmlinuz", busybox)

    # Nodes

    def add_node(self, spec: NodeSpec) -> Node:
        """Screw a machine into the rack: cables and a static lease; it stays off."""
        if spec.name in self.nodes:
            raise RackError(f"the rack has a node {spec.name} already")
        spec = spec.completed(node_address(len(self.nodes)))
        count = len(spec.nics)
        taps = [f"tap{number}" for number in range(self._taps, self._taps + count)]
        self._taps += count
        directory = self._subdirectory("nodes") / spec.name
        files = MachineFiles(directory, self.sockets, spec.name, taps)
        self.dhcp.add_host(spec)
        node = Node(
            spec,
            files,
            self.namespace,
            self.ssh_key,
            lambda: self._seen_by_server(spec.mac),
            self._accelerator or TCG,
        )
        self.nodes[spec.name] = node
        self._write_hosts()
        return node

    @property
    def _hosts_file(self) -> Path:
        """Names of the nodes, as an operator has them in /etc/hosts."""
        return self._subdirectory("server") / "hosts"

    def _write_hosts(self) -> None:
        text = "".join(f"{node.ip} {node.name}\n" for node in self.nodes.values())
        write_whole(self._hosts_file, text.encode(), mode=0o644)

    def boot(self, spec: NodeSpec) -> Node:
        """Add a machine and switch it on."""
        node = self.add_node(spec)
        node.power_on()
        return node

    def timeline(self, node: Node) -> dict[str, Any]:
        """What the server knows of the node's boot (GET /api/nodes/<mac>)."""
        if self.server is None:
            raise RackError("the rack serves nothing", hint="call serve() first")
        found: dict[str, Any] = self.server.get_json(f"/api/nodes/{node.mac}")
        return found

    def timeline_or_nothing(self, node: Node) -> dict[str, Any]:
        """As `timeline`, or {} while the server does not know the node or does not answer."""
        try:
            return self.timeline(node)
        except RackError:
            return {}

    def _seen_by_server(self, mac: str) -> str:
        if self.server is None or not self.server.is_running():
            return "nothing: it does not run"
        try:
            return describe_timeline(self.server.get_json(f"/api/nodes/{mac}"))
        except RackError as error:
            return error.message

    def _subdirectory(self, name: str) -> Path:
        path = self.directory / name
        path.mkdir(parents=True, exist_ok=True)
        return path
