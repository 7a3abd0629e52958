"""Rules for joining Kubernetes: what the kubeadm wrapper reports of each try.

What the wrapper itself finds comes as a cause. The patterns here are for what others said
(kubeadm, kubelet, curl), which it hands on as the fact `said`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from server.diagnosis.case import Case, name_count, search
from server.diagnosis.rule import Rule, Values
from server.quantities import name_span

_NEW_LINE: Final = (
    "make a new one where admin.conf is: `kubeadm token create --print-join-command`",
    "put the printed line into lts.conf (RCFILE_*, or the secrets of its template)",
    "reboot the machine: a refused join is final for its boot (docs/join.md)",
)


_OPEN: Final = ("", "join_away")
"""Causes with which others' words may still say more."""


@dataclass(frozen=True)
class Failure:
    """The last try to join that failed. text: the wrapper's words for people.

    said: what others said of it; of an image that tells no such thing the whole text. cause: a
    word of server.causes, or "". since: when. tries: how many failed since one succeeded.
    """

    text: str
    said: str
    cause: str
    since: float
    tries: int

    def values(self) -> Values:
        """What the rules' words are filled with."""
        return {"what": self.text, "since": self.since, "tries": name_count(self.tries)}


def find_failure(case: Case) -> Failure | None:
    """The last failure, unless a try succeeded since. One that is under way does not hide it."""
    phase = case.phase("join")
    if phase is None or not phase.errors or phase.error_cause == "join_watched":
        return None
    text = _strip(phase.error)
    said = str(case.boot.facts.get("said", text))
    return Failure(text, said, phase.error_cause, phase.error_at, phase.errors)


def _strip(words: str) -> str:
    """Without which try it was and when the next one is."""
    if match := search(r"^try \d+: ", words):
        words = words[match.end() :]
    words = words.removesuffix("; not trying again")
    if match := search(r"; again in \d+ s$", words):
        words = words[: match.start()]
    return words


def _find(case: Case, cause: str = "", pattern: str | None = None) -> Failure | None:
    """The last failure, if it has that cause, or if others' words decide and have the pattern."""
    found = find_failure(case)
    if found is None or (cause and found.cause == cause):
        return found
    if pattern is None or found.cause not in _OPEN:
        return None
    return found if search(pattern, found.said) else None


def _holds(cause: str = "", pattern: str | None = None) -> Callable[[Case], Values | None]:
    """A rule's condition: by its cause, or by others' words."""

    def match(case: Case) -> Values | None:
        found = _find(case, cause, pattern)
        return None if found is None else found.values()

    return match


def _token_expired(case: Case) -> Values | None:
    found = _find(case, "join_token", "JWS|token id .* is invalid|Unauthorized")
    if found is None:
        return None
    token = str(case.boot.facts.get("bootstrap", ""))
    ended = case.farm.tokens.get(token)
    if ended is None:
        worked = _last_success(case, token)
        state = "token expired or never made"
        if worked is not None:
            state = (
                "token expired or deleted; with it this machine joined"
                f" {name_span(case.now - worked)} ago"
            )
    elif ended <= case.now:
        state = f"token expired {name_span(case.now - ended)} ago"
    else:
        state = f"token refused, though it ends only in {name_span(ended - case.now)}"
    return {**found.values(), "state": state, "token": token or "of its RCFILE_* line"}


def _last_success(case: Case, token: str) -> float | None:
    """When this machine last joined with this token, as the timeline of its earlier boots says."""
    for boot in reversed(case.node.past):
        phase = boot.phases.get("join")
        if phase is not None and phase.status == "ok" and boot.facts.get("bootstrap") == token:
            return phase.last
    return None


def _kubelet_words(case: Case) -> Values | None:
    found = find_failure(case)
    if found is None or found.cause != "join_kubelet":
        return None
    return {**found.values(), "words": found.said}


def _swap(case: Case) -> Values | None:
    values = _kubelet_words(case)
    return values if values and search("running with swap on", str(values["words"])) else None


def _kubelet_option(case: Case) -> Values | None:
    values = _kubelet_words(case)
    if values is None:
        return None
    match = search(
        r"(unknown flag: \S+|(?:unrecognized|unknown) feature gate: \S+|(?:cannot set )?feature"
        r" gate.*)",
        str(values["words"]),
    )
    return {**values, "words": match[1]} if match else None


