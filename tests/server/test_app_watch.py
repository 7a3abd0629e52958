"""What people see of a running server: kernel logs, the token, and no secret anywhere."""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.app import App
from server.assemble.parts import make_parts
from server.errors import ServerError
from server.events import Event
from server.farm.config import Config, Transport
from server.farm.inventory import Inventory, Machine
from server.farm.logs import Logs
from server.protocols.http import Request, Response
from server.protocols.logs import LogLine, parse_netconsole
from server.services.hotloop import HotLoop
from server.services.http import HttpService
from tests.server.asking import ask
from tests.server.farm import publish

MAC, IP = "52:54:00:00:00:01", "127.0.1.1"
TOKEN = "abcdef.0123456789abcdef"
MOUNTED = "battery-staple"
PLAIN = "correct-horse"
LTS_CONF = f"""# jinja2
[default]
ROOT_PASSWORD={PLAIN}
RCFILE_01="kubeadm join 10.9.0.1:6443 --token {TOKEN}"
RCFILE_02="login {{{{ secrets.login }}}}"
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., App]]:
    publish(tmp_path / "store")
    (tmp_path / "lts.conf").write_text(LTS_CONF)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "login").write_text(f"{MOUNTED}\n")
    (tmp_path / "token").write_text("a-token-for-the-page\n")
    loop = HotLoop()
    config = Config(
        store=tmp_path / "store",
        lts_conf=tmp_path / "lts.conf",
        state=tmp_path / "state",
        secrets=tmp_path / "secrets",
        services=("http",),
        listen="127.0.0.1",
        http=Transport(0),
        inventory=Inventory((Machine(MAC, IP, "node-1"),)),
        logs=Logs(syslog=0, netconsole=0),
    )
    yield lambda **more: App(make_parts(dataclasses.replace(config, **more), loop))
    loop.close()


def text(response: Response) -> str:
    assert isinstance(response.body, bytes)
    return response.body.decode()


def see(app: App, phase: str = "join", boot: str = "a", **detail: str) -> None:
    app.parts.door.record(
        Event(1000.0, IP, "beacon", phase, {"status": "error", "boot": boot} | detail)
    )


def test_a_panic_is_what_is_the_matter_until_the_next_boot(make: Callable[..., App]) -> None:
    app = make()
    see(app, "ready", status="ok")
    app.parts.door.take_lines(IP, "netconsole", parse_netconsole(b"[ 8.0] Oops: 0002 [#1] SMP\n"))
    assert json.loads(text(ask(app, f"/api/nodes/{MAC}")))["finding"] is None
    words = b"[ 9.1] Kernel panic - not syncing: VFS: Unable to mount root fs\n"
    for end in (b"", b"[ 9.2] ---[ end Kernel panic - not syncing: VFS ]---\n"):
        app.parts.door.take_lines(IP, "netconsole", parse_netconsole(words + end))
    node = json.loads(text(ask(app, f"/api/nodes/{MAC}")))
    assert node["finding"]["rule"] == "kernel-panic"
    assert node["finding"]["phase"] == "ready"
    assert node["finding"]["headline"] == "Its kernel panicked: VFS: Unable to mount root fs"
    assert [event["source"] for event in node["events"]].count("netconsole") == 1
    see(app, "ready", boot="b", status="ok")
    assert json.loads(text(ask(app, f"/api/nodes/{MAC}")))["finding"] is None


def test_no_page_no_answer_and_no_file_has_a_secret(
    make: Callable[..., App], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = make()
    words = f"login {MOUNTED} refused; --token {TOKEN} and {PLAIN} said"
    see(app, detail=words)
    app.parts.door.record(Event(1000.0, IP, "tftp", "transfer", {"path": "/x", "message": words}))
    app.parts.door.take_lines(IP, "syslog", [LogLine(words)])
    app.parts.sources.ltsconf.problem = f"lts.conf refused: line 3: {words}"
    paths = ["/", "/healthz", "/metrics", "/api/nodes", "/api/events"]
    paths += [f"/nodes/{MAC}", f"/api/nodes/{MAC}", f"/api/nodes/{MAC}/log"]
    answers = {path: text(ask(app, path)) for path in paths}
    while "It is being rendered" in answers[f"/nodes/{MAC}"]:
        answers[f"/nodes/{MAC}"] = text(ask(app, f"/nodes/{MAC}"))
    app.parts.upkeep.save(None)
    state = tmp_path / "state"
    kept = [*(state / "nodes").iterdir(), *(state / "logs").iterdir()]
    assert len(kept) == 2
    answers |= {str(path): path.read_text() for path in kept}
    answers["the server's log"] = caplog.text
    for place, answer in answers.items():
        for secret in (TOKEN, MOUNTED, PLAIN):
            assert secret not in answer, place
    for place in (
        "/",
        "/healthz",
        f"/nodes/{MAC}",
        f"/api/nodes/{MAC}",
        f"/api/nodes/{MAC}/log",
        "/api/events",
    ):
        assert "login (secret) refused; --token (secret) and (secret) said" in answers[place], place
    assert "login (secret)</code>" in answers[f"/nodes/{MAC}"], "the template's rendering"
    assert "ROOT_PASSWORD" in answers[f"/nodes/{MAC}"]


def test_a_panic_is_read_after_the_reset_and_after_the_servers(make: Callable[..., App]) -> None:
    app = make()
    app.parts.door.take_lines(IP, "netconsole", [LogLine("of nobody that was seen")])
    see(app, boot="a")
    app.parts.door.take_lines(
        IP, "netconsole", parse_netconsole(b"[  9.1] Kernel panic - not syncing\n")
    )
    see(app, boot="b")
    app.parts.door.take_lines(IP, "netconsole", parse_netconsole(b"[  0.0] Linux version 6.1\n"))
    app.parts.upkeep.save(None)
    for one in (app, make()):
        log = json.loads(text(ask(one, f"/api/nodes/{MAC}/log")))
        assert log["node"] == MAC
        assert log["present"] == 2
        said = {boot["boot"]: [line["text"] for line in boot["lines"]] for boot in log["boots"]}
        assert said == {1: ["[  9.1] Kernel panic - not syncing"], 2: ["[  0.0] Linux version 6.1"]}
        page = text(ask(one, f"/nodes/{MAC}"))
        assert page.index("This boot, last line") < page.index("The boot before, last line")
        assert re.search(r'<span class="bad">[\d:]+ \[  9.1\] Kernel panic', page)
    assert ask(app, "/api/nodes/52:54:00:00:00:99/log").status == 404


def test_who_receives_logs(make: Callable[..., App]) -> None:
    app = make()
    assert "logs" in app.parts.running.services
    app.bind()
    assert set(app.parts.running.ports()) == {"http", "syslog", "netconsole"}
    assert all(port for ports in app.parts.running.ports().values() for port in ports)
    for service in app.parts.running.services.values():
        app._loop.run_until_complete(service.stop())
    assert "logs" not in make(logs=Logs()).parts.running.services
    assert "logs" not in make(services=("nbd",), nbd=Transport(0)).parts.running.services
    quiet = make(logs=Logs())
    see(quiet)
    assert "listens to neither syslog nor netconsole" in text(ask(quiet, f"/nodes/{MAC}"))


def test_the_token_guards_all_but_what_nodes_need(make: Callable[..., App], tmp_path: Path) -> None:
    app = make(token_file=tmp_path / "token")
    see(app)
    guarded = ["/", f"/nodes/{MAC}", "/metrics", "/api/nodes", f"/api/nodes/{MAC}", "/nothing"]
    guarded += [f"/api/nodes/{MAC}/log", "/api/events", "/api/changes", "/logout"]
    for path in guarded:
        assert ask(app, path).status == 401, path
        assert ask(app, path, authorization="Bearer a-token-for-the-page").status != 401, path
    assert ask(app, "/healthz").status == 200
    assert ask(app, "/api/time").status == 200
    assert ask(app, "/ltsp/amd64/lts.conf", client=IP).status in (200, 404)
    http = app.parts.running.services["http"]
    assert isinstance(http, HttpService)
    beacon = Request("POST", "/beacon", {}, {}, b"phase=ready", IP)
    assert http.handle(beacon).status == 204
    form = Request("POST", "/login", {}, {}, b"token=a-token-for-the-page&next=/", "127.0.0.1")
    done = http.handle(form)
    cookie = dict(done.headers)["Set-Cookie"].partition(";")[0]
    page = ask(app, "/", cookie=cookie)
    assert page.status == 200
    assert "/logout" in text(page)
    assert "a-token-for-the-page" not in text(page)
    tries = [
        http.handle(dataclasses.replace(form, body=b"token=wrong", client="127.0.0.2")).status
        for _ in range(8)
    ]
    assert tries == [401] * 5 + [429] * 3
    (tmp_path / "token").unlink()
    app.parts.token._looked = -1000.0  # type: ignore[union-attr]
    assert ask(app, "/", cookie=cookie).status == 200
    assert "the token before stays in force" in text(ask(app, "/healthz"))
    with pytest.raises(ServerError, match="token_file"):
        make(token_file=tmp_path / "token")


def test_one_address_may_not_ask_for_pages_without_end(make: Callable[..., App]) -> None:
    app = make()
    see(app)
    statuses = [ask(app, "/api/nodes", client="127.0.0.7").status for _ in range(150)]
    assert statuses[:50] == [200] * 50
    assert 429 in statuses
    assert ask(app, "/api/nodes", client="127.0.0.8").status == 200
    assert ask(app, "/healthz", client="127.0.0.7").status == 200
    assert ask(app, "/api/time", client="127.0.0.7").status == 200
    assert ask(app, "/ltsp/amd64/nothing", client="127.0.0.7").status == 404
