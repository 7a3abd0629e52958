"""Both Debian packages in a fresh chroot: `make test-deb`, after `make deb`."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.farm import FILES, publish

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

HOUSE = Path(__file__).parents[2]
DEBS = HOUSE / "build" / "deb"
ROOTFS = "usr/lib/bootfarm/imagebuild/rootfs"
INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends"
AS_THE_UNIT = (
    "setpriv --reuid=bootfarm --regid=bootfarm --clear-groups"
    " --bounding-set=-all,+net_bind_service --inh-caps=-all,+net_bind_service"
    " --ambient-caps=-all,+net_bind_service"
)
IN_NAMESPACES = """
ip link set lo up
mount --rbind /dev "$1/dev"
mount -t proc proc "$1/proc"
exec chroot "$1" /bin/sh -euc "$2"
"""


class Chroot:
    """A fresh Debian 12 without anything of ours."""

    def __init__(self, root: Path) -> None:
        self.root = root
        subprocess.run(
            [
                "mmdebstrap",
                "--quiet",
                "--variant=minbase",
                "--include=curl,tftp-hpa",
                "bookworm",
                root,
            ],
            check=True,
        )
        shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
        policy = root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)

    def run(self, script: str, *, network: bool = False) -> "subprocess.CompletedProcess[str]":
        """Run a script in there, in namespaces that end with it; without the host's network."""
        words = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        inner = IN_NAMESPACES if not network else IN_NAMESPACES.replace("ip link set lo up", "")
        return subprocess.run(
            [*words, *([] if network else ["--net"]), "sh", "-euc", inner, "sh", self.root, script],
            capture_output=True,
            text=True,
        )

    def must(self, script: str, *, network: bool = False) -> str:
        """What a script that succeeds prints."""
        done = self.run(script, network=network)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def list_files(self) -> set[str]:
        """Every path but what dpkg, apt and the user database write about themselves."""
        own = ("var/lib/dpkg/", "var/lib/apt/", "var/cache/", "var/log/", "debs/", "proc/", "dev/")
        found = set()
        for folder, folders, files in os.walk(self.root):
            for name in (*folders, *files):
                path = str((Path(folder) / name).relative_to(self.root))
                if not path.startswith(own) and not path.endswith((".pyc", "-", "__pycache__")):
                    found.add(path)
        return found


@pytest.fixture(scope="module")
def chroot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chroot]:
    assert list(DEBS.glob("*.deb")), "run `make deb` first"
    directory = tmp_path_factory.mktemp("chroot") / "root"
    chroot = Chroot(directory)
    (directory / "debs").mkdir()
    for deb in DEBS.glob("*.deb"):
        shutil.copy(deb, directory / "debs")
    yield chroot
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def server(chroot: Chroot) -> Chroot:
    """The chroot with `bootfarm` in it, and a store."""
    chroot.must(f"apt-get update -q; {INSTALL} /debs/bootfarm_*.deb", network=True)
    publish(chroot.root / "var/lib/bootfarm/store")
    return chroot


def test_the_user_and_the_directories(server: Chroot) -> None:
    assert "/usr/sbin/nologin" in server.must("getent passwd bootfarm")
    said = server.must("stat -c '%U %a %n' /var/lib/bootfarm /var/lib/bootfarm/store")
    assert said.splitlines() == [
        "bootfarm 700 /var/lib/bootfarm",
        "root 755 /var/lib/bootfarm/store",
    ]
    assert server.run("systemctl is-enabled bootfarm.service").stdout.strip() == "disabled"


def test_the_farm_yaml_is_taken_as_it_is(server: Chroot) -> None:
    check = "bootfarm serve --config /etc/bootfarm/farm.yaml --check"
    said = server.must(f"{AS_THE_UNIT} {check}")
    assert "no faults" in said
    assert "store (1 image)" in said


def test_the_unit_is_right_and_closed(server: Chroot) -> None:
    unit = "/lib/systemd/system/bootfarm.service"
    verified = server.run(f"systemd-analyze verify --man=no {unit}")
    assert verified.returncode == 0, verified.stderr
    assert "bootfarm.service" not in verified.stderr
    server.must(f"systemd-analyze security --offline=true --threshold=20 {unit}")
    text = (server.root / unit.lstrip("/")).read_text()
    assert "/opt" not in text
    assert "ExecStart=/usr/bin/bootfarm serve" in text


