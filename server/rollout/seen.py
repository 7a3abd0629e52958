"""What a rollout goes by: what was seen of each machine and of the cluster, at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Daemon:
    """A pod of a DaemonSet on a machine. restarts: of all its containers, together."""

    name: str
    is_running: bool
    restarts: int = 0


@dataclass(frozen=True)
class NodeSeen:
    """A Node of the cluster.

    is_ours: the rollout has cordoned it. boot_id: nodeInfo.bootID, "" where kubelet tells none.
    order: the reboot that the rollout has ordered last, "" for none; obeyed: the one that the
    node's agent has obeyed last. movable: pods that are to be evicted, None where nobody has
    looked; daemons likewise. blocked: why the last eviction was refused, or "".
    """

    name: str
    is_ready: bool = True
    is_cordoned: bool = False
    is_ours: bool = False
    boot_id: str = ""
    order: str = ""
    obeyed: str = ""
    movable: int | None = None
    daemons: tuple[Daemon, ...] | None = None
    blocked: str = ""
    is_control_plane: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """One machine. boot: when its present boot began, 0 where none was seen. image, digest: that
    boot's. is_up: it has come to its end, and nothing was heard of a shutdown.

    attached: the digest that it reads over NBD, "" for none, None where nobody can know.
    lives_on_nbd: its root is read for as long as it runs. finding, cause: what the diagnosis
    says of it and the rule that says so, or "". is_known: it is known what lts.conf gives it;
    pinned: why that keeps the rollout from it, or "". node: None where the cluster has no such
    Node, or there is no cluster.
    """

    boot: float = 0.0
    image: str = ""
    digest: str = ""
    is_up: bool = False
    attached: str | None = None
    lives_on_nbd: bool = True
    finding: str = ""
    cause: str = ""
    is_in_maintenance: bool = False
    is_known: bool = True
    pinned: str = ""
    node: NodeSeen | None = None


@dataclass(frozen=True)
class Observations:
    """All of them. has_cluster: Nodes are cordoned, drained and looked at.

    away: names of all Nodes of the cluster that are not Ready, also others than the rollout's.
    cluster_size: Nodes of the cluster. tag_digest: what the rollout's tag leads to now, or "".
    """

    machines: Mapping[str, Seen] = field(default_factory=dict)
    has_cluster: bool = False
    away: frozenset[str] = frozenset()
    cluster_size: int = 0
    tag_digest: str = ""
