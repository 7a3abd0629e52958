"""A real control plane: etcd and Kubernetes' own programs as processes.

kubeadm's phases prepare it, as on a real machine; only the static pods are
replaced by processes in the rack's network namespace.
"""

import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rack.apiclient import API_PORT, ApiClient, ready_status
from rack.errors import RackError
from rack.kubernetes.stack import Packages
from rack.namespace import Namespace
from rack.network import API_IP
from rack.process import Process, wait_for
from rack.progress import Progress

ETCD_CLIENT = "http://127.0.0.1:2379"
ETCD_PEER = "http://127.0.0.1:2380"
SERVICE_SUBNET = "10.96.0.0/12"
DNS_IP = "10.96.0.10"
"""What kubeadm has kubelet tell to pods: the tenth address of SERVICE_SUBNET."""
POD_SUBNET = "10.244.0.0/16"
"""Each Node gets a /24 of it (spec.podCIDR), for a network that routes between nodes."""
GRACE_PERIOD = "10m0s"
"""How long a silent Node stays Ready: so long that no test passes by luck."""
OWN_NODE = "control-plane"
NODE_PKI = Path("/etc/kubernetes/pki")
"""Where nodes keep the CA: what is uploaded must name this, not the rack's own place."""


@dataclass(frozen=True)
class JoinFacts:
    """What a node has to know to run `kubeadm join`."""

    api: str
    token: str
    ca_hash: str


def make_token() -> str:
    """A bootstrap token, `[a-z0-9]{6}.[a-z0-9]{16}`."""
    return f"{secrets.token_hex(3)}.{secrets.token_hex(8)}"


def kubeadm_api(minor: tuple[int, int]) -> str:
    """The newest configuration API that the kubeadm of a version reads."""
    if minor >= (1, 31):
        return "kubeadm.k8s.io/v1beta4"
    return "kubeadm.k8s.io/v1beta3" if minor >= (1, 22) else "kubeadm.k8s.io/v1beta2"


def render_kubeadm_config(packages: Packages, pki: Path, token: str) -> str:
    """kubeadm's configuration, of the API that its version reads, certificates in `pki`."""
    api = kubeadm_api(packages.minor)
    # kubeadm runs no container here; it does not look for a socket that is named.
    socket = "unix:///run/containerd/containerd.sock"
    documents = [
        {
            "apiVersion": api,
            "kind": "InitConfiguration",
            "bootstrapTokens": [{"token": token, "ttl": "24h0m0s"}],
            "localAPIEndpoint": {"advertiseAddress": API_IP, "bindPort": API_PORT},
            "nodeRegistration": {"name": OWN_NODE, "criSocket": socket},
        },
        {
            "apiVersion": api,
            "kind": "ClusterConfiguration",
            "kubernetesVersion": f"v{packages.version}",
            "clusterName": "rack",
            "controlPlaneEndpoint": f"{API_IP}:{API_PORT}",
            "certificatesDir": str(pki),
            "etcd": {"external": {"endpoints": [ETCD_CLIENT]}},
            "networking": {
                "podSubnet": POD_SUBNET,
                "serviceSubnet": SERVICE_SUBNET,
                "dnsDomain": "cluster.local",
            },
        },
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "cgroupDriver": "systemd",
        },
    ]
    return yaml.safe_dump_all(documents, sort_keys=False)


def etcd_argv(program: Path, directory: Path) -> list[str]:
    """etcd on loopback, its data below `directory`."""
    return [
        str(program),
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls={ETCD_CLIENT}",
        f"--advertise-client-urls={ETCD_CLIENT}",
        f"--listen-peer-urls={ETCD_PEER}",
        f"--initial-advertise-peer-urls={ETCD_PEER}",
        f"--initial-cluster=default={ETCD_PEER}",
    ]


def has_insecure_port(packages: Packages) -> bool:
    """Whether its programs listen without TLS unless told not to (until 1.23)."""
    return packages.minor <= (1, 23)


