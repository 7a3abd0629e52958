"""Debian's Chromium without a screen, driven by its DevTools protocol over a pipe.

The package is only unpacked (tests/peers.py); the browser runs in a mount
namespace of its own, which ends with it.
"""

import base64
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tests.peers import unpack

SECONDS = 60
_START = """
set -e
mkdir -p "$1/proc" "$1/dev" "$1/tmp"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/tmp"
root=$1
shift
exec env HOME=/tmp LANG=C.UTF-8 TZ=UTC chroot "$root" /usr/lib/chromium/chromium "$@"
"""
_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *(
        "--disable-sync",
        "--disable-extensions",
        "--user-data-dir=/tmp/profile",
        "--no-proxy-server",
    ),
    *("--disable-features=Translate,OptimizationHints,MediaRouter", "about:blank"),
)


class Browser:
    """One tab. messages: what pages wrote to the console, and exceptions that nobody caught."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = commands
        self._answers = answers
        self._number = 0
        self._buffer = b""
        self.messages: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = str(
            self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        )
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command to the tab, give its result."""
        return self._ask(method, session=self._session, **params)

    def _ask(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        self._number += 1
        command: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session:
            command["sessionId"] = session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self._note(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self._answers, 1 << 20)
            assert more, "the browser is gone"
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.consoleAPICalled":
                words = " ".join(str(one.get("value", one)) for one in params["args"])
                self.messages.append(f"{params['type']}: {words}")
            case "Runtime.exceptionThrown":
                self.messages.append(f"exception: {params['exceptionDetails']}")
            case "Log.entryAdded":
                entry = params["entry"]
                self.messages.append(f"{entry['level']}: {entry['text']} {entry.get('url', '')}")

    def look_as(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """Set the window's size in CSS pixels, and what the user prefers."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def allow_scripts(self, allowed: bool) -> None:
        """Whether pages' scripts run."""
        self.ask("Emulation.setScriptExecutionDisabled", value=not allowed)

    def open(self, url: str) -> None:
        """Go to a page, wait until it is there."""
        result = self.ask("Page.navigate", url=url)
        assert "errorText" not in result, f"{url}: {result['errorText']}"
        self.wait_for(f"document.readyState == 'complete' && location.href == {json.dumps(url)}")

    def run(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page."""
        result = self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, expression: str, seconds: float = SECONDS) -> None:
        """Until an expression is true in the page, which may be one that is just coming."""
        deadline = time.monotonic() + seconds
        tried = f"(() => {{ try {{ return {expression} }} catch {{ return false }} }})()"
        while not self.run(tried):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.05)

    def type(self, text: str) -> None:
        """Keys, to what has the focus."""
        self.ask("Input.insertText", text=text)

    def press(self, key: str, code: int) -> None:
        """One key, down and up. code: its Windows virtual key code."""
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    def shoot(self, path: Path, *, whole: bool = False) -> None:
        """Write a screenshot (PNG); whole: the page to its end."""
        path.parent.mkdir(parents=True, exist_ok=True)
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser, ended afterwards. Needs root, and mmdebstrap for the first time."""
    root = unpack("chromium", "fonts-dejavu-core")
    with tempfile.TemporaryFile() as log:
        try:
            with _running(root, log) as tab:
                yield tab
        except (AssertionError, BrokenPipeError) as error:
            log.seek(0)
            words = log.read()[-2000:].decode(errors="replace")
            raise AssertionError(f"{error}\nthe browser says: {words}") from error


@contextmanager
def _running(root: Path, log: IO[bytes]) -> Iterator[Browser]:
    to_browser, commands = os.pipe()
    answers, from_browser = os.pipe()
    # The browser reads from 3 and writes to 4; dash redirects to small numbers only.
    script = f"exec 3</dev/fd/{to_browser} 4>/dev/fd/{from_browser}; {_START}"
    process = subprocess.Popen(
        [*_NAMESPACES, "sh", "-c", script, "sh", str(root), *_FLAGS],
        pass_fds=(to_browser, from_browser),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Browser(commands, answers)
    finally:
        os.close(commands)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(answers)
