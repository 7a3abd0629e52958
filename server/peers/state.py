"""What is known of each other server, and what of it wants a person."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from imagebuild.store.index import Conflict, Index
from server.farm.peers import OtherServer, Server, split_url
from server.troubles import Trouble

CLOCK_SECONDS: Final = 5.0
"""Clocks that differ by more are told: the later move of a tag counts by them."""
DIFFERS_SECONDS: Final = 30.0
"""What differs for so long is told: an edit takes its time to reach all servers."""


@dataclass
class PeerState:
    """One of farm.yaml's peers.

    state: waiting (not asked yet), here, away, or self (it is this server). since: seconds
    since the epoch. problem: why it is away. index: what it said last. ahead: by how many
    seconds its clock is ahead of ours. differs: key of farm.yaml, or lts.conf, to since when
    it differs from ours.
    """

    url: str
    state: str = "waiting"
    since: float = 0.0
    problem: str = ""
    index: Index | None = None
    ahead: float = 0.0
    differs: dict[str, float] = field(default_factory=dict)

    def hear(self, index: Index, own: Index, asked: float, now: float) -> None:
        """It has answered. asked, now: of our clock, before and after."""
        self._become("self" if index.server == own.server else "here", now)
        self.index, self.problem = index, ""
        self.ahead = index.time - (asked + now) / 2
        found = {
            key
            for key in index.settings.keys() | own.settings.keys()
            if index.settings and index.settings.get(key) != own.settings.get(key)
        }
        if index.settings and index.lts_conf != own.lts_conf:
            found.add("lts.conf")
        self.differs = {key: self.differs.get(key, now) for key in sorted(found)}

    def miss(self, problem: str, now: float) -> None:
        """It has not answered, or with something else."""
        self._become("away", now)
        self.problem = problem

    def other(self) -> OtherServer | None:
        """As menus are told of it; None where it is this server."""
        parts = split_url(self.url)
        if self.state == "self" or parts is None:
            return None
        index = self.index
        nbd = index.ports.get("nbd", 0) if index is not None else 0
        digests = frozenset(digest for _, digest in index.images) if index and nbd else frozenset()
        return OtherServer(Server(*parts, nbd), self.state == "here", digests)

    def describe(self, lts_conf: str) -> dict[str, Any]:
        """For the API. lts_conf: the digest of ours."""
        index = self.index
        return {
            "url": self.url,
            "state": self.state,
            "since": self.since,
            "problem": self.problem,
            "clock_ahead": round(self.ahead, 1) if self.state == "here" else 0.0,
            "differs": list(self.differs) if self.state == "here" else [],
            "lts_conf": index.lts_conf[:12] if index is not None else "",
            "own_lts_conf": lts_conf[:12],
            "images": len(index.images) if index is not None else 0,
        }

    def troubles(self, own: Index, now: float) -> Iterator[Trouble]:
        """What of it wants a person."""
        if self.state == "away":
            words = f"the server {self.url} is away since {stamp(self.since)}: {self.problem}"
            yield Trouble("peers", words)
        if self.state != "here" or self.index is None:
            return
        if abs(self.ahead) > CLOCK_SECONDS:
            where = "ahead of" if self.ahead > 0 else "behind"
            yield Trouble(
                "peers",
                f"the clock of {self.url} is {abs(self.ahead):.0f} seconds {where} ours: the later"
                " move of a tag is told by it; let both follow the same time server",
            )
        lasting = [key for key, since in self.differs.items() if now - since >= DIFFERS_SECONDS]
        if "lts.conf" in lasting:
            lasting.remove("lts.conf")
            ours, theirs = own.lts_conf[:12] or "none", self.index.lts_conf[:12] or "none"
            yield Trouble(
                "peers",
                f"lts.conf is {ours} here and {theirs} on {self.url}: a machine gets what the"
                " server that it asks has; give both the same file",
            )
        if lasting:
            yield Trouble(
                "peers",
                f"farm.yaml differs from that of {self.url} in {', '.join(lasting)}: a machine is"
                " answered in two ways; make them alike",
            )

    def _become(self, state: str, now: float) -> None:
        if state != self.state:
            self.state, self.since = state, now


def tell_conflict(conflict: Conflict) -> Trouble:
    """A tag that was moved on two servers."""
    name, kept, lost = f"{conflict.name}:{conflict.tag}", conflict.kept, conflict.lost
    again = f"{conflict.name}@{lost.digest[:12]} {conflict.tag}"
    remedy = f"`bootfarm images tag {again}`" if lost.digest else "`bootfarm images rm`"
    return Trouble(
        "peers",
        f"{name} was moved on two servers: to {tell_digest(lost.digest)} at"
        f" {stamp(lost.moved / 1e6)} and to {tell_digest(kept.digest)} at"
        f" {stamp(kept.moved / 1e6)}, which counts everywhere; {remedy} if the other was meant",
    )


def tell_digest(digest: str) -> str:
    """A move's digest in words."""
    return digest[:12] or "nothing (removed)"


def stamp(moment: float) -> str:
    """A time in words, UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))


def pack_states(states: Mapping[str, PeerState], lts_conf: str) -> list[dict[str, Any]]:
    """All of them for the API."""
    return [state.describe(lts_conf) for state in states.values()]