def apiserver_argv(packages: Packages, directory: Path) -> list[str]:
    """kube-apiserver with the flags of kubeadm's static pod."""
    pki = directory / "pki"
    return [
        str(packages.programs / "kube-apiserver"),
        *(["--insecure-port=0"] if has_insecure_port(packages) else []),
        f"--advertise-address={API_IP}",
        "--allow-privileged=true",
        "--authorization-mode=Node,RBAC",
        f"--client-ca-file={pki / 'ca.crt'}",
        "--enable-admission-plugins=NodeRestriction",
        "--enable-bootstrap-token-auth=true",
        f"--etcd-servers={ETCD_CLIENT}",
        f"--kubelet-client-certificate={pki / 'apiserver-kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'apiserver-kubelet-client.key'}",
        "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
        f"--proxy-client-cert-file={pki / 'front-proxy-client.crt'}",
        f"--proxy-client-key-file={pki / 'front-proxy-client.key'}",
        "--requestheader-allowed-names=front-proxy-client",
        f"--requestheader-client-ca-file={pki / 'front-proxy-ca.crt'}",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--secure-port={API_PORT}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki / 'sa.pub'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        f"--service-cluster-ip-range={SERVICE_SUBNET}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
    ]


def controller_manager_argv(packages: Packages, directory: Path) -> list[str]:
    """kube-controller-manager as kubeadm's, with the long grace period."""
    pki = directory / "pki"
    config = directory / "controller-manager.conf"
    return [
        str(packages.programs / "kube-controller-manager"),
        *(["--port=0"] if has_insecure_port(packages) else []),
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--allocate-node-cidrs=true",
        "--bind-address=127.0.0.1",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--cluster-cidr={POD_SUBNET}",
        "--cluster-name=rack",
        f"--cluster-signing-cert-file={pki / 'ca.crt'}",
        f"--cluster-signing-key-file={pki / 'ca.key'}",
        "--controllers=*,bootstrapsigner,tokencleaner",
        f"--kubeconfig={config}",
        "--leader-elect=false",
        f"--node-monitor-grace-period={GRACE_PERIOD}",
        f"--requestheader-client-ca-file={pki / 'front-proxy-ca.crt'}",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--service-account-private-key-file={pki / 'sa.key'}",
        "--use-service-account-credentials=true",
    ]


def scheduler_argv(packages: Packages, directory: Path) -> list[str]:
    """kube-scheduler as kubeadm's."""
    config = directory / "scheduler.conf"
    return [
        str(packages.programs / "kube-scheduler"),
        *(["--port=0"] if has_insecure_port(packages) else []),
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1",
        f"--kubeconfig={config}",
        "--leader-elect=false",
    ]


