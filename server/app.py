"""The running server: binds everything first, then serves until it is told to stop."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

from imagebuild.errors import count_words
from server.assemble.parts import Parts, make_parts
from server.assemble.services import STOP_SECONDS
from server.farm.config import Config
from server.fastpath import COMPILED, NOT_COMPILED
from server.hangup import ignore_hangup
from server.ltsconf.template import shared_checker, shared_renderer
from server.notify import Notifier
from server.services.hotloop import HotLoop
from server.services.running import find_owner
from server.sources.farm import FarmFile

STATUS_SECONDS = 10.0
"""So often systemd's status line is made anew."""
RELOAD_SECONDS = 0.2
"""So often is looked whether what SIGHUP asked for is done."""
_log = logging.getLogger(__name__)


class App:
    """One server process. `run` binds, says so, serves, and returns after SIGTERM or SIGINT."""

    def __init__(self, parts: Parts, notifier: Notifier | None = None) -> None:
        """notifier: tells systemd how the server is; None tells nobody."""
        self.parts = parts
        self._notifier = notifier or Notifier()
        self._loop = parts.loop
        self._stopping = parts.loop.create_future()
        self._timers: set[asyncio.TimerHandle] = set()

    def bind(self) -> None:
        """Take every port. ServerError names the first that cannot be had, and its owner."""
        for service in self.parts.running.services.values():
            service.bind()

    async def run(self, ready: Callable[["App"], None] = lambda app: None) -> None:
        """Bind, start, call `ready`, serve; on SIGTERM or SIGINT stop within 5 seconds."""
        self.bind()
        self._loop.set_exception_handler(self._on_failure)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.stop, signal.Signals(number).name)
        self._loop.add_signal_handler(signal.SIGHUP, self.reload)
        for service in self.parts.running.services.values():
            service.start()
        self.parts.upkeep.begin()
        for seconds, action in self.parts.upkeep.duties():
            self._repeat(seconds, action)
        if not COMPILED:
            _log.warning("%s", NOT_COMPILED)
        for problem in self.parts.sources.problems():
            _log.warning("%s", problem)
        ready(self)
        self._notifier.ready()
        self._tell_status()
        self._repeat(STATUS_SECONDS, self._tell_status)
        if self._notifier.watchdog is not None:
            self._repeat(self._notifier.watchdog / 3, self._notifier.alive)
        try:
            _log.info("stopping: %s", await self._stopping)
        finally:
            self._notifier.stopping()
            await self._shut_down()

    def reload(self) -> None:
        """Read farm.yaml, lts.conf, secrets, store and token again: what SIGHUP asks for."""
        _log.info("SIGHUP: everything is read again")
        self._notifier.reloading()
        if self.parts.token is not None:
            self.parts.token.look_again()
        self.parts.sources.reload()
        self._finish_reload()

    def _finish_reload(self) -> None:
        """Tell systemd that the server is ready again, once the files read in the background are in
        force or refused."""
        if self.parts.sources.is_reading and not self._stopping.done():
            self._loop.call_later(RELOAD_SECONDS, self._finish_reload)
            return
        self._notifier.ready()
        self._tell_status()

    def _tell_status(self) -> None:
        """Give systemd the line of `systemctl status`: how much is served to whom, and what is
        wrong."""
        images, nodes = len(self.parts.sources.store.images), len(self.parts.nodes)
        words = f"{count_words(images, 'image')}, {count_words(nodes, 'node')}"
        problems = self.parts.health.problems()
        if problems:
            words += f"; {count_words(len(problems), 'problem')}: {problems[0]}"
        self._notifier.status(words)

    def stop(self, why: str = "asked to") -> None:
        """Let `run` return."""
        if not self._stopping.done():
            self._stopping.set_result(why)

    async def _shut_down(self) -> None:
        for timer in self._timers:
            timer.cancel()
        tasks = {
            name: self._loop.create_task(service.stop())
            for name, service in self.parts.running.services.items()
        }
        await asyncio.wait(tasks.values(), timeout=STOP_SECONDS)
        for name, task in tasks.items():
            if not task.done():
                task.cancel()
                _log.error("%s did not stop within %s seconds", name, STOP_SECONDS)
            elif error := task.exception():
                _log.error("%s failed to stop: %s", name, error)
        self.parts.sources.close()
        shared_renderer().close()
        shared_checker().close()
        self.parts.upkeep.end()
        if self.parts.held is not None:
            self.parts.held.close()

    def _repeat(self, seconds: float, action: Callable[[], object]) -> None:
        """Call `action` every `seconds` seconds.

        An exception in it is logged, and does not end that.
        """
        handle: asyncio.TimerHandle = self._loop.call_later(
            seconds, lambda: self._turn(handle, seconds, action)
        )
        self._timers.add(handle)

    def _turn(
        self, handle: asyncio.TimerHandle, seconds: float, action: Callable[[], object]
    ) -> None:
        self._timers.discard(handle)
        name = f"duty {getattr(action, '__qualname__', action)}"
        try:
            action()
        except Exception as error:
            _log.exception("a regular duty failed")
            words = f"{type(error).__name__} in {getattr(action, '__qualname__', action)}"
            self.parts.health.fail(name, f"a regular duty fails: {words}; the log says more")
        else:
            self.parts.health.mended(name)
        self._repeat(seconds, action)

    def _on_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Report an exception that nobody caught, and its service; the others go on."""
        error = context.get("exception")
        name = find_owner(error) if isinstance(error, BaseException) else "server"
        self.parts.health.fail(name, f"{name} failed: {error or context.get('message')}")
        if isinstance(error, BaseException):
            _log.error("%s failed", name, exc_info=error)


def serve(
    config: Config,
    ready: Callable[[App], None],
    problems: Sequence[str] = (),
    file: FarmFile | None = None,
) -> None:
    """Run a server in this process until it is told to stop.

    problems: lines that /healthz shows from the start on (`degraded`). file: where `config`
    was read from.
    """
    notifier = Notifier.take(os.environ)
    loop = HotLoop()
    try:
        app = App(make_parts(config, loop, problems, file), notifier)
        loop.run_until_complete(app.run(ready))
    finally:
        loop.close()
        ignore_hangup()  # closing the loop gave SIGHUP its deadly default back