def _sockets(case: Case) -> Values | None:
    found = _find(case, pattern="found multiple CRI (?:endpoints|sockets)")
    if found is None:
        return None
    match = search(r"CRI (?:endpoints|sockets).*?: *(\S*/\S+, \S*/.*)$", found.said)
    return {**found.values(), "sockets": match[1] if match else "see below"}


def _runtime(case: Case) -> Values | None:
    found = _find(
        case,
        pattern=r"could not connect to the container runtime|container runtime is not running"
        r"|validate service connection|unknown service runtime\.v1",
    )
    if found is None:
        return None
    match = search(r"dial unix (\S+?):|endpoint \"(?:unix://)?([^\"]+)\"", found.said)
    socket = (match[1] or match[2]) if match else "its socket"
    answer = "does not answer"
    if search("no such file or directory", found.said):
        answer = "is not there"
    elif search("Unimplemented|unknown service", found.said):
        answer = "speaks no CRI (its plugin is disabled)"
    return {**found.values(), "socket": socket, "answer": answer}


_KUBELET_PORT: Final = r"waiting for the kubelet to start|127\.0\.0\.1:10248|localhost:10248"
"""kubeadm asks kubelet's health port on this machine, with words as for any API server."""


def _unreachable(case: Case) -> Values | None:
    if _find(case, pattern=_KUBELET_PORT):
        return None
    found = _find(
        case,
        "join_away",
        "connection refused|connect: |i/o timeout|no route to host"
        "|could not resolve|no such host|context deadline exceeded|TLS handshake timeout"
        "|Client.Timeout|request canceled|network is unreachable"
        "|identity of the API Server: timed out",
    )
    if found is None:
        return None
    match = search(r"connect to (\S+) port (\d+)", found.said) or search(
        r"dial tcp ([0-9.]+|\[[0-9a-f:]+\]):(\d+)", found.said
    )
    place = f" at {match[1]} port {match[2]}" if match else ""
    return {**found.values(), "place": place}


def _name_used(case: Case) -> Values | None:
    found = _find(
        case, pattern='a Node with name .* already exists|node with name .* and status "Ready"'
    )
    if found is None:
        return None
    match = search(r'name "?([^" ]+)"?', found.said)
    return {**found.values(), "name": match[1] if match else (case.node.hostname or "its name")}


def _preflight(case: Case) -> Values | None:
    found = _find(case, pattern=r"\[ERROR [^\]]+\]")
    if found is None:
        return None
    match = search(r"\[ERROR ([^\]]+)\]:? *(.*)", found.said)
    assert match is not None
    return {**found.values(), "test": match[1], "words": match[2] or "no more was said"}


def _failed(case: Case) -> Values | None:
    found = find_failure(case)
    return None if found is None else found.values()


