"""A rollout by a server that runs: switched on in farm.yaml, killed and started again."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from bootfarm import main
from imagebuild.store.images import Store
from tests.server.farm import publish
from tests.server.test_serve import Server

pytestmark = pytest.mark.integration

MAC = "52:54:00:00:00:01"
FARM = f"""
inventory: [{{mac: "{MAC}", hostname: node-1}}]
address_map: {{127.0.0.1: "{MAC}"}}
default_image: amd64
store: store
state: state
rollout: {{enabled: true, cluster: false}}
"""


def fetch(server: Server, path: str, *words: str) -> str:
    url = f"http://127.0.0.1:{server.http}{path}"
    return subprocess.run(
        ["curl", "-sS", *words, url], capture_output=True, text=True, check=True
    ).stdout


def test_a_machine_gets_the_image_also_after_the_server_was_killed(tmp_path: Path) -> None:
    publish(tmp_path / "store", kernel="1")
    target = publish(tmp_path / "store", kernel="2", tags=["candidate"]).digest
    current = Store(tmp_path / "store").get("amd64").digest
    (tmp_path / "lts.conf").write_text("[default]\nA = 1\n")
    (tmp_path / "farm.yaml").write_text(FARM)
    server = Server(tmp_path, ["--config", str(tmp_path / "farm.yaml")])
    server.start()
    try:
        menu = "/ltsp/amd64/boot.ipxe"
        assert current in fetch(server, menu)
        words = ("-X", "PUT")
        said = json.loads(fetch(server, "/api/rollout?image=amd64:candidate", *words))
        assert said["rollout"]["state"] == "running", said
        # It is reached in the first turn, a second later; until then lts.conf counts.
        end = time.monotonic() + 30
        while target not in fetch(server, menu):
            assert time.monotonic() < end, fetch(server, "/api/rollout")
            time.sleep(0.05)
        server.stop(signal.SIGKILL)
        server.start()
        assert target in fetch(server, menu)
        told = json.loads(fetch(server, "/api/rollout"))["rollout"]
        assert [one["phase"] for one in told["machines"]] == ["rebooting"]
        # What another process says, which knows the files only.
        line = ("explain", str(tmp_path / "lts.conf"), "--config", str(tmp_path / "farm.yaml"))
        done = CliRunner().invoke(main, ["lts", *line, "--mac", MAC])
        assert f"rollout: amd64@{target[:12]}, by the rollout" in done.output
    finally:
        if server.process is not None:
            server.stop(signal.SIGKILL)
