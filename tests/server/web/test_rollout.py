"""A rollout over the API, on the page and in the terminal: the real HTTP service and its routes."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from click.testing import CliRunner, Result

from bootfarm import main
from server.machines.identity import make_identifier
from server.observe.feed import Changes
from server.observe.overview import Overview
from server.protocols.http import HttpLimits
from server.services.http import HttpService
from server.terminal.client import Api
from server.web.routes import handle
from server.web.web import Web
from tests.server.conduct.small import SmallFarm
from tests.server.services.running import running
from tests.server.web.test_api import check


class Site:
    """A farm of three machines, and its web."""

    def __init__(self, directory: Path) -> None:
        self.farm = SmallFarm(directory)
        self.web = Web(
            lookup=lambda *_: pytest.fail("nothing is looked up"),
            identifier=make_identifier(self.farm.inventory, {}, None),
            nodes=self.farm.nodes,
            overview=Overview(self.farm.nodes, inventory=lambda: self.farm.inventory),
            health=lambda: {"status": "ok", "problems": [], "images": {}},
            emit=lambda event: None,
            changes=Changes(),
            clock=lambda: self.farm.now,
            conductor=self.farm.conductor,
        )
        self.url = ""

    def run(self, *words: str, said: str = "") -> Result:
        line = ["rollout", *words, "--server", self.url]
        return CliRunner().invoke(main, line, input=said)

    def page(self, path: str = "/") -> str:
        with urlopen(self.url + path, timeout=20) as answer:
            return str(answer.read().decode())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    with running(
        lambda loop: HttpService(
            loop,
            address="127.0.0.1",
            port=0,
            handle=lambda request: handle(site.web, request),
            emit=lambda event: None,
            limits=HttpLimits(),
        )
    ) as service:
        site.url = f"http://127.0.0.1:{service.port}"
        yield site


def test_from_the_start_to_the_end(site: Site) -> None:
    farm = site.farm
    done = site.run("start", "amd64:candidate", "--waves", "1,100%", "--select", "rack=r1")
    assert done.exit_code == 0, done.output
    assert "running, wave 1 of 2: 2 waiting" in done.output
    farm.turn(2)
    done = site.run("status")
    assert "  node-1 (wave 1): rebooting: waits until somebody reboots it\n" in done.output
    page = site.page()
    assert "Rollout of amd64:candidate" in page
    assert "waits until somebody reboots it" in page
    place = f"Rollout of amd64@{farm.digest('candidate')[:12]}: rebooting"
    assert place in site.page(f"/nodes/{farm.machines[0].mac}")
    assert site.run("pause").exit_code == 0
    assert "paused" in site.run("status").output
    assert site.run("resume").exit_code == 0
    farm.boot(farm.machines[0])
    farm.turn(5)
    farm.boot(farm.machines[2])
    farm.turn(6)
    done = site.run("watch")
    assert done.exit_code == 0, done.output
    assert "done, wave 2 of 2: 2 proven" in done.output
    answer = Api(site.url).get("/api/rollout")
    check("rollout", answer)
    assert answer["rollout"]["state"] == "done"
    assert json.loads(site.run("status", "--json").output) == answer
    assert site.run("status", "-o", "name").output == "node-1\nnode-3\n"
    assert "node-1 (wave 1): proven" in site.run("status", "-o", "wide").output


def test_one_that_holds_and_is_undone(site: Site) -> None:
    farm = site.farm
    farm.sick = {farm.machines[0].mac}
    assert site.run("start", "amd64:candidate").exit_code == 0
    farm.turn()
    farm.boot(farm.machines[0])
    farm.turn(4)
    done = site.run("watch")
    assert done.exit_code == 3
    assert "  holds: node-1: " in done.output
    assert '<p class="problem">node-1: ' in site.page()
    assert site.run("undo", said="n\n").exit_code == 1
    done = site.run("undo", "--yes")
    assert done.exit_code == 0, done.output
    assert "returning" in done.output


def test_from_a_file(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "rollout.yaml"
    file.write_text("image: amd64:candidate\nselect: [node-1, node-2]\nwaves: [1, 100%]\n")
    done = site.run("start", "-f", str(file), "--failures", "2")
    assert done.exit_code == 0, done.output
    rollout = site.farm.conductor.rollout
    assert rollout is not None
    assert rollout.spec.select == ("node-1", "node-2")
    assert rollout.spec.failures == 2
    assert len(rollout.machines) == 2
    file.write_text("- 1\n")
    assert "it holds no keys" in site.run("start", "-f", str(file)).output
    assert "No such file" in site.run("start", "-f", str(tmp_path / "no")).output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["start", "amd64:candidate", "--waves", "7%"], "the last one is not 100%"),
        (["start", "amd64:nosuch"], "no tag 'nosuch'"),
        (["start"], "which image?"),
        (["start", "amd64:candidate", "--reboot-by", "agent"], "this server has no cluster"),
        (["start", "amd64:candidate", "--select", "rack=r9"], "no machine is selected"),
        (["pause"], "there is no rollout"),
    ],
)
def test_what_cannot_be_is_said(site: Site, words: list[str], said: str) -> None:
    done = site.run(*words)
    assert done.exit_code != 0
    assert said in done.output


def test_a_server_without_rollouts(site: Site) -> None:
    site.web = Web(**{**vars(site.web), "conductor": None})
    assert "this server rolls out nothing" in site.run("status").output
    assert "this server rolls out nothing" in site.run("start", "amd64:candidate").output
    check("rollout", Api(site.url).get("/api/rollout"))
    assert "Rollout of" not in site.page()