def test_http_and_tftp_answer(server: Chroot) -> None:
    server.must(
        f"{AS_THE_UNIT} bootfarm serve --config /etc/bootfarm/farm.yaml >/tmp/serve.log 2>&1 &"
        " for try in $(seq 300); do ! grep -q 'is ready' /tmp/serve.log || break; sleep 0.2; done;"
        " cat /tmp/serve.log; grep -q 'is ready' /tmp/serve.log;"
        " curl -sS --fail -o /tmp/http http://127.0.0.1:8080/ltsp/amd64/vmlinuz;"
        " curl -sS --fail http://127.0.0.1:8080/healthz;"
        " echo get /ltsp/amd64/vmlinuz /tmp/tftp | tftp -m binary 127.0.0.1;"
        " bootfarm nodes"
    )
    for name in ("http", "tftp"):
        assert (server.root / "tmp" / name).read_bytes() == FILES["vmlinuz"]
    assert "was not compiled" not in (server.root / "tmp/serve.log").read_text()


def test_the_command_line(server: Chroot) -> None:
    version = server.must("bootfarm --version")
    assert version.startswith("bootfarm, version ")
    assert len(version.splitlines()) == 1
    server.must("bootfarm lts check /etc/bootfarm/lts.conf")
    refused = server.run("touch /tmp/x.yaml; bootfarm build /tmp/x.yaml --store /tmp/store")
    assert "bootfarm-build" in refused.stderr
    for page in ("bootfarm.1", "bootfarm-serve.1", "bootfarm-lts-check.1"):
        assert list((server.root / "usr/share/man/man1").glob(f"{page}.gz"))
    for script in (
        "usr/share/bash-completion/completions/bootfarm",
        "usr/share/zsh/vendor-completions/_bootfarm",
        "usr/share/fish/vendor_completions.d/bootfarm.fish",
    ):
        assert "_BOOTFARM_COMPLETE" in (server.root / script).read_text()
    completed = server.must(
        "COMP_WORDS='bootfarm ser' COMP_CWORD=1 _BOOTFARM_COMPLETE=bash_complete bootfarm"
    )
    assert "plain,serve" in completed


def describe(tree: Path) -> dict[str, tuple[str, bytes]]:
    """Each path of a tree: whether it runs, and its bytes or what its link says."""
    found = {}
    for path in sorted(tree.rglob("*")):
        name = str(path.relative_to(tree))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path).encode())
        elif path.is_file():
            runs = path.stat().st_mode & stat.S_IXUSR
            found[name] = ("program" if runs else "file", path.read_bytes())
    return found


def test_the_builder_has_the_nodes_own_files_as_they_are(server: Chroot) -> None:
    server.must("dpkg --unpack --force-depends /debs/bootfarm-build_*.deb")
    packed = describe(server.root / ROOTFS)
    ours = describe(HOUSE / "imagebuild" / "rootfs")
    assert packed == {name: what for name, what in ours.items() if "__pycache__" not in name}
    check = "bootfarm build /usr/share/bootfarm/recipes/production.yaml --check --no-network"
    checked = server.run(check)
    server.must("dpkg --purge bootfarm-build")
    assert checked.returncode == 0, checked.stdout
    assert "no faults" in checked.stdout


def test_removed_and_purged_nothing_is_left(server: Chroot) -> None:
    """What is left is what was there with the dependencies alone."""
    server.must("dpkg --remove bootfarm")
    assert (server.root / "etc/bootfarm/farm.yaml").exists()
    assert (server.root / "var/lib/bootfarm/store/images").exists()
    assert not (server.root / "usr/lib/bootfarm").exists()
    server.must("dpkg --purge bootfarm; rm -rf /tmp/*")
    without = server.list_files()
    assert [path for path in without if "bootfarm" in path] == []
    assert server.run("getent passwd bootfarm").returncode == 2
    assert server.must("find / -xdev \\( -nouser -o -nogroup \\) -print") == ""
    server.must("dpkg --install /debs/bootfarm_*.deb")
    assert server.list_files() > without
    server.must("dpkg --purge bootfarm; rm -rf /tmp/*")
    assert server.list_files() == without
