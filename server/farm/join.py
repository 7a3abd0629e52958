"""`join:` of farm.yaml: certificates for machines that join Kubernetes (docs/join.md)."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from server.yamlfile import Section

MACHINES: Final = ("listed", "any")
_HOST: Final = r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
_API: Final = re.compile(rf"({_HOST}):([1-9][0-9]{{0,4}})")


@dataclass(frozen=True)
class Join:
    """What machines get that run `kubeadm join` without a token.

    certificates: whether they get any. machines: listed (in the inventory) or any whose MAC
    is known. api: host:port of the API server as machines reach it; None: as the cluster's
    cluster-info says. kubeconfig: who asks the cluster; None: the account of the pod that
    the server runs in. lease_seconds: for how long a kubelet's lease is watched, and
    must not be renewed, before another joins by its name. per_boot: keys of one boot that get
    a certificate. per_minute: certificates in all.
    """

    certificates: bool = False
    machines: str = "listed"
    api: str | None = None
    kubeconfig: Path | None = None
    lease_seconds: int = 15
    per_boot: int = 1
    per_minute: int = 120


def read_join(section: Section, base: Path) -> Join:
    """Check the section. kubelet renews its lease each 10 seconds, so that no fewer count."""
    join = Join(
        certificates=section.boolean("certificates", Join.certificates),
        machines=section.choice("machines", Join.machines, MACHINES),
        api=_read_api(section),
        kubeconfig=section.path_("kubeconfig", base),
        lease_seconds=section.integer("lease_seconds", Join.lease_seconds, 11, 300),
        per_boot=section.integer("per_boot", Join.per_boot, 1, 16),
        per_minute=section.integer("per_minute", Join.per_minute, 1, 100_000),
    )
    section.finish()
    return join


def _read_api(section: Section) -> str | None:
    text = section.text("api", shape={"type": "string", "pattern": f"^{_API.pattern}$"})
    if text is None:
        return None
    match = _API.fullmatch(text)
    if match is None or int(match[3]) > 65535:
        section.fault("api", f"{text!r} is not host:port", "as 10.9.0.20:6443")
        return None
    return text
