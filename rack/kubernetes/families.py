"""What is built from published Go modules: one family of programs for each go.mod.

`modules/FAMILY/go.mod` and go.sum pin a family's whole supply chain, its version
included; nothing of that stands anywhere else. The programs are the go.mod's
`tool` lines. Families are apart because their requirements contradict each other.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rack.errors import RackError

MODULES = Path(__file__).parent / "modules"


@dataclass(frozen=True)
class Family:
    """Programs that are built by one `go build`.

    name: the folder below `modules/`. module: the Go module whose version is the
    family's. cpu_seconds: what a cold build of it took in CPU seconds on the machine
    of docs/rack.md, for the forecast. versions: Go variables that take the version
    (`{version}` without, `{tag}` with its v, `{major}`, `{minor}`, `{date}`). static:
    C code in it is linked statically. renamed: program as Go names it -> its name.
    """

    name: str
    module: str
    cpu_seconds: int
    tags: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    static: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """The folder of its go.mod."""
        return MODULES / self.name

    @property
    def tag(self) -> str:
        """The version as Go writes it, for example v1.37.2."""
        return read_requirement(self.directory / "go.mod", self.module)

    @property
    def version(self) -> str:
        """The version that its go.mod requires, without v."""
        return self.tag.removeprefix("v")


def read_requirement(go_mod: Path, module: str) -> str:
    """The version of `module` that a go.mod requires; RackError if it does not."""
    found = re.search(rf"^(?:require)?\s+{re.escape(module)} (v\S+)", go_mod.read_text(), re.M)
    if found is None:
        raise RackError(f"{go_mod} does not require {module}")
    return found.group(1)


def read_go_version(go_mod: Path) -> tuple[int, ...]:
    """The Go that a go.mod needs, for example (1, 26, 8)."""
    found = re.search(r"^go (\d+(?:\.\d+)*)$", go_mod.read_text(), re.M)
    if found is None:
        raise RackError(f"{go_mod} has no `go` line")
    return tuple(int(number) for number in found.group(1).split("."))


def _kubernetes_versions() -> dict[str, str]:
    texts = {
        "gitVersion": "{tag}",
        "gitMajor": "{major}",
        "gitMinor": "{minor}",
        "gitTreeState": "archive",
        "buildDate": "{date}",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return {f"{package}.{name}": text for package in packages for name, text in texts.items()}


KUBERNETES = Family(
    "kubernetes", "k8s.io/kubernetes", cpu_seconds=620, versions=_kubernetes_versions()
)
CONTAINERD = Family(
    "containerd",
    "github.com/containerd/containerd/v2",
    cpu_seconds=90,
    tags=("no_btrfs", "no_devmapper", "no_zfs"),
    versions={"github.com/containerd/containerd/v2/version.Version": "{tag}"},
)
RUNC = Family(
    "runc",
    "github.com/opencontainers/runc",
    cpu_seconds=25,
    tags=("seccomp", "netgo", "osusergo"),
    static=True,
)
CNI = Family(
    "cni",
    "github.com/containernetworking/plugins",
    cpu_seconds=10,
    versions={
        "github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion": "{tag}"
    },
)
CRI_TOOLS = Family(
    "cri-tools",
    "sigs.k8s.io/cri-tools",
    cpu_seconds=36,
    versions={"sigs.k8s.io/cri-tools/pkg/version.Version": "{tag}"},
)
ETCD = Family("etcd", "go.etcd.io/etcd/server/v3", cpu_seconds=34, renamed={"server": "etcd"})
CRI_DOCKERD = Family(
    "cri-dockerd",
    "github.com/Mirantis/cri-dockerd",
    cpu_seconds=140,
    versions={"github.com/Mirantis/cri-dockerd/cmd/version.Version": "{version}"},
)
COREDNS = Family("coredns", "github.com/coredns/coredns", cpu_seconds=300)
KUBE_ROUTER = Family(
    "kube-router",
    "github.com/cloudnativelabs/kube-router/v2",
    cpu_seconds=200,
    versions={"github.com/cloudnativelabs/kube-router/v2/pkg/version.Version": "{tag}"},
)
HELM = Family(
    "helm",
    "helm.sh/helm/v3",
    cpu_seconds=210,
    versions={"helm.sh/helm/v3/internal/version.version": "{tag}"},
)

NODE_FAMILIES = (KUBERNETES, CONTAINERD, RUNC, CNI, CRI_TOOLS, ETCD, CRI_DOCKERD)
"""What a node and the control plane need."""
NETWORK_FAMILIES = (COREDNS, KUBE_ROUTER)
"""What a cluster of several nodes needs beside it, in containers."""
CHART_FAMILIES = (HELM,)
"""What `make test-helm` renders charts/ with; the rack itself has no use for it."""
