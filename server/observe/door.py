"""The one door: every event of a service and every line of a node's log enters here."""

import dataclasses
import logging
import time
from collections.abc import Callable

from server.events import Event
from server.logline import render_about
from server.nodes.node import Node
from server.nodes.space import SPACE
from server.nodes.timelines import Nodes
from server.observe.feed import Changes, Feed
from server.observe.logbook import LogBook
from server.observe.recording import Recorder
from server.observe.secrecy import Secrecy
from server.protocols.logs import LogLine, find_panic
from server.services.gate import Gate
from server.services.ratelimit import RateLimit

EVENTS_RATE, EVENTS_BURST = 5.0, 300.0
"""Events of one client a second and at once that are logged and shown one by one; a boot has some
hundred. Timelines and metrics count the others, too."""
ALL_RATE, ALL_BURST = 100.0, 2000.0
"""The same of all clients together that the inventory does not name."""
LINE_MAX = 2000
"""Characters of a log line that are looked at; half of them are kept."""

_log = logging.getLogger(__name__)


class Door:
    """Masks what enters and hands it to everybody who keeps, counts or shows it.

    count: takes each event, and its node, for the counters. identify: (MAC or None, hostname or
    None) of an address. is_listed: whether the inventory names an address or MAC.
    recorder: of whole boots, where one is wanted.
    """

    def __init__(
        self,
        *,
        secrecy: Secrecy,
        count: Callable[[Event, Node | None], None],
        nodes: Nodes,
        feed: Feed,
        changes: Changes,
        logbook: LogBook,
        identify: Callable[[str], tuple[str | None, str | None]],
        is_listed: Callable[[str], bool],
        recorder: Recorder | None,
    ) -> None:
        self._secrecy = secrecy
        self._count = count
        self._nodes = nodes
        self._feed = feed
        self._changes = changes
        self._logbook = logbook
        self._identify = identify
        self._is_listed = is_listed
        self._shown = Gate(RateLimit(EVENTS_RATE, EVENTS_BURST), RateLimit(ALL_RATE, ALL_BURST))
        self._left_out = 0
        self._recorder = recorder

    def record(self, event: Event) -> None:
        """Take an event of a service: into the timelines, and errors into the log."""
        if event.phase == "reads":
            self._record_boot(event, None)
            return
        event = self._secrecy.mask_event(event)
        # A share for each client, and one for all: a client that sends errors fills neither
        # the disk nor the list of the last events, which people look at.
        known = self._is_listed(event.node)
        shown = self._shown.allow(event.node, time.monotonic(), known=known)
        if shown or event.detail.get("status") != "error":
            _write_to_log(event)
        else:
            self._left_out += 1
        if event.phase == "traffic":
            self._count(event, None)
            return  # it belongs to no node
        node = self._nodes.record(event)
        self._count(event, node)
        self._record_boot(event, node)
        if shown and event.phase != SPACE:  # regular reports would push out what people look for
            self._feed.record(event, node)
        if node is not None:
            self._changes.note(node.key)

    def tell_left_out(self) -> None:
        """Log how many errors of clients were not logged one by one."""
        if self._left_out:
            _log.warning("%d more errors of clients were left out here", self._left_out)
            self._left_out = 0

    def take_lines(self, client: str, source: str, lines: list[LogLine]) -> None:
        """Take lines of a kernel or syslog from an address; dropped where no node has it."""
        mac, _ = self._identify(client)
        node = self._nodes.get(mac or client) or self._nodes.get(client)
        if node is None:
            return
        if node.key != client:
            self._logbook.move(client, node.key)
        masked = [
            dataclasses.replace(line, text=self._secrecy.mask(line.text[:LINE_MAX]))
            for line in lines
        ]
        self._logbook.add(node.key, node.boots, source, masked, time.time())
        self._changes.note(node.key)
        boot, words = node.boot, find_panic(masked)
        if words is not None and boot is not None and "panic" not in boot.facts:
            detail = {"status": "error", "message": words, "panic": words, "cause": "panic"}
            phase = boot.last_phase() or "initramfs"
            self.record(Event(time.time(), client, source, phase, detail))

    def _record_boot(self, event: Event, node: Node | None) -> None:
        if self._recorder is not None:
            self._recorder.take(event, node)


def _write_to_log(event: Event) -> None:
    level = logging.WARNING if event.detail.get("status") == "error" else logging.DEBUG
    if not _log.isEnabledFor(level):
        return
    about = {"node": event.node, "source": event.source, "phase": event.phase, **event.detail}
    words = render_about(event.detail)
    _log.log(
        level,
        "%s %s %s: %s",
        *(event.node, event.source, event.phase, words),
        extra={"about": about},
    )
