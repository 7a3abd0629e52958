"""Whether a machine may have a certificate now, and what its request is called. Pure.

What decides: the MAC that the neighbour table (or `address_map`) has for the address that
asks, the inventory's name for that MAC, the lease of a kubelet of that name, and the
requests that the cluster knows already. What a machine says of itself only has to agree.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Final

from server.causes import CAUSES
from server.farm.inventory import Inventory
from server.join.request import JoinRequest
from server.machines.identity import Identity

WITNESSES: Final = ("neighbour table", "address_map of farm.yaml")
"""Who may say which MAC has an address: the inventory's own `ip` is worth no more than that."""
RENEWALS: Final = 32
"""Certificates of one key, each for when the one before has ended: some hours of tries."""
ENDS_SOON: Final = 120.0
"""Seconds that a certificate must have left to be given (again)."""
SLACK: Final = 5.0
"""Seconds that a renewal of a lease may be late."""
LOOK_SECONDS: Final = 5.0
"""Between two looks at a lease that is watched. Of a longer gap no more counts: meanwhile the
API server may have been away, and no kubelet could renew."""
LET_GO: Final = 0.0
"""The renewTime (1970-01-01T00:00:00Z, to the microsecond) that a node writes into its own
lease when its kubelet has stopped in good order. No kubelet renews with it, and only that
node's kubelet's credentials may write it (Kubernetes' Node authorizer), which root has there."""


@dataclass(frozen=True)
class Refusal:
    """Why there is no certificate. cause: one word of server.causes; words: for people.

    wait: seconds after which it is worth asking again; 0 where nothing is known of that.
    """

    cause: str
    words: str
    wait: int = 0

    def __post_init__(self) -> None:
        assert self.cause in CAUSES["join"], self.cause


@dataclass(frozen=True)
class Lease:
    """A kubelet's lease. version: changes with each renewal; renewed: seconds since the epoch,
    by the node's clock; duration: seconds, of which kubelet renews it at each quarter."""

    version: str
    renewed: float
    duration: float = 40.0


def name_machine(identity: Identity, inventory: Inventory, machines: str) -> str | Refusal:
    """The one Node's name that a machine may ask for, or why there is none.

    machines: `join.machines` of farm.yaml, listed or any. Without a hostname in the
    inventory it is node-<MAC>, as the node calls itself then; a name of the hosts file, which
    is an address's, counts for nothing.
    """
    mac = identity.mac
    if mac is None or identity.how not in WITNESSES:
        return Refusal(
            "join_not_listed",
            f"nothing says which machine has {identity.ip}: its MAC is in neither the neighbour"
            " table nor address_map",
        )
    machine = inventory.by_mac.get(mac)
    if machine is None and machines != "any":
        return Refusal("join_not_listed", f"the inventory does not name {mac}: no certificate")
    name = ((machine.hostname if machine else None) or f"node-{mac.replace(':', '')}").lower()
    owner = inventory.by_hostname.get(name)
    if owner is not None and owner.mac != mac:
        return Refusal("join_name", f"{name} is {owner.mac}'s name, and this machine is {mac}")
    return name


def judge_name(request: JoinRequest, name: str, mac: str) -> Refusal | None:
    """Whether the request is for the machine that sent it."""
    if request.node == name:
        return None
    return Refusal(
        "join_name",
        f"the request is for system:node:{request.node}, and this machine ({mac}) is {name}",
    )


def judge_lease(
    node: str, lease: Lease | None, now: float, seconds: float, watched: float = 0.0
) -> Refusal | None:
    """Whether a kubelet of that name may be alive: then nobody else joins by it.

    Dead is one whose lease was watched for `seconds` without a renewal and has expired, by what
    it says or by what was watched, or that let it go itself. What it says alone decides nothing:
    the node's clock wrote it, and a starved kubelet is late with it.

    watched: for how long, by our own clock, the lease was seen to keep its version.
    """
    if lease is None or lease.renewed == LET_GO:
        return None
    bound = max(seconds, lease.duration / 4 + SLACK)
    age = now - lease.renewed
    left = max(bound - watched, lease.duration - max(age, watched))
    if left <= 0:
        return None
    if age < bound:
        return Refusal(
            "join_alive",
            f"kubelet of {node} renewed its lease {max(age, 0.0):.0f} s ago: it runs, so this is"
            " no boot",
        )
    return Refusal(
        "join_watched",
        f"the lease of {node}'s kubelet looks {age:.0f} s old: it counts as dead unless it renews"
        f" within the next {math.ceil(left)} s",
        wait=math.ceil(min(left, LOOK_SECONDS)),
    )


def judge_count(request: JoinRequest, boot: str, keys: str, per_boot: int) -> Refusal | None:
    """Whether this server remembers that the boot has had its certificates, for other keys.

    boot, keys: what the timeline has. The cluster's own requests, which tell the same, are
    removed after an hour.
    """
    known = keys.split()
    if boot != request.boot or shorten_key(request.key) in known or len(known) < per_boot:
        return None
    return refuse_twice(request.node)


def refuse_twice(node: str) -> Refusal:
    return Refusal("join_twice", f"this boot of {node} already has a certificate, for another key")


def shorten_key(key: str) -> str:
    """As it stands in a timeline."""
    return key[:16]


def name_csr(mac: str, request: JoinRequest, slot: int = 0, renewal: int = 0) -> str:
    """What the cluster's object is called: one name a boot, so that no second can be made.

    slot: which key of the boot. renewal: which certificate of that key.
    """
    words = ("bootfarm join", mac, request.node, request.boot, str(slot))
    digest = hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]
    return f"bootfarm-{digest}" + (f"-{renewal}" if renewal else "")
