"""`rollout:` of farm.yaml: whether this server may roll images out (docs/rollouts.md)."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from server.yamlfile import Section

_NAMESPACE: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


@dataclass(frozen=True)
class Rollouts:
    """Rollouts. enabled: whether there are any. cluster: Nodes are cordoned, drained and told to
    reboot; without it machines are rebooted by hand. kubeconfig: who asks the cluster; None: the
    account of the pod that the server runs in. namespace: where the rollout's state and its
    lease are; None: the pod's own, or bootfarm.
    """

    enabled: bool = False
    cluster: bool = True
    kubeconfig: Path | None = None
    namespace: str | None = None


def read_rollout(section: Section, base: Path) -> Rollouts:
    """Check the section."""
    rollouts = Rollouts(
        enabled=section.boolean("enabled", Rollouts.enabled),
        cluster=section.boolean("cluster", Rollouts.cluster),
        kubeconfig=section.path_("kubeconfig", base),
        namespace=_read_namespace(section),
    )
    section.finish()
    return rollouts


def _read_namespace(section: Section) -> str | None:
    text = section.text("namespace", shape={"type": "string", "pattern": f"^{_NAMESPACE}$"})
    if text is not None and not re.fullmatch(_NAMESPACE, text):
        section.fault("namespace", f"{text[:70]!r} is no namespace", "as bootfarm")
        return None
    return text
