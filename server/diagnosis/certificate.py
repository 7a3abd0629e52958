"""Rules for joining without a token: what the boot server answered, which the node says again."""

from collections.abc import Callable
from typing import Final

from server.diagnosis.case import Case
from server.diagnosis.rule import Rule, Values

_ASKS_AGAIN: Final = "the machine asks again by itself"


def _refused(cause: str) -> Callable[[Case], Values | None]:
    """The last try to join failed for this cause, and none succeeded since."""

    def match(case: Case) -> Values | None:
        phase = case.phase("join")
        if phase is None or not phase.errors or phase.error_cause != cause:
            return None
        name = case.node.hostname or "this machine"
        return {"what": phase.error, "since": phase.error_at, "name": name}

    return match


def _watched(case: Case) -> Values | None:
    phase = case.phase("join")
    # An image that is older than the wait tells it as an error.
    if phase is None or phase.status == "ok" or phase.cause != "join_watched":
        return None
    return {"what": phase.detail, "since": phase.last}


RULES: Final = (
    Rule(
        id="join-off",
        phase="join",
        severity="error",
        when="A `kubeadm join` line has no token, and farm.yaml gives no certificates.",
        headline="kubeadm join: its line has no token, and this server gives no certificates.",
        expected="`join: {{certificates: true}}` in farm.yaml, or a token in the line",
        seen="{what}",
        check=(
            "join by certificate: docs/join.md has the few steps",
            "or put a line of `kubeadm token create --print-join-command` into lts.conf",
            _ASKS_AGAIN,
        ),
        match=_refused("join_off"),
    ),
    Rule(
        id="join-not-listed",
        phase="join",
        severity="error",
        when="The inventory does not name the machine, or nothing says which machine has its"
        " address.",
        headline="kubeadm join: the inventory does not name this machine: no certificate.",
        expected="a machine of the inventory, by the MAC that the neighbour table has",
        seen="{what}",
        check=(
            "add it to `inventory` in farm.yaml, with its hostname: {node}",
            "is it behind a router? then its address belongs into address_map",
            "`join: {{machines: any}}` lets every machine join whose MAC is known"
            " (docs/security.md)",
            _ASKS_AGAIN,
        ),
        match=_refused("join_not_listed"),
    ),
    Rule(
        id="join-name",
        phase="join",
        severity="error",
        when="The machine asks for another name than the inventory's.",
        headline="kubeadm join: the machine calls itself otherwise than the inventory does.",
        expected="a certificate request for the inventory's name",
        seen="{what}",
        check=(
            "HOSTNAME (or HOSTNAME_BASE) in lts.conf against the inventory's hostname",
            "the name that DHCP gives, where lts.conf gives none",
            "it counts from the machine's next boot on; a changed inventory at once",
        ),
        match=_refused("join_name"),
    ),
    Rule(
        id="join-alive",
        phase="join",
        severity="error",
        when="A kubelet of the machine's name renews its lease.",
        headline="kubeadm join: a kubelet of this name is alive: no second one joins.",
        expected="a lease of that name that nobody renews for `join.lease_seconds`",
        seen="{what}",
        check=(
            "the boot before ended only seconds ago? then the next try succeeds",
            "a second machine of that name: `kubectl get node {name} -o wide` has its address",
            "a process on the node that asks in its name: `journalctl` there",
            _ASKS_AGAIN,
        ),
        match=_refused("join_alive"),
    ),
    Rule(
        id="join-watched",
        phase="join",
        severity="note",
        when="The machine's lease was not let go at its last shutdown (a power cut, a crash, an"
        " image older than that): the server watches whether anybody renews it.",
        headline="kubeadm join: waits some seconds, until it is sure that no kubelet of this name"
        " is alive.",
        expected="no renewal of the lease for `join.lease_seconds`",
        seen="{what}",
        check=(
            "nothing, if the machine lost its power: it asks again by itself and joins",
            "it stays so for minutes? then a kubelet of this name renews its lease late:"
            " a second machine, or a starved one",
        ),
        match=_watched,
    ),
    Rule(
        id="join-twice",
        phase="join",
        severity="error",
        when="This boot has a certificate already, for another key.",
        headline="kubeadm join: this boot already has a certificate, for another key.",
        expected="one key for each boot (`join.per_boot`)",
        seen="{what}",
        check=(
            "somebody else asked in this machine's name before it: events on this page, and"
            " `kubectl get csr`",
            "was /run/bootfarm/join removed on the machine? a reboot makes a boot of its own",
        ),
        match=_refused("join_twice"),
    ),
    Rule(
        id="join-limit",
        phase="join",
        severity="error",
        when="More machines ask than `join.per_minute` allows.",
        headline="kubeadm join: more machines ask for certificates than the server gives.",
        expected="`join.per_minute` certificates, and one machine's turn after another's",
        seen="{what}",
        check=(
            "a whole hall was switched on? then its turn comes; `per_minute` in farm.yaml",
            _ASKS_AGAIN,
        ),
        match=_refused("join_limit"),
    ),
    Rule(
        id="join-request",
        phase="join",
        severity="error",
        when="The server does not take the machine's certificate request.",
        headline="kubeadm join: this server does not take the machine's certificate request.",
        expected="a request as this version's images make it",
        seen="{what}",
        check=(
            "image and server of the same version?",
            "openssl.cnf in the image: does it add extensions to requests?",
        ),
        match=_refused("join_request"),
    ),
    Rule(
        id="join-api",
        phase="join",
        severity="error",
        when="The cluster does not answer the server, refuses what it asks, or does not sign.",
        headline="kubeadm join: the cluster does not sign: see below.",
        expected="a cluster that signs what the server's account approves",
        seen="{what}",
        check=(
            "`bootfarm doctor --config farm.yaml` on the server asks for each right",
            "403: `kubectl apply -k k8s/join`; 401: a new join.kubeconfig (docs/join.md)",
            "no answer: does the API server run, may the server's machine reach it?",
            "not signed: kube-controller-manager's csrsigning controller",
            _ASKS_AGAIN,
        ),
        match=_refused("join_api"),
    ),
    Rule(
        id="join-server",
        phase="join",
        severity="error",
        when="The machine gets no answer, or none that it can use, from the server.",
        headline="kubeadm join: the machine gets no certificate from {server}.",
        expected="an answer to POST /join on port {http_port}",
        seen="{what}",
        check=(
            "is the server older than the image? then its `kubeadm join` line needs a token",
            "`curl http://SERVER:{http_port}/healthz` from the machine",
            _ASKS_AGAIN,
        ),
        match=_refused("join_server"),
    ),
)
