"""kustomize for the tests: kubectl of Debian 13, unpacked and never installed."""

import fcntl
import subprocess
from pathlib import Path

from tests.docker_engine import cache_directory

RELEASE = "trixie"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def kubectl() -> Path:
    """The program; downloaded once."""
    directory = cache_directory() / "kubectl" / RELEASE
    program = directory / "usr/bin/kubectl"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.is_file():
            _download(directory)
    return program


def _download(directory: Path) -> None:
    from imagebuild.apt import machine_mirrors

    apt = directory / "apt"
    for place in ("etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d"):
        (apt / place).mkdir(parents=True, exist_ok=True)
    for place in ("state/lists/partial", "cache/archives/partial"):
        (apt / place).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    mirror = machine_mirrors("debian").archive
    line = f"deb [signed-by={_KEYRING}] {mirror} {RELEASE} main\n"
    (apt / "etc/sources.list").write_text(line)
    options = {
        "Dir::Etc": apt / "etc",
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    words = [f"-o{key}={value}" for key, value in options.items()]
    for verb in (["update"], ["download", "kubectl"]):
        done = subprocess.run(
            ["apt-get", "-q", *words, *verb], cwd=apt, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    (package,) = apt.glob("kubectl_*.deb")
    subprocess.run(["dpkg", "-x", package, directory], check=True)
    package.unlink()


def render(overlay: Path) -> str:
    """What `kubectl kustomize` makes of a directory, as a stream of YAML documents."""
    done = subprocess.run(
        [kubectl(), "kustomize", overlay], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout
