"""`POST /join` where certificates are given: who asks, may it, and what became of it."""

import base64
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from server.content import Refused
from server.events import Emit, Event
from server.farm.inventory import Inventory
from server.farm.join import Join
from server.join.account import open_account
from server.join.cluster import Cluster
from server.join.issuer import Certificate, Issuer, Order, Outcome
from server.join.policy import (
    Refusal,
    judge_count,
    judge_name,
    name_machine,
    shorten_key,
)
from server.join.request import RequestError, parse_request
from server.machines.identity import Identifier
from server.nodes.node import JOIN_KEYS, Node
from server.protocols.http import Request, Response
from server.web.join import render_answer, render_refusal

PAUSE: Final = "1"
"""Seconds that a client is told to wait while its certificate is under way."""


@dataclass
class JoinDesk:
    """Answers the requests; what became of each is an event of source `join`.

    find_node: the timeline of the machine at an address. post: has something done in the
    loop's thread, for the issuer's are others.
    """

    settings: Join
    cluster: Cluster
    identifier: Identifier
    inventory: Callable[[], Inventory]
    find_node: Callable[[str], Node | None]
    emit: Emit
    post: Callable[[Callable[[], None]], object]
    allow: Callable[[str], bool] = lambda client: True
    clock: Callable[[], float] = time.time
    issuer: Issuer = field(init=False)

    def __post_init__(self) -> None:
        self.issuer = Issuer(self.cluster, self.settings, done=self._done)

    def answer(self, request: Request) -> Response:
        """The answer to one `POST /join`."""
        if not self.allow(request.client):
            return render_refusal("join_limit", "too many requests of this address; slow down")
        asked = self._judge(request)
        if isinstance(asked, Refusal):
            self._tell_refusal(request.client, asked)
            return render_refusal(asked.cause, asked.words)
        outcome = self.issuer.ask(asked)
        if outcome is None:
            answer = render_answer(202, {"words": "under way; ask the same again"})
            headers = (*answer.headers, ("Retry-After", PAUSE))
            return Response(202, answer.body, answer.content_type, headers)
        if isinstance(outcome, Refusal):
            return render_refusal(outcome.cause, outcome.words, outcome.wait)
        fields = {
            "node": outcome.node,
            "api": outcome.api,
            "ca": _encode(outcome.authority),
            "certificate": _encode(outcome.pem),
        }
        return render_answer(200, fields)

    def _judge(self, request: Request) -> Order | Refusal:
        """What of it can be told without the cluster."""
        try:
            asked = parse_request(request.headers.get("content-type", ""), request.body)
            identity = self.identifier.identify(request.client, fresh=True)
        except RequestError as error:
            return Refusal(error.cause, error.message)
        except Refused as error:
            return Refusal("join_not_listed", error.reason)
        if request.card and not self.identifier.is_still(request.client, request.card):
            words = f"{request.client} answers with another MAC than when it connected; ask again"
            return Refusal("join_not_listed", words)
        name = name_machine(identity, self.inventory(), self.settings.machines)
        if isinstance(name, Refusal):
            return name
        mac = identity.mac or ""
        refusal = judge_name(asked, name, mac)
        node = self.find_node(request.client)
        if refusal is None and node is not None and node.boot is not None:
            keys = str(node.boot.facts.get(JOIN_KEYS) or "")
            refusal = judge_count(asked, node.boot.boot_id, keys, self.settings.per_boot)
        return Order(request.client, mac, asked) if refusal is None else refusal

    def _done(self, order: Order, outcome: Outcome) -> None:
        self.post(functools.partial(self._tell, order, outcome))

    def _tell(self, order: Order, outcome: Outcome) -> None:
        """In the loop's thread: the event of an outcome."""
        if isinstance(outcome, Refusal):
            self._tell_refusal(order.ip, outcome)
        else:
            self._tell_certificate(order, outcome)

    def _tell_certificate(self, order: Order, certificate: Certificate) -> None:
        milliseconds = round(certificate.seconds * 1000)
        words = f"certificate for {certificate.node}, in {milliseconds} ms"
        if not certificate.is_new:
            words = f"the certificate that {certificate.node} has in this boot, again"
        detail: dict[str, str | int | float | bool] = {
            "status": "ok",
            "message": words,
            "join_until": round(certificate.until),
        }
        node = self.find_node(order.ip)
        # What another boot's id was made up for does not count in this one.
        if node is not None and node.boot is not None and node.boot.boot_id == order.request.boot:
            keys = str(node.boot.facts.get(JOIN_KEYS) or "").split()
            key = shorten_key(order.request.key)
            detail[JOIN_KEYS] = " ".join(dict.fromkeys([*keys, key]))
        if certificate.is_new:
            detail["join_issued"] = round(self.clock(), 3)
            detail["join_ms"] = milliseconds
        self.emit(Event(self.clock(), order.ip, "join", "issued", detail))

    def _tell_refusal(self, client: str, refusal: Refusal) -> None:
        is_wait = refusal.cause == "join_watched"
        what, status = ("watched", "start") if is_wait else ("refused", "error")
        detail = {"status": status, "message": refusal.words, "cause": refusal.cause}
        self.emit(Event(self.clock(), client, "join", what, detail))


def open_desk(settings: Join, **parts: Any) -> JoinDesk:
    """The desk, with the cluster that `settings` name; ServerError where there is none.

    parts: JoinDesk's other fields.
    """
    return JoinDesk(settings=settings, cluster=Cluster(open_account(settings)), **parts)


def _encode(pem: str) -> str:
    return base64.b64encode(pem.encode()).decode()
