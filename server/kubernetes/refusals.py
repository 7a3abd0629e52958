"""A refused lts.conf told as an Event on the ConfigMap that it came from."""

import hashlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from server.kubernetes.api import Api, ApiError

REASON = "LtsConfRefused"
MAX_MESSAGE = 1024
"""Bytes of an Event's message that Kubernetes takes."""
BURST = 5
"""Events that may be sent at once; then one each SECONDS_EACH."""
SECONDS_EACH = 30.0
"""So many Events at once, and then one in so many seconds; only the newest refusal waits."""
PAUSES = (1.0, 5.0, 25.0)
"""Seconds before each further try when the API server does not answer."""
_log = logging.getLogger(__name__)


class Refusals:
    """Events on one ConfigMap, written by a thread of their own: `tell` returns at once.

    The same refusal again (from another process too) counts up the Event that there is.
    """

    def __init__(
        self,
        api: Api,
        configmap: str,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._configmap = configmap
        self._wall = wall
        self._clock = clock
        self._next: str | None = None
        self._closing = False
        self._busy = False
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._counts: dict[str, int] = {}
        self._tokens = float(BURST)
        self._filled = clock()
        self._said = ""

    def tell(self, reason: str) -> None:
        """Have the Event written; a refusal that waits still is replaced by this one."""
        with self._change:
            self._next = reason
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="events", daemon=True)
                self._thread.start()
            self._change.notify_all()

    def close(self, seconds: float = 0.0) -> None:
        """Write nothing new after what waits; give that so many seconds."""
        with self._change:
            self._change.wait_for(lambda: self._next is None and not self._busy, seconds)
            self._closing = True
            self._change.notify_all()

    def send(self, reason: str) -> None:
        """Write the Event now. Raises ApiError."""
        namespace = self._api.namespace
        subject = self._find_configmap(namespace)
        event = render_event(subject, reason, self._wall())
        path = f"/api/v1/namespaces/{namespace}/events"
        name = event["metadata"]["name"]
        status, answer = self._api.call("POST", path, event)
        if status == 409:  # AlreadyExists
            self._count_up(f"{path}/{name}", name, event["lastTimestamp"])
        elif status >= 300:
            raise ApiError(f"the Event is not accepted: {status} {answer.get('message', '')}")
        else:
            self._counts[name] = 1

    def _find_configmap(self, namespace: str) -> dict[str, str]:
        """A reference to the ConfigMap; by its name alone where it cannot be read."""
        reference = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "namespace": namespace,
            "name": self._configmap,
        }
        status, answer = self._api.call(
            "GET", f"/api/v1/namespaces/{namespace}/configmaps/{self._configmap}"
        )
        if status == 200:
            metadata = answer.get("metadata", {})
            for key in ("uid", "resourceVersion"):
                if isinstance(metadata.get(key), str):
                    reference[key] = metadata[key]
        return reference

    def _count_up(self, path: str, name: str, now: str) -> None:
        if name not in self._counts:
            # Another process wrote it, or this one before it was started anew.
            self._counts[name] = int(self._patch(path, {"lastTimestamp": now}).get("count") or 1)
        self._counts[name] += 1
        self._patch(path, {"lastTimestamp": now, "count": self._counts[name]})

    def _patch(self, path: str, change: Mapping[str, Any]) -> dict[str, Any]:
        status, answer = self._api.call("PATCH", path, change, "application/merge-patch+json")
        if status >= 300:
            raise ApiError(f"the Event cannot be changed: {status} {answer.get('message', '')}")
        return answer

    # The thread

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._next is not None or self._closing)
                while not self._closing and (pause := self._take_token()) > 0:
                    self._change.wait_for(lambda: self._closing, pause)
                if self._closing:
                    return
                reason, self._next = self._next, None
                self._busy = True
            assert reason is not None
            self._try(reason)
            with self._change:
                self._busy = False
                self._change.notify_all()

    def _take_token(self) -> float:
        """0 when an Event may be written now, else the seconds until then."""
        now = self._clock()
        self._tokens = min(BURST, self._tokens + (now - self._filled) / SECONDS_EACH)
        self._filled = now
        if self._tokens < 1.0:
            return (1.0 - self._tokens) * SECONDS_EACH
        self._tokens -= 1.0
        return 0.0

    def _try(self, reason: str) -> None:
        """Write it, with a few tries; a newer one ends them."""
        for pause in (*PAUSES, None):
            try:
                self.send(reason)
            except ApiError as error:
                if error.message != self._said:
                    _log.warning("no Event on ConfigMap %s: %s", self._configmap, error.message)
                self._said = error.message
            except Exception:
                _log.exception("no Event on ConfigMap %s", self._configmap)
                return
            else:
                self._said = ""
                return
            with self._change:
                if pause is None or self._change.wait_for(
                    lambda: self._next is not None or self._closing, pause
                ):
                    return


def render_event(subject: Mapping[str, str], reason: str, now: float) -> dict[str, Any]:
    """A core/v1 Event; its name is made of object and reason, so it stays the same."""
    message = reason if len(reason.encode()) <= MAX_MESSAGE else _cut(reason)
    key = hashlib.sha256(f"{subject.get('uid', '')}\n{message}".encode()).hexdigest()[:16]
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{subject['name']}.{key}",
            "namespace": subject["namespace"],
        },
        "involvedObject": dict(subject),
        "type": "Warning",
        "reason": REASON,
        "message": message,
        "count": 1,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "source": {"component": "bootfarm", "host": socket.gethostname()},
    }


def _cut(text: str) -> str:
    return text.encode()[: MAX_MESSAGE - 4].decode(errors="ignore") + " …"
