"""DNS of a running server, asked by dnslib, and by BIND's dig."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dnslib import DNSRecord

from tests.peers import unpack
from tests.server.farm import publish
from tests.server.test_serve import Server, eventually, free_ports, replace

FARM = """
address: 127.0.0.1
inventory:
  - {mac: "52:54:00:00:00:01", ip: 10.9.1.1, hostname: node-1}
  - {mac: "52:54:00:00:00:02", ip: 10.9.1.2}
dns:
  zone: rack.test
  port: %d
  names: {api: 10.9.0.20}
  limits: {client_rate: 1000, client_burst: 1000}
"""
LTS = '[52:54:00:00:00:02]\nHOSTNAME = "%s"\n'


class DnsServer(Server):
    """A server that answers DNS."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, ["--config", str(directory / "farm.yaml")])
        self.dns = free_ports()[1]
        (directory / "farm.yaml").write_text(FARM % self.dns)
        (directory / "lts.conf").write_text(LTS % "web")

    def ask(self, name: str, kind: str = "A", *, tcp: bool = False) -> DNSRecord:
        query = DNSRecord.question(name, kind)
        return DNSRecord.parse(query.send("127.0.0.1", self.dns, tcp=tcp, timeout=10))

    def values(self, name: str, kind: str = "A") -> list[str]:
        return [str(record.rdata) for record in self.ask(name, kind).rr]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DnsServer]:
    publish(tmp_path / "store")
    server = DnsServer(tmp_path)
    line = server.start()
    assert f"dns {server.dns}" in line
    yield server
    if server.process is not None:
        server.stop(signal.SIGKILL)


def test_names_follow_lts_conf_and_who_is_seen(server: DnsServer) -> None:
    assert server.values("boot.rack.test") == ["127.0.0.1"]
    assert server.values("api.rack.test") == ["10.9.0.20"]
    assert eventually(lambda: server.values("node-1.rack.test") == ["10.9.1.1"])
    assert eventually(lambda: server.values("web.rack.test") == ["10.9.1.2"])
    assert server.values("2.1.9.10.in-addr.arpa", "PTR") == ["web.rack.test."]
    assert str(server.ask("web.rack.test", tcp=True).rr[0].rdata) == "10.9.1.2"
    replace(server.directory / "lts.conf", LTS % "db" + '[127.0.0.5]\nHOSTNAME = "here"\n')
    assert eventually(lambda: server.values("db.rack.test") == ["10.9.1.2"])
    assert server.values("web.rack.test") == []
    assert server.values("here.rack.test") == []
    url = f"http://127.0.0.1:{server.http}/ltsp/amd64/lts.conf"
    node = ["curl", "-sS", "--fail", "--interface", "127.0.0.5", url]
    assert b"here" in subprocess.run(node, capture_output=True, check=True).stdout
    assert eventually(lambda: server.values("here.rack.test") == ["127.0.0.5"])
    assert server.values("5.0.0.127.in-addr.arpa", "PTR") == ["here.rack.test."]
    assert server.json("/healthz")["services"]["dns"] == server.dns
    assert server.stop() == 0


def test_without_an_address_it_says_what_to_do(tmp_path: Path) -> None:
    publish(tmp_path / "store")
    (tmp_path / "lts.conf").write_text("")
    server = Server(tmp_path, ["--dns", "rack.test", "--listen", "0.0.0.0"])
    said = server.fails()
    assert "boot.rack.test has no address" in said
    assert "--address" in said


@pytest.fixture(scope="module")
def dig() -> Path:
    """Where dig and host are unpacked."""
    return unpack("bind9-dnsutils")


@pytest.mark.integration
def test_dig_is_content(server: DnsServer, dig: Path) -> None:
    def run(*words: str) -> str:
        argv = ["chroot", str(dig), "dig", "@127.0.0.1", "-p", str(server.dns), *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "WARNING" not in done.stdout, done.stdout
        assert "malformed" not in done.stdout.lower(), done.stdout
        return done.stdout

    assert eventually(lambda: server.values("web.rack.test") == ["10.9.1.2"])
    assert run("+short", "node-1.rack.test") == "10.9.1.1\n"
    assert run("+short", "+tcp", "api.rack.test") == "10.9.0.20\n"
    assert run("+short", "-x", "10.9.1.2") == "web.rack.test.\n"
    assert run("+short", "rack.test", "SOA").startswith("boot.rack.test. hostmaster.rack.test. ")
    assert run("+short", "rack.test", "NS") == "boot.rack.test.\n"
    known = run("+norecurse", "NODE-1.Rack.Test")
    assert "flags: qr aa; QUERY: 1, ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 1" in known
    assert "udp: 1232" in known
    assert "status: NXDOMAIN" in run("+norecurse", "nobody.rack.test")
    assert "status: REFUSED" in run("+norecurse", "www.example.org")
    assert "RFC8482" in run("+norecurse", "+notcp", "rack.test", "ANY")
    assert "Transfer failed" in run("rack.test", "AXFR")
    assert "status: BADVERS" in run("+norecurse", "+edns=7", "+noednsneg", "api.rack.test")
    assert "COOKIE" in run("+norecurse", "+qr", "+cookie", "api.rack.test")
