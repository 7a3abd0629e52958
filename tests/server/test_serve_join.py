"""Certificates from a running server, asked for with curl and openssl as a node does."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.farm import publish
from tests.server.join.cluster import BOOT, MAC
from tests.server.join.tls import TlsCluster
from tests.server.test_serve import Server
from tests.server.web.test_joindesk import OTHER

pytestmark = pytest.mark.integration

FARM = f"""
inventory:
  - {{mac: "{MAC}", hostname: node-1}}
  - {{mac: "{OTHER}", hostname: node-2}}
address_map: {{127.0.0.1: "{MAC}", 127.0.0.2: "{OTHER}"}}
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[TlsCluster]:
    cluster = TlsCluster(tmp_path / "cluster")
    cluster.api.settings["now"] = time.time()
    yield cluster
    cluster.close()


@pytest.fixture
def server(tmp_path: Path, cluster: TlsCluster) -> Iterator[Server]:
    publish(tmp_path / "store")
    (tmp_path / "lts.conf").write_text("")
    (tmp_path / "join.kubeconfig").write_text(cluster.kubeconfig())
    join = f"join: {{certificates: true, kubeconfig: join.kubeconfig, api: {cluster.address}}}\n"
    (tmp_path / "farm.yaml").write_text(FARM + join)
    server = Server(tmp_path, ["--config", str(tmp_path / "farm.yaml")])
    server.start()
    yield server
    if server.process is not None:
        server.stop(signal.SIGKILL)


def make_csr(directory: Path, node: str) -> Path:
    """A key and a request as the node makes them."""
    key, csr = directory / f"{node}.key", directory / f"{node}.csr"
    subprocess.run(
        ["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", key],
        check=True,
        capture_output=True,
    )
    subject = f"/O=system:nodes/CN=system:node:{node}"
    subprocess.run(
        ["openssl", "req", "-new", "-sha256", "-key", key, "-subj", subject, "-out", csr],
        check=True,
        capture_output=True,
    )
    return csr


def ask(server: Server, csr: Path, *words: str) -> tuple[int, dict[str, str]]:
    """The answer, once there is one."""
    url = f"http://127.0.0.1:{server.http}/join"
    form = ("--data-urlencode", f"boot={BOOT}", "--data-urlencode", f"csr@{csr}")
    end = time.monotonic() + 30
    while True:
        argv = ["curl", "-sS", "--write-out", "%{http_code}", *form, *words, url]
        said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        text, status = said[:-3], int(said[-3:])
        if status != 202:
            return status, dict(line.split("=", 1) for line in text.splitlines())
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_certificate_over_the_wire(server: Server, cluster: TlsCluster, tmp_path: Path) -> None:
    csr = make_csr(tmp_path, "node-1")
    status, found = ask(server, csr)
    assert status == 200, found
    assert found["api"] == f"https://{cluster.address}"
    subject = subprocess.run(
        f"openssl base64 -d -A <<<{found['certificate']} | openssl x509 -noout -subject",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "system:node:node-1" in subject
    assert ask(server, csr) == (status, found)
    # Another machine, by its own address, asks in this one's name.
    status, refused = ask(server, csr, "--interface", "127.0.0.2")
    assert (status, refused["cause"]) == (403, "join_name")
    assert ask(server, make_csr(tmp_path, "node-2"), "--interface", "127.0.0.2")[0] == 200
    status, refused = ask(server, csr, "--interface", "127.0.0.3")
    assert (status, refused["cause"]) == (403, "join_not_listed")
    events = server.json(f"/api/nodes/{MAC}")["events"]
    joins = [event for event in events if event["source"] == "join"]
    assert [event["what"] for event in joins] == ["issued"]
    assert "bootfarm_join_certificates_total 2.0" in server.get("/metrics").decode()
    assert server.stop() == 0


def test_it_outlives_a_restart(server: Server, cluster: TlsCluster, tmp_path: Path) -> None:
    csr = make_csr(tmp_path, "node-1")
    first = ask(server, csr)
    assert server.stop() == 0
    server.start()
    assert ask(server, csr) == first
    status, refused = ask(server, make_csr(tmp_path, "node-1"))
    assert (status, refused["cause"]) == (409, "join_twice")
    assert len(cluster.api.csrs) == 1


def test_without_a_cluster_it_does_not_start(tmp_path: Path) -> None:
    publish(tmp_path / "store")
    (tmp_path / "lts.conf").write_text("")
    (tmp_path / "farm.yaml").write_text("join: {certificates: true}\n")
    server = Server(tmp_path, ["--config", str(tmp_path / "farm.yaml")])
    said = server.fails()
    assert "nothing says which cluster signs them" in said
    assert "join: {kubeconfig: FILE}" in said
    (tmp_path / "farm.yaml").write_text("join: {certificates: true, kubeconfig: none}\n")
    assert "none: No such file" in server.fails()
