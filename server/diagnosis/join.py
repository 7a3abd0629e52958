"""Rules for joining Kubernetes: what the kubeadm wrapper reports of each try."""

from typing import Final

from server.diagnosis.case import Case, name_count, search
from server.diagnosis.rule import Rule, Values
from server.quantities import name_span

_TRY: Final = r"^try \d+: "
_NEW_LINE: Final = (
    "make a new one where admin.conf is: `kubeadm token create --print-join-command`",
    "put the printed line into lts.conf (RCFILE_*, or the secrets of its template)",
    "reboot the machine: a refused join is final for its boot (docs/join.md)",
)


def failure(case: Case) -> tuple[str, float, int] | None:
    """The last try to join that failed, unless one succeeded since: its words, when, how many
    failed.

    A try that is under way does not hide the one before it.
    """
    phase = case.phase("join")
    if phase is None or not phase.errors or phase.error_cause == "join_watched":
        return None
    return phase.error, phase.error_at, phase.errors


def _search(case: Case, pattern: str) -> Values | None:
    found = failure(case)
    if found is None:
        return None
    text, since, tries = found
    if not search(pattern, text):
        return None
    words = text
    if match := search(_TRY, words):
        words = words[match.end() :]
    words = words.removesuffix("; not trying again")
    if match := search(r"; again in \d+ s$", words):
        words = words[: match.start()]
    return {"what": words, "since": since, "tries": name_count(tries)}


def _token_expired(case: Case) -> Values | None:
    values = _search(case, "token refused|JWS|token id .* is invalid|Unauthorized|HTTP 401")
    if values is None:
        return None
    match = search(r"has no token ([a-z0-9]{6})\b", str(values["what"]))
    token = match[1] if match else ""
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
    return {**values, "state": state, "token": token or "of its RCFILE_* line"}


def _last_success(case: Case, token: str) -> float | None:
    """When this machine last joined with this token, as the timeline of its earlier boots says."""
    for boot in reversed(case.node.past):
        phase = boot.phases.get("join")
        if phase is not None and phase.status == "ok" and f"(token {token})" in phase.detail:
            return phase.last
    return None


def _ca_hash(case: Case) -> Values | None:
    return _search(case, "CA hash refused|are pinned")


def _clock(case: Case) -> Values | None:
    return _search(case, "not yet valid|certificate has expired|clock|is before|is after")


def _x509(case: Case) -> Values | None:
    return _search(case, "x509|certificate")


def _kubelet_words(case: Case) -> Values | None:
    values = _search(case, "^try [0-9]+: kubelet does not run: ")
    if values is None:
        return None
    return {**values, "words": str(values["what"]).removeprefix("kubelet does not run: ")}


def _swap(case: Case) -> Values | None:
    return _search(case, "kubelet does not run: .*running with swap on")


def _kubelet_option(case: Case) -> Values | None:
    values = _search(
        case,
        "kubelet does not run: .*(unknown flag|feature gate|cannot set feature gate)",
    )
    if values is None:
        return None
    match = search(
        r"(unknown flag: \S+|(?:unrecognized|unknown) feature gate: \S+|feature gate.*)",
        str(values["what"]),
    )
    return {**values, "words": match[1] if match else values["what"]}


def _sockets(case: Case) -> Values | None:
    values = _search(case, "found multiple CRI (?:endpoints|sockets)")
    if values is None:
        return None
    match = search(r"CRI (?:endpoints|sockets).*?: *(\S*/\S+, \S*/.*)$", str(values["what"]))
    return {**values, "sockets": match[1] if match else "see below"}


def _runtime(case: Case) -> Values | None:
    values = _search(
        case,
        r"could not connect to the container runtime|container runtime is not running"
        r"|validate service connection|unknown service runtime\.v1",
    )
    if values is None:
        return None
    text = str(values["what"])
    match = search(r"dial unix (\S+?):|endpoint \"(?:unix://)?([^\"]+)\"", text)
    socket = (match[1] or match[2]) if match else "its socket"
    answer = "does not answer"
    if search("no such file or directory", text):
        answer = "is not there"
    elif search("Unimplemented|unknown service", text):
        answer = "speaks no CRI (its plugin is disabled)"
    return {**values, "socket": socket, "answer": answer}


def _skew(case: Case) -> Values | None:
    return _search(
        case,
        r"kubelet version is (?:higher|lower)|the kubelet version|\[ERROR KubeletVersion\]"
        r"|only supports deploying clusters with the control plane version",
    )


def _not_approved(case: Case) -> Values | None:
    return _search(case, "waiting for TLS bootstrap|was not approved and signed")


_KUBELET_PORT: Final = r"waiting for the kubelet to start|127\.0\.0\.1:10248|localhost:10248"
"""kubeadm asks kubelet's health port on this machine, with words as for any API server."""


def _unreachable(case: Case) -> Values | None:
    if _search(case, _KUBELET_PORT):
        return None
    values = _search(
        case,
        "no answer from the API server|connection refused|connect: |i/o timeout|no route to host"
        "|could not resolve|no such host|context deadline exceeded|TLS handshake timeout"
        "|Client.Timeout|request canceled|network is unreachable"
        "|identity of the API Server: timed out",
    )
    if values is None:
        return None
    text = str(values["what"])
    match = search(r"connect to (\S+) port (\d+)", text) or search(
        r"dial tcp ([0-9.]+|\[[0-9a-f:]+\]):(\d+)", text
    )
    place = f" at {match[1]} port {match[2]}" if match else ""
    return {**values, "place": place}


def _name_used(case: Case) -> Values | None:
    values = _search(
        case, 'a Node with name .* already exists|node with name .* and status "Ready"'
    )
    if values is None:
        return None
    match = search(r'name "?([^" ]+)"?', str(values["what"]))
    return {**values, "name": match[1] if match else (case.node.hostname or "its name")}


def _preflight(case: Case) -> Values | None:
    values = _search(case, r"\[ERROR [^\]]+\]")
    if values is None:
        return None
    match = search(r"\[ERROR ([^\]]+)\]:? *(.*)", str(values["what"]))
    assert match is not None
    return {**values, "test": match[1], "words": match[2] or "no more was said"}


def _command(case: Case) -> Values | None:
    return _search(case, "command line refused|unknown flag")


def _forbidden(case: Case) -> Values | None:
    return _search(case, "forbidden|HTTP 403")


def _kubelet(case: Case) -> Values | None:
    return _search(case, "kubelet|timed out waiting|crisocket")


def _failed(case: Case) -> Values | None:
    return _search(case, "")


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
        match=_skew,
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
        match=_not_approved,
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
        match=_ca_hash,
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
        match=_clock,
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
        match=_command,
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
        match=_forbidden,
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
        match=_x509,
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
        match=_kubelet,
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
