"""Images of what a cluster of several nodes needs: kube-router and CoreDNS.

kube-router routes pods between nodes, is the service proxy and keeps network policy;
it calls iptables, ipset, ip and conntrack, which its image has from Debian. CoreDNS
is one static program.
"""

from dataclasses import dataclass
from pathlib import Path

from rack.cache import cache_directory, content_key, locked, need_tools, run, whole_or_nothing
from rack.kubernetes.build import compile_families
from rack.kubernetes.families import COREDNS, KUBE_ROUTER, NETWORK_FAMILIES
from rack.kubernetes.images import pack_image, pack_layer
from rack.kubernetes.privateapt import SUITE, debian_mirror
from rack.kubernetes.toolchain import find_toolchain
from rack.progress import Progress

USERLAND = (
    *("base-files", "dash", "coreutils", "grep", "iproute2", "iptables", "ipset", "ipvsadm"),
    *("conntrack", "kmod", "procps"),
)
"""Debian packages of kube-router's image: extracted with what they depend on, not configured."""
ALTERNATIVES = {
    "usr/sbin/iptables": "xtables-nft-multi",
    "usr/sbin/iptables-save": "xtables-nft-multi",
    "usr/sbin/iptables-restore": "xtables-nft-multi",
    "usr/sbin/ip6tables": "xtables-nft-multi",
    "usr/sbin/ip6tables-save": "xtables-nft-multi",
    "usr/sbin/ip6tables-restore": "xtables-nft-multi",
}
"""What the packages' maintainer scripts would have linked."""


@dataclass(frozen=True)
class NetworkImages:
    """The docker-archives below `directory`, by the names that the manifests ask for."""

    directory: Path

    @property
    def archives(self) -> dict[str, Path]:
        """Image name to docker-archive."""
        return {
            coredns_image(): self.directory / "coredns.tar",
            kube_router_image(): self.directory / "kube-router.tar",
        }


def coredns_image() -> str:
    """For example coredns/coredns:1.14.6, as Docker Hub names it."""
    return f"coredns/coredns:{COREDNS.version}"


def kube_router_image() -> str:
    """For example cloudnativelabs/kube-router:v2.1.0, as Docker Hub names it."""
    return f"cloudnativelabs/kube-router:{KUBE_ROUTER.tag}"


def build_network_images(progress: Progress) -> NetworkImages:
    """Compile and pack what is missing; RackError without a Go proxy or a Debian mirror."""
    need_tools("mmdebstrap")
    built = compile_families(NETWORK_FAMILIES, find_toolchain(progress), progress)
    names = [one.directory.name for one in built.values()]
    code = [Path(__file__), Path(__file__).with_name("images.py")]
    key = content_key(*names, *USERLAND, *code)
    directory = cache_directory() / "kubernetes" / f"network-{key}"
    with locked(directory):
        if directory.is_dir():
            return NetworkImages(directory)
        with whole_or_nothing(directory) as work:
            progress("packing CoreDNS' image")
            coredns = built["coredns"].program("coredns").read_bytes()
            layer = pack_layer({"coredns": (coredns, 0o755)}, {})
            (work / "coredns.tar").write_bytes(
                pack_image(coredns_image(), [layer], [], ["/coredns"])
            )
            progress("packing kube-router's image: its tools from Debian (mmdebstrap)")
            userland = work / "userland.tar"
            run(
                [
                    *("mmdebstrap", "--mode=root", "--variant=extract", "--quiet"),
                    '--aptopt=APT::Install-Recommends "0"',
                    "--dpkgopt=path-exclude=/usr/share/*",
                    f"--include={','.join(USERLAND)}",
                    *(SUITE, userland, debian_mirror()),
                ],
                timeout=600,
            )
            program = built["kube-router"].program("kube-router").read_bytes()
            layer = pack_layer({"usr/local/bin/kube-router": (program, 0o755)}, ALTERNATIVES)
            (work / "kube-router.tar").write_bytes(
                pack_image(
                    kube_router_image(),
                    [userland.read_bytes(), layer],
                    [],
                    ["/usr/local/bin/kube-router"],
                )
            )
            userland.unlink()
    return NetworkImages(directory)
