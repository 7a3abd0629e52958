"""Which attached client gives way when there is no room for another."""

import itertools
from collections.abc import Callable
from typing import Final

from server.services.gate import IsKnown
from server.services.nbd_connection import Connection

LOOKED_AT: Final = 64
"""Most connections that are looked at to find one of an unknown machine."""
SURPLUS: Final = 4
"""A quarter of what the machine with the most connections has gives way, one by one."""


class Room:
    """The attached clients, by the card that they come from, those that have read nothing aside.

    card: client IP -> what tells machines apart that have many addresses.
    """

    def __init__(self, is_known: IsKnown, card: Callable[[str], str]) -> None:
        self._is_known = is_known
        self._card = card
        self._unread: dict[Connection, None] = {}
        self._cards: dict[str, dict[Connection, None]] = {}
        self._card_of: dict[Connection, str] = {}
        self._surplus: list[Connection] = []
        """Those that give way next, the last one first."""

    def add(self, connection: Connection) -> None:
        """A connection has attached."""
        card = self._card(connection.client)
        self._card_of[connection] = card
        self._cards.setdefault(card, {})[connection] = None
        self._unread[connection] = None

    def remove(self, connection: Connection) -> None:
        """A connection has gone, whether it had attached or not."""
        self._unread.pop(connection, None)
        card = self._card_of.pop(connection, None)
        if card is not None:
            mine = self._cards[card]
            del mine[connection]
            if not mine:
                del self._cards[card]

    def find(self, client: str) -> Connection | None:
        """Who gives way to a new connection of `client`; None when nobody has to.

        First what has read nothing since it attached, the oldest before others, the
        unknown before those that the operator knows. Then the oldest of the unknown
        machine that has most, if that is more than the newcomer has.
        """
        newcomer_known = self._is_known(client)
        unread = self._find_unread(newcomer_known)
        if unread is not None:
            return unread
        while self._surplus:
            other = self._surplus.pop()
            if not other.closed:
                return other
        return self._find_in_surplus(client, newcomer_known)

    def _find_unread(self, newcomer_known: bool) -> Connection | None:
        found: Connection | None = None
        have_read, looked = [], 0
        for connection in self._unread:
            if connection.traffic()[1]:
                have_read.append(connection)
                continue
            if not self._is_known(connection.client):
                found = connection
                break
            if newcomer_known:
                found = found or connection
            looked += 1
            if looked >= LOOKED_AT:
                break
        for connection in have_read:
            del self._unread[connection]
        return found

    def _find_in_surplus(self, client: str, newcomer_known: bool) -> Connection | None:
        counts = {card: len(mine) for card, mine in self._cards.items()}
        for card in sorted(counts, key=counts.__getitem__, reverse=True):
            mine = self._cards[card]
            if counts[card] <= counts.get(self._card(client), 0):
                return None
            if self._is_known(next(iter(mine)).client):
                continue
            most = counts[card] // SURPLUS or int(newcomer_known)
            self._surplus = list(itertools.islice(mine, most))[::-1]
            return self._surplus.pop() if self._surplus else None
        return None
