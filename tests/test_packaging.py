"""Wheel and sdist, as `make dist` makes them: installed alone, with and without a compiler."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.farm import FILES, GOOD, publish
from tests.server.test_serve import Server

HOUSE = Path(__file__).parent.parent
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def list_files(*folders: str) -> list[Path]:
    """What git tracks or would track, below these folders; relative."""
    words = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders],
        cwd=HOUSE,
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    names = [Path(word.decode()) for word in words if word]
    return [name for name in names if (HOUSE / name).is_file()]


class Dist:
    """A wheel and an sdist, and the wheel in an environment beside which is no checkout."""

    def __init__(self, directory: Path, compiler: bool) -> None:
        self.compiler = compiler
        self.directory = directory
        source = directory / "source"
        # Of a copy: setuptools writes build/ beside what it packs.
        for name in list_files():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((HOUSE / name).read_bytes())
        argv = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory)]
        env = {**os.environ, **({} if compiler else {"CC": "/bin/false"})}
        done = subprocess.run([*argv, str(source)], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        (self.wheel,) = directory.glob("*.whl")
        (self.sdist,) = directory.glob("*.tar.gz")
        self.venv = directory / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.venv], check=True)
        python = str(self.venv / "bin" / "python")
        subprocess.run(
            [*PIP, "--python", python, "install", "--no-deps", str(self.wheel)], check=True
        )
        # What it depends on is this environment's, but for bootfarm itself.
        (packages,) = self.venv.glob("lib/python*/site-packages")
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of the installed bootfarm, in a directory of nobody."""
        return subprocess.run(
            [str(self.venv / "bin" / "bootfarm"), *words],
            cwd=self.directory,
            capture_output=True,
            text=True,
        )

    def says(self, *words: str) -> str:
        """What a command that succeeds prints."""
        done = self.run(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module", params=["compiler", "no compiler"])
def dist(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dist:
    return Dist(tmp_path_factory.mktemp("dist"), request.param == "compiler")


class Installed(Server):
    """The server of the installed wheel."""

    def __init__(self, directory: Path, dist: Dist) -> None:
        super().__init__(directory, ("--workers", "1"))
        self._dist = dist

    @property
    def argv(self) -> list[str]:
        words = super().argv
        return [str(self._dist.venv / "bin" / "bootfarm"), *words[words.index("serve") :]]


@pytest.fixture
def server(dist: Dist, tmp_path: Path) -> Iterator[Installed]:
    publish(tmp_path / "store")
    (tmp_path / "lts.conf").write_text(GOOD)
    server = Installed(tmp_path, dist)
    yield server
    if server.process is not None:
        server.stop()


def test_the_wheel_has_all_that_is_read_at_run_time(dist: Dist) -> None:
    packed = set(zipfile.ZipFile(dist.wheel).namelist())
    for name in list_files("netboot-config"):
        assert any(found.endswith(f"/data/share/bootfarm/{name}") for found in packed), name
    for name in list_files("server/web/templates", "server/simulate/profiles"):
        assert str(name) in packed
    modules = [name for name in list_files("server", "imagebuild") if name.suffix == ".py"]
    assert {str(name) for name in modules} <= packed
    assert any("_fastpath" in name and name.endswith(".so") for name in packed) == dist.compiler
    assert not [name for name in packed if "rootfs/" in name or name.startswith("tests/")]


def test_the_wheel_says_what_it_is(dist: Dist) -> None:
    archive = zipfile.ZipFile(dist.wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = archive.read(name).decode()
    assert "\nProvides-Extra: container\n" in metadata
    assert '\nRequires-Dist: docker; extra == "container"\n' in metadata
    assert "\nClassifier: Operating System :: POSIX :: Linux\n" in metadata


def test_the_sdist_makes_the_same_wheel(dist: Dist, tmp_path: Path) -> None:
    subprocess.run(["tar", "--extract", "--file", dist.sdist, "-C", tmp_path], check=True)
    (source,) = tmp_path.iterdir()
    argv = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    env = {**os.environ, **({} if dist.compiler else {"CC": "/bin/false"})}
    subprocess.run(argv, env=env, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert zipfile.ZipFile(wheel).namelist() == zipfile.ZipFile(dist.wheel).namelist()


def test_commands_for_lts_conf(dist: Dist) -> None:
    (dist.directory / "lts.conf").write_text('[default]\nTIMEZONE = "Europe/Prague"\n')
    assert "lts.conf: ok" in dist.run("lts", "check", "lts.conf").stderr
    said = dist.says("lts", "explain", "lts.conf", "--mac=52:54:00:00:00:01")
    assert "Europe/Prague" in said
    assert "TIMEZONE" in dist.says("lts", "reference")


def test_other_commands(dist: Dist) -> None:
    assert "/ltsp/amd64/ipxe/snponly.efi" in dist.says(
        "dhcp-config", "dnsmasq", "--server=10.9.0.2"
    )
    assert '"$schema"' in dist.says("schema", "farm")
    assert '"$schema"' in dist.says("schema", "recipe")
    (dist.directory / "recipe.yaml").write_text(
        "name: amd64\nrelease: bookworm\nkernel: {package: linux-image-amd64}\n"
    )
    said = dist.says("build", "recipe.yaml", "--check", "--no-network")
    assert "no faults" in said
    refused = dist.run("build", "recipe.yaml", "--store", "store")
    assert refused.returncode == 1
    assert "bootfarm-build" in refused.stderr
    refused = dist.run("rack", "packages")
    assert refused.returncode == 1
    assert "works in a checkout" in refused.stderr


def test_the_absence_of_the_c_is_told(dist: Dist) -> None:
    version, _, rest = dist.says("--version").partition("\n")
    assert version == "bootfarm, version 0.1.0"
    assert ("was not compiled" in rest) == (not dist.compiler)


def test_serves_a_store(dist: Dist, server: Installed, tmp_path: Path) -> None:
    assert "1 image" in server.start()
    assert server.get("/ltsp/amd64/vmlinuz") == FILES["vmlinuz"]
    assert b"bootfarm" in server.get("/")
    for blocksize in ("", "512"):
        words = f"mode binary\nblksize {blocksize}\n" if blocksize else "mode binary\n"
        script = f"{words}get /ltsp/amd64/vmlinuz {tmp_path}/kernel\n"
        argv = ["tftp", "127.0.0.1", str(server.tftp)]
        subprocess.run(argv, input=script, text=True, check=True)
        assert (tmp_path / "kernel").read_bytes() == FILES["vmlinuz"]
    uri = f"nbd://127.0.0.1:{server.nbd}//opt/ltsp/amd64"
    subprocess.run(["nbdcopy", uri, tmp_path / "root"], check=True)
    assert (tmp_path / "root").read_bytes() == FILES["rootfs.squashfs"]
    assert dist.says("nodes", "--server", f"http://127.0.0.1:{server.http}")
    ports = [f"--{name}-port={getattr(server, name)}" for name in ("tftp", "nbd", "http")]
    examined = dist.run("doctor", "--server=127.0.0.1", "--no-dhcp", "--full", *ports)
    assert examined.returncode in (0, 1), examined.stdout + examined.stderr
    assert "ltsp/amd64/vmlinuz" in examined.stdout or "vmlinuz" in examined.stdout
    server.stop()
    assert server.log.count("was not compiled") == (0 if dist.compiler else 1)