RULES: Final = (
    Rule(
        id="kubelet-swap",
        phase="join",
        severity="error",
        when="kubelet refuses to run while swap is on.",
        headline="kubeadm join: kubelet does not run because swap is on.",
        expected="no swap, or a kubelet that is told to live with it",
        seen="{what}",
        check=(
            "`cat /proc/swaps` on the machine: FSTAB_* or PREINIT_* in lts.conf turn it on",
            "`failSwapOn: false` in the cluster's kubelet-config, if swap is wanted",
        ),
        match=_swap,
    ),
    Rule(
        id="kubelet-option",
        phase="join",
        severity="error",
        when="kubelet does not know a flag or feature gate that it was given.",
        headline="kubeadm join: kubelet does not run: {words}.",
        expected="flags and feature gates that this version of kubelet has",
        seen="{what}",
        check=(
            "KUBELET_EXTRA_ARGS in /etc/default/kubelet of the image (`kubelet` in the recipe)",
            "featureGates in the cluster's kubelet-config:"
            " `kubectl -n kube-system get configmap kubelet-config -o yaml`",
            "an image whose kubelet has the cluster's version",
        ),
        match=_kubelet_option,
    ),
    Rule(
        id="kubelet-ended",
        phase="join",
        severity="error",
        when="kubelet ended by itself, and said why.",
        headline="kubeadm join: kubelet does not run on this machine: {words}",
        expected="a kubelet that runs and registers",
        seen="{what}",
        check=(
            "what kubelet names: a path, a cgroup, a kernel setting",
            "the cluster's kubelet-config, made where another distribution runs?"
            " `kubectl -n kube-system get configmap kubelet-config -o yaml`",
            "`journalctl -u kubelet` on the machine; its last lines stand in the RCFILE_* log",
        ),
        match=_kubelet_words,
    ),
    Rule(
        id="runtime-several",
        phase="join",
        severity="error",
        when="kubeadm found the sockets of two container runtimes and was not told which to take.",
        headline="kubeadm join: this machine has several container runtimes: {sockets}.",
        expected="one socket, or --cri-socket",
        seen="{what}",
        check=(
            "`--cri-socket unix:///…` in the join line, nodeRegistration.criSocket in its file",
            "an image that says its runtime's socket does it by itself: build it anew",
        ),
        match=_sockets,
    ),
    Rule(
        id="runtime-away",
        phase="join",
        severity="error",
        when="kubeadm or kubelet get no answer from the container runtime.",
        headline="kubeadm join: the container runtime's socket {socket} {answer}.",
        expected="a container runtime that answers by CRI",
        seen="{what}",
        check=(
            "`systemctl status containerd docker cri-docker` on the machine",
            "the recipe's runtime: is it in this image? RM_SYSTEM_SERVICES in lts.conf?",
            "`disabled_plugins` in /etc/containerd/config.toml must not name cri",
        ),
        match=_runtime,
    ),
    Rule(
        id="version-skew",
        phase="join",
        severity="error",
        when="kubelet or kubeadm of the image are too new or too old for the cluster.",
        headline="kubeadm join: the image's Kubernetes does not fit the cluster's version.",
        expected="a kubelet no newer than the control plane, and not three minor versions older",
        seen="{what}",
        check=(
            "`kubectl version` against kubelet's version in `bootfarm images list`",
            "another image for this machine: IMAGE in lts.conf; or upgrade the control plane first",
        ),
        match=_holds(
            pattern=r"kubelet version is (?:higher|lower)|the kubelet version"
            r"|\[ERROR KubeletVersion\]"
            r"|only supports deploying clusters with the control plane version"
        ),
    ),
    Rule(
        id="not-approved",
        phase="join",
        severity="error",
        when="kubelet's certificate request was not approved or signed in time.",
        headline="kubeadm join: the cluster did not sign the machine's certificate in time.",
        expected="a controller manager that approves and signs kubelets' requests",
        seen="{what}",
        check=(
            "`kubectl get csr`: Pending means that nobody approves",
            "`kubeadm init phase bootstrap-token` makes the bindings that approve by themselves",
            "does kube-controller-manager run, with the cluster's signing key?",
        ),
        match=_holds(pattern="waiting for TLS bootstrap"),
    ),
    Rule(
        id="token-expired",
        phase="join",
        severity="error",
        when="The cluster refuses the join token: it has expired, was deleted, or is of another"
        " cluster.",
        headline="kubeadm join: {state}.",
        expected="a bootstrap token that the cluster knows",
        seen="{what}",
        check=_NEW_LINE,
        match=_token_expired,
    ),
    Rule(
        id="ca-hash",
        phase="join",
        severity="error",
        when="The cluster's CA is not the one that --discovery-token-ca-cert-hash names.",
        headline="kubeadm join: the cluster has another CA than the join line says (rebuilt, or"
        " another cluster's address).",
        expected="the CA with the pinned hash",
        seen="{what}",
        check=(
            "does the join line name the address of the right cluster?",
            *_NEW_LINE,
        ),
        match=_holds("join_ca", "are pinned"),
    ),
    Rule(
        id="clock-skew",
        phase="join",
        severity="error",
        when="A certificate is refused because of the time.",
        headline="kubeadm join: a certificate is refused because of the time: a clock is wrong, or"
        " the certificate has ended.",
        expected="clocks of machine, server and cluster that agree",
        seen="{what}",
        check=(
            "the server's clock (the machine takes its own from it at boot): `bootfarm doctor`",
            "`kubeadm certs check-expiration` on the control plane",
            "TIMESERVER in lts.conf",
        ),
        match=_holds(pattern="not yet valid|certificate has expired|clock|is before|is after"),
    ),
    Rule(
        id="api-unreachable",
        phase="join",
        severity="error",
        when="The machine gets no answer from the API server.",
        headline="kubeadm join: the API server{place} does not answer this machine.",
        expected="an answer of the API server that the join line names",
        seen="{what} ({tries})",
        check=(
            "is the address in the join line right, and does the API server run?",
            "routes and firewalls between the machine's network and it (TCP 6443)",
            "a name in the join line: DNS_SERVER, SEARCH_DOMAIN and HOSTS_* in lts.conf",
            "the machine goes on trying by itself",
        ),
        match=_unreachable,
    ),
    Rule(
        id="name-used",
        phase="join",
        severity="error",
        when="A Node of this machine's name is Ready in the cluster.",
        headline="kubeadm join: a Node named {name} is already in the cluster and Ready.",
        expected="no other machine of that name",
        seen="{what}",
        check=(
            "another machine with the same HOSTNAME in lts.conf, or in DNS?",
            "a Node of this machine's last boot: the wrapper marks it by itself and tries again"
            " (docs/join.md)",
            "`kubectl delete node {name}`, if no machine has it any more",
        ),
        match=_name_used,
    ),
    Rule(
        id="join-preflight",
        phase="join",
        severity="error",
        when="A check of kubeadm's preflight failed.",
        headline="kubeadm join: its check {test} failed: {words}",
        expected="that kubeadm's preflight passes",
        seen="{what}",
        check=(
            "what the check names: memory, swap, ports, kernel modules, container runtime",
            "the log of its RCFILE_* line in /var/log/bootfarm on the machine",
            "only if you know better: --ignore-preflight-errors={test} in the join line",
        ),
        match=_preflight,
    ),
    Rule(
        id="join-command",
        phase="join",
        severity="error",
        when="kubeadm does not understand the join line.",
        headline="kubeadm join: the join line in lts.conf is not understood: {what}",
        expected="the line as `kubeadm token create --print-join-command` prints it",
        seen="{what}",
        check=(
            "quotes and line ends of the RCFILE_* line in lts.conf",
            "flags that this version of kubeadm does not have",
        ),
        match=_holds("join_line", "unknown flag"),
    ),
    Rule(
        id="join-forbidden",
        phase="join",
        severity="error",
        when="The API server knows the token and does not allow what joining needs.",
        headline="kubeadm join: the API server does not allow it.",
        expected="kubeadm's own RBAC for bootstrap tokens",
        seen="{what}",
        check=(
            "`kubeadm init phase bootstrap-token` on the control plane makes it anew",
            "the token's groups: system:bootstrappers:kubeadm:default-node-token",
        ),
        match=_holds("join_forbidden", "forbidden"),
    ),
    Rule(
        id="join-certificate",
        phase="join",
        severity="error",
        when="A certificate is refused for another reason than the time.",
        headline="kubeadm join: a certificate is refused.",
        expected="an API server with a certificate for the address that the join line names",
        seen="{what}",
        check=(
            "does the API server's certificate name that address?"
            " (`openssl s_client -connect ADDRESS:6443`)",
            "a proxy in between: NO_PROXY",
        ),
        match=_holds(pattern="x509|certificate"),
    ),
    Rule(
        id="kubelet-failed",
        phase="join",
        severity="error",
        when="kubeadm waited in vain for kubelet.",
        headline="kubeadm join: kubelet does not come up on this machine.",
        expected="a kubelet that runs and registers",
        seen="{what}",
        check=(
            "`journalctl -u kubelet` on the machine; its last lines stand in the RCFILE_* log",
            "kubelet's and the runtime's cgroup driver must be the same (systemd)",
            "swap must be off",
        ),
        match=_holds(pattern="kubelet|timed out waiting|crisocket"),
    ),
    Rule(
        id="join-failed",
        phase="join",
        severity="error",
        when="A try to join failed otherwise.",
        headline="kubeadm join failed {tries}: {what}",
        expected="kubeadm join to succeed",
        seen="{what}",
        check=(
            "the log of its RCFILE_* line in /var/log/bootfarm on the machine",
            "the machine goes on trying by itself, unless it says otherwise",
        ),
        match=_failed,
    ),
)
