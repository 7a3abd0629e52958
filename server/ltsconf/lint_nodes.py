"""What the linter has to say about NODE_LABELS and NODE_TAINTS: what kubelet and the API server
would refuse. A kubelet that is given a label that it may not set does not start.

Sources: Kubernetes' cmd/kubelet/app/options (ValidateKubeletFlags), kubelet/pkg/apis
(well_known_labels.go), plugin/pkg/admission/noderestriction, and its docs on labels and taints.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from server.ltsconf.lint_registries import Remark

_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_PREFIX: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_PREFIX_MAX: Final = 253
_OWN: Final = frozenset(
    (
        *("kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch"),
        *("topology.kubernetes.io/zone", "topology.kubernetes.io/region"),
        *("failure-domain.beta.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region"),
        *("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type"),
        *("beta.kubernetes.io/os", "beta.kubernetes.io/arch"),
    )
)
"""Labels of Kubernetes' own domains that a kubelet may set."""
_OPEN: Final = ("kubelet.kubernetes.io", "node.kubernetes.io")
"""Prefixes of those domains below which it may set any."""
_KUBERNETES: Final = ("kubernetes.io", "k8s.io")
EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_LABELS: Final = "Write KEY=VALUE with blanks between, as rack=r1 example.org/pool=gpu."
_TAINTS: Final = (
    f"Write KEY=VALUE:EFFECT or KEY:EFFECT with blanks between; effects: {', '.join(EFFECTS)}."
)
_BY_HAND: Final = (
    "Take a prefix of your own or node.kubernetes.io/; or have an administrator set it:"
    " `kubectl label node`, once, since Nodes are kept."
)


def check_labels(key: str, value: str) -> Iterator[Remark]:
    """Each word is KEY=VALUE, and no label that a node may not set on itself."""
    yield from _check_words(key, value, _explain_label, lambda word: word.partition("=")[0])


def check_taints(key: str, value: str) -> Iterator[Remark]:
    """Each word is KEY=VALUE:EFFECT or KEY:EFFECT; one key may have several effects."""
    yield from _check_words(
        key, value, _explain_taint, lambda word: re.sub(r"=[^:]*", "", word, count=1)
    )


def _check_words(
    key: str,
    value: str,
    explain: Callable[[str], tuple[str, str] | None],
    identify: Callable[[str], str],
) -> Iterator[Remark]:
    seen: set[str] = set()
    for word in value.replace(",", " ").split():
        shown = word if len(word) <= 60 else word[:59] + "…"
        if (wrong := explain(word)) is not None:
            yield "error", "bad-value", f"{key}: {shown!r} {wrong[0]}", wrong[1]
            continue
        name = identify(word)
        if name in seen:
            yield (
                "warning",
                "bad-value",
                f"{key}: {name[:60]!r} stands twice",
                "Remove one of them.",
            )
        seen.add(name)


def _explain_label(word: str) -> tuple[str, str] | None:
    name, equals, text = word.partition("=")
    if not equals or not _is_qualified(name):
        return "is no label", _LABELS
    if text and not _NAME.fullmatch(text):
        return "has no value that a label may have", "At most 63 letters, digits, -, _ and dots."
    if not _may_set(name):
        return "is a label that a node may not set on itself (NodeRestriction)", _BY_HAND
    return None


def _explain_taint(word: str) -> tuple[str, str] | None:
    rest, _, effect = word.rpartition(":")
    name, _, text = rest.partition("=")
    if effect not in EFFECTS or not _is_qualified(name) or (text and not _NAME.fullmatch(text)):
        return "is no taint", _TAINTS
    return None


def _is_qualified(name: str) -> bool:
    """Whether it is [PREFIX/]NAME, as Kubernetes wants keys of labels and taints."""
    prefix, slash, last = name.rpartition("/")
    if slash and not (len(prefix) <= _PREFIX_MAX and _PREFIX.fullmatch(prefix)):
        return False
    return _NAME.fullmatch(last) is not None


def _may_set(name: str) -> bool:
    """Whether kubelet, and NodeRestriction, let a node set a label of that key."""
    prefix = name.rpartition("/")[0]
    if not _is_below(prefix, _KUBERNETES):
        return True
    return name in _OWN or _is_below(prefix, _OPEN)


def _is_below(prefix: str, domains: tuple[str, ...]) -> bool:
    return any(prefix == domain or prefix.endswith(f".{domain}") for domain in domains)
