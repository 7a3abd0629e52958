"""The words of a `kubeadm join` line: the API server's address, flags, token and hash.

They are looked at as a text; that a token is known, or a hash the cluster's, is for the cluster
to say.
"""

from __future__ import annotations

import ipaddress
import re
from difflib import get_close_matches

from server.ltsconf.shapes import Wrong, check_host, is_computed

_COPIED = "stands where a page cut the line, or broke it"
_MOST_WRONG = 5
"""Problems of one value: nobody reads more."""
_TOKEN = re.compile(r"[a-z0-9]{6}\.[a-z0-9]{16}")
_HASH = re.compile(r"sha256:[0-9a-fA-F]{64}")
_KEY = re.compile(r"[0-9a-f]{64}")
_JOIN = re.compile(r"\bkubeadm\s+(?:[-\w=]+\s+){0,9}?join\b([^;|&\n]*)")
_WORD = re.compile(r"\"[^\"]*\"|'[^']*'|[^\s\"']+")
_SHAPES: dict[str, tuple[re.Pattern[str], str]] = {
    "--token": (_TOKEN, "6 and 16 letters and digits with a dot between, as kubeadm prints it"),
    "--discovery-token": (_TOKEN, "6 and 16 letters and digits with a dot between"),
    "--tls-bootstrap-token": (_TOKEN, "6 and 16 letters and digits with a dot between"),
    "--discovery-token-ca-cert-hash": (_HASH, "sha256: and 64 hexadecimal digits"),
    "--certificate-key": (_KEY, "64 hexadecimal digits"),
}
# https://kubernetes.io/docs/reference/setup-tools/kubeadm/kubeadm-join/
_FLAGS_TEXT = """
--apiserver-advertise-address --apiserver-bind-port --certificate-key --config --control-plane
--cri-socket --discovery-file --discovery-token --discovery-token-ca-cert-hash
--discovery-token-unsafe-skip-ca-verification --dry-run --experimental-control-plane
--experimental-patches --feature-gates --help --ignore-preflight-errors --kubeconfig --node-name
--patches --rootfs --skip-phases --tls-bootstrap-token --token --add-dir-header --alsologtostderr
--log-backtrace-at --log-dir --log-file --logtostderr --one-output --skip-headers
--skip-log-headers --stderrthreshold --v --vmodule"""
_FLAGS = frozenset(_FLAGS_TEXT.split())
_NAME_CLUSTER = frozenset(
    (
        *("--token", "--discovery-token", "--tls-bootstrap-token", "--config"),
        *("--discovery-token-ca-cert-hash", "--discovery-file"),
    )
)
_NO_JOIN = frozenset(("-h", "--help", "--print-join-command", "--dry-run", "phase"))
_ENDPOINT = re.compile(r"[^\s/=,]+:[0-9]+")
_NOT_BARE = {
    "--node-name": "the boot server says the machine's name (its inventory)",
    "--control-plane": "only workers join so",
}


def check_kubeadm(command: str) -> list[Wrong]:
    """What is wrong with the words of `kubeadm join` in a command."""
    found: list[Wrong] = []
    for match in _JOIN.finditer(command):
        if len(found) >= _MOST_WRONG:
            break
        words = [word.strip("\"'") for word in _WORD.findall(match[1])]
        if (cut := next((word for word in words if _is_copied(word)), None)) is not None:
            found.append((f"{cut[:20]!r} {_COPIED}", "Copy the whole line, on one line."))
            continue
        wrong = _check_endpoint(words)
        if wrong is not None:
            found.append(wrong)
        if is_bare_join(words):
            found += _check_bare(words)
        for number, word in enumerate(words):
            flag, equals, value = word[:200].partition("=")
            if len(found) >= _MOST_WRONG or not flag.startswith("--") or is_computed(flag):
                continue
            if flag not in _FLAGS:
                found.append((f"kubeadm join has no {flag}", _suggest_flag(flag)))
                continue
            if flag not in _SHAPES:
                continue
            if not equals:
                value = words[number + 1] if number + 1 < len(words) else ""
            pattern, shape = _SHAPES[flag]
            if not is_computed(value) and not pattern.fullmatch(value):
                what = "nothing" if not value or value.startswith("--") else "something else"
                found.append((f"behind {flag} stands {what}", f"It wants {shape}."))
    return found


def has_bare_join(command: str) -> bool:
    """Whether a command joins without a token: the boot server is asked for a certificate."""
    return any(
        is_bare_join([word.strip("\"'") for word in _WORD.findall(match[1])])
        for match in _JOIN.finditer(command)
    )


def is_bare_join(words: list[str]) -> bool:
    """Whether the words behind `kubeadm join` name no cluster; as the node sees it
    (imagebuild/rootfs/usr/lib/bootfarm/lib/joinargs.sh)."""
    return not any(
        word in _NO_JOIN
        or word.partition("=")[0] in _NAME_CLUSTER
        or _ENDPOINT.fullmatch(word)
        or (is_computed(word) and not word.startswith("--"))
        for word in words
    )


def _check_bare(words: list[str]) -> list[Wrong]:
    flags = {word.partition("=")[0] for word in words}
    return [
        (f"kubeadm join without a token takes no {flag}: {why}", "Leave it out.")
        for flag, why in _NOT_BARE.items()
        if flag in flags
    ]


def _check_endpoint(words: list[str]) -> Wrong | None:
    """What is wrong with the API server that is joined; it stands before the options."""
    if not words or words[0].startswith("-") or is_computed(words[0]):
        return None
    _, colon, port = words[0].rpartition(":")
    if "://" in words[0]:
        return f"{words[0][:80]!r} is no host:port", "Write it without https:// and path."
    host = words[0].rpartition(":")[0]
    if ":" in host and not host.startswith("["):
        return (
            f"{words[0][:80]!r}: an IPv6 address and its port look alike",
            "Write [fd00::1]:6443.",
        )
    if colon and not (port.isdecimal() and 0 < int(port[:6]) <= 65535) and "]" not in port:
        return f"{words[0][:80]!r} has no port", "Write host:6443."
    if colon and not host.startswith("[") and (wrong := check_host(host)) is not None:
        return wrong
    if host.startswith("[") and not _is_ipv6(host):
        return f"{host[:80]!r} is no IPv6 address", "Write [fd00::1]:6443."
    if not colon and "." in words[0] and not check_host(words[0]):
        return f"{words[0][:80]!r} has no port", f"Write {words[0][:80]}:6443."
    return None


def _suggest_flag(flag: str) -> str:
    if flag in ("--node-labels", "--register-with-taints", "--node-taints"):
        return (
            "Labels and taints are kubelet's: put KUBELET_EXTRA_ARGS into /etc/default/kubelet"
            " before the join."
        )
    close = get_close_matches(flag, _FLAGS, 1, 0.7)
    return f"Did you mean {close[0]}?" if close else "Remove it; `kubeadm join --help` lists all."


def _is_copied(word: str) -> bool:
    """Whether a word shows that a page cut or broke the line: `…`, `...`, a backslash alone."""
    return "\u2026" in word or word in ("...", "\\", "\\\\")


def _is_ipv6(host: str) -> bool:
    """Whether it is an IPv6 address in brackets."""
    try:
        ipaddress.IPv6Address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return host.endswith("]")