class ControlPlane:
    """The running control plane. `start` it once; the namespace's end ends it."""

    def __init__(self, namespace: Namespace, packages: Packages, directory: Path) -> None:
        self._namespace = namespace
        self._packages = packages
        self._directory = directory
        self._processes: dict[str, Process] = {}
        self._token = make_token()
        self._facts: JoinFacts | None = None
        self._api: ApiClient | None = None

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig.

        From 1.29 on admin.conf has no right before `kubeadm init` has bound its group;
        super-admin.conf goes past RBAC.
        """
        name = "super-admin" if self._packages.minor >= (1, 29) else "admin"
        return self._directory / f"{name}.conf"

    @property
    def processes(self) -> tuple[Process, ...]:
        """Its processes, in the order in which they were started."""
        return tuple(self._processes.values())

    @property
    def facts(self) -> JoinFacts:
        """What a node has to know to join. Raises RackError before `start`."""
        if self._facts is None:
            raise RackError("the control plane does not run", hint="start it first")
        return self._facts

    def start(self, progress: Progress) -> JoinFacts:
        """Start it and prepare it for joins; what a node needs to know to join."""
        directory, packages = self._directory, self._packages
        directory.mkdir(parents=True, exist_ok=True)
        for name, pki in (("local.yaml", directory / "pki"), ("cluster.yaml", NODE_PKI)):
            (directory / name).write_text(render_kubeadm_config(packages, pki, self._token))
        progress("control plane: certificates and kubeconfigs (kubeadm)")
        self._phase("local.yaml", "certs", "all")
        for name in (self.kubeconfig.stem, "controller-manager", "scheduler"):
            self._phase("local.yaml", "kubeconfig", name, f"--kubeconfig-dir={directory}")
        progress("control plane: etcd and kube-apiserver")
        self._start("etcd", etcd_argv(packages.etcd, directory))
        apiserver = self._start("kube-apiserver", apiserver_argv(packages, directory))
        etcd = self._processes["etcd"]
        wait_for(
            lambda: self._answers("/healthz"),
            120,
            "an answer of /healthz",
            processes=(apiserver, etcd),
        )
        progress("control plane: controller manager, scheduler, what joins need (kubeadm)")
        self._start("kube-controller-manager", controller_manager_argv(packages, directory))
        self._start("kube-scheduler", scheduler_argv(packages, directory))
        self._prepare_joins()
        return self.facts

    def _prepare_joins(self) -> None:
        kubeconfig = f"--kubeconfig={self.kubeconfig}"
        self._phase("cluster.yaml", "upload-config", "kubeadm", kubeconfig)
        # The phase ends by patching the control plane's own Node, and waits two
        # minutes for it: there is none here, so it gets one to patch.
        labels = {"kubernetes.io/hostname": OWN_NODE}
        metadata = {"name": OWN_NODE, "labels": labels}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
        self.kubectl("create", "-f", "-", stdin=json.dumps(node))
        self._phase("cluster.yaml", "upload-config", "kubelet", kubeconfig)
        self.kubectl("delete", "node", OWN_NODE)
        self._phase("cluster.yaml", "bootstrap-token", kubeconfig)
        manager = self._processes["kube-controller-manager"]
        wait_for(self._is_signed, 60, "the signing of cluster-info", processes=(manager,))
        line = self._kubeadm("token", "create", "--print-join-command", kubeconfig)
        found = re.search(r"--discovery-token-ca-cert-hash\s+(sha256:[0-9a-f]{64})", line)
        if found is None:
            raise RackError(f"kubeadm printed no CA hash: {line.strip()!r}")
        self._facts = JoinFacts(f"{API_IP}:{API_PORT}", self._token, found.group(1))

    def read(self, path: str) -> dict[str, Any]:
        """The API object at a path, {} while there is none; RackError without an answer."""
        if self._api is None:
            self._api = ApiClient(self._namespace, self.kubeconfig)
        try:
            return self._api.get(path)
        except OSError as error:
            for process in self.processes:
                process.check()
            raise RackError(f"the API server: {error}", hint=f"see {self._directory}") from None

    def kubectl(self, *words: str, stdin: str = "", timeout: float = 60.0) -> str:
        """Run kubectl as the administrator; its output, or RackError."""
        program = str(self._packages.programs / "kubectl")
        argv = [program, f"--kubeconfig={self.kubeconfig}", *words]
        return self._namespace.run(argv, stdin=stdin, timeout=timeout)

    def wait_node_ready(self, name: str, timeout: float, is_hopeless: Callable[[], None]) -> float:
        """Wait until the cluster says that Node `name` is Ready; the seconds it took.

        `is_hopeless` is called at each try and raises to end the wait early.
        """
        began = time.monotonic()
        status = ""
        while status != "True":
            is_hopeless()
            for process in self.processes:
                process.check()
            if time.monotonic() - began > timeout:
                raise RackError(
                    f"node {name} is not Ready after {timeout:g} s "
                    f"(the cluster says {status or 'it does not know it'!r})"
                )
            time.sleep(0.5)
            status = ready_status(self.read(f"/api/v1/nodes/{name}"))
        return time.monotonic() - began

    def stop(self) -> None:
        """Stop every process, the last started first."""
        for process in reversed(self.processes):
            process.stop()
        self._processes.clear()

    def _start(self, name: str, argv: list[str]) -> Process:
        process = self._namespace.start(name, argv, self._directory / f"{name}.log")
        self._processes[name] = process
        return process

    def _answers(self, path: str) -> bool:
        try:
            return self.kubectl("get", "--raw", path, timeout=10).strip() == "ok"
        except RackError:
            return False

    def _is_signed(self) -> bool:
        """Whether a node that has only the token can trust what it is told."""
        words = ("get", "configmap", "--namespace=kube-public", "cluster-info", "-o", "json")
        data = json.loads(self.kubectl(*words)).get("data", {})
        return f"jws-kubeconfig-{self._token.partition('.')[0]}" in data

    def _phase(self, configuration: str, *words: str) -> None:
        config = f"--config={self._directory / configuration}"
        self._kubeadm("init", "phase", *words, config)

    def _kubeadm(self, *words: str) -> str:
        argv = [str(self._packages.programs / "kubeadm"), *words]
        return self._namespace.run(argv, timeout=180)
