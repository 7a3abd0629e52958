"""Images that the node image brings, into the runtime that the recipe names."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from .conftest import Node

IMAGES = "usr/share/bootfarm/images"

# Both runtimes as far as the script asks them: what is loaded is a file below $STORE, and what
# was called is in calls.
DOCKER = """
echo "docker $*" >>"$BOOTFARM_ROOT/calls"
case $1 in
image) [ -e "$BOOTFARM_ROOT/store/$(echo "$3" | tr / _)" ] ;;
load)
    for name in $(tar -xOf "$4" manifest.json | grep -o '[a-z0-9./]*:[0-9.]*[0-9]'); do
        : >"$BOOTFARM_ROOT/store/$(echo "$name" | tr / _)"
    done
    ;;
esac
"""
CTR = """
echo "ctr $*" >>"$BOOTFARM_ROOT/calls"
[ ! -e "$BOOTFARM_ROOT/broken" ] || exit 1
shift 2
case $1.$2 in
images.ls)
    name=${4#name==}
    [ ! -e "$BOOTFARM_ROOT/store/$(echo "$name" | tr / _)" ] || echo "$name"
    ;;
images.label) : >"$BOOTFARM_ROOT/store/$(echo "$3" | tr / _)" ;;
esac
"""


def archive(path: Path, names: list[str]) -> None:
    """A docker-archive as far as its manifest."""
    data = json.dumps([{"Config": "c.json", "RepoTags": names, "Layers": ["l/layer.tar"]}]).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as out:
        member = tarfile.TarInfo("manifest.json")
        member.size = len(data)
        out.addfile(member, io.BytesIO(data))


def prepare(node: Node, runtime: str, used: int = 10) -> None:
    node.write("usr/share/bootfarm/runtime", f"name={runtime}\ncri_socket=unix:///run/x.sock\n")
    node.stub("docker", DOCKER)
    node.stub("ctr", CTR)
    node.stub("df", f"printf 'Filesystem\\ntmpfs 100 {used} 5 {used}%% /var/lib/x\\n'")
    (node.root / "store").mkdir()
    archive(node.root / IMAGES / "test.tar", ["bootfarm.local/test:1"])
    archive(node.root / IMAGES / "pause.tar", ["registry.k8s.io/pause:3.10.2"])


def calls(node: Node) -> list[str]:
    path = node.root / "calls"
    found = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [line.replace(str(node.root), "") for line in found]


def test_docker_gets_them_although_containerd_is_there(node: Node) -> None:
    prepare(node, "docker")
    node.script("preload")
    assert [line for line in calls(node) if not line.startswith("docker image")] == [
        f"docker load --quiet --input /{IMAGES}/pause.tar",
        f"docker load --quiet --input /{IMAGES}/test.tar",
    ]


def test_containerd_gets_them_pinned_although_docker_is_there(node: Node) -> None:
    prepare(node, "containerd")
    node.script("preload")
    pinned = "io.cri-containerd.pinned=pinned"
    assert calls(node) == [
        f"ctr --namespace k8s.io images import /{IMAGES}/pause.tar",
        f"ctr --namespace k8s.io images label registry.k8s.io/pause:3.10.2 {pinned}",
        f"ctr --namespace k8s.io images import /{IMAGES}/test.tar",
        f"ctr --namespace k8s.io images label bootfarm.local/test:1 {pinned}",
    ]


@pytest.mark.parametrize("runtime", ["docker", "containerd"])
def test_what_is_there_is_not_loaded_again_and_what_went_missing_is(
    node: Node, runtime: str
) -> None:
    prepare(node, runtime)
    node.script("preload")
    calls(node)
    node.script("preload")
    assert not [line for line in calls(node) if " load " in line or " import " in line]
    (node.root / "store/bootfarm.local_test:1").unlink()
    said = node.script("preload").stderr
    assert said == "<5>test.tar: missing, loaded again\n"
    loads = [line for line in calls(node) if " load " in line or " import " in line]
    assert [line.rsplit("/", 1)[1] for line in loads] == ["test.tar"]
    assert (node.root / "store/bootfarm.local_test:1").exists()


def test_a_full_disk_is_not_filled_again_but_later(node: Node) -> None:
    prepare(node, "docker")
    node.script("preload")
    (node.root / "store/bootfarm.local_test:1").unlink()
    node.stub("df", "printf 'Filesystem\\ntmpfs 100 95 5 95%% /var/lib/docker\\n'")
    done = node.script("preload", check=False)
    assert done.returncode == 75
    assert done.stderr == "<5>test.tar: missing, and no room: 95 % of /var/lib/docker are used\n"
    assert not (node.root / "store/bootfarm.local_test:1").exists()
    again = node.script("preload", check=False)
    assert (again.returncode, again.stderr) == (75, "")
    node.stub("df", "printf 'Filesystem\\ntmpfs 100 9 91 9%% /var/lib/docker\\n'")
    assert node.script("preload").stderr == "<5>test.tar: missing, loaded again\n"
    assert (node.root / "store/bootfarm.local_test:1").exists()


def test_the_first_load_asks_for_no_room(node: Node) -> None:
    prepare(node, "docker", used=95)
    node.script("preload")
    assert (node.root / "store/bootfarm.local_test:1").exists()


def test_one_that_cannot_be_loaded_stops_no_other_and_is_tried_again(node: Node) -> None:
    prepare(node, "containerd")
    node.write("broken", "")
    done = node.script("preload", check=False)
    assert done.returncode == 1
    assert done.stderr.count("<4>cannot load") == 2
    (node.root / "broken").unlink()
    node.script("preload")
    assert (node.root / "store/bootfarm.local_test:1").exists()


def test_an_archive_of_another_form_is_loaded_once(node: Node) -> None:
    prepare(node, "containerd")
    for path in (node.root / IMAGES).iterdir():
        path.unlink()
    with tarfile.open(node.root / IMAGES / "oci.tar", "w"):
        pass
    node.script("preload")
    node.script("preload")
    assert calls(node) == [f"ctr --namespace k8s.io images import /{IMAGES}/oci.tar"]


def test_an_image_without_a_runtime_says_so(node: Node) -> None:
    archive(node.root / IMAGES / "test.tar", ["bootfarm.local/test:1"])
    done = node.script("preload", check=False)
    assert done.returncode == 1
    assert "no container runtime" in done.stderr


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("busybox:1", "docker.io/library/busybox:1"),
        ("library/busybox:1", "docker.io/library/busybox:1"),
        ("registry.k8s.io/pause:3.10.2", "registry.k8s.io/pause:3.10.2"),
        ("10.9.0.1:5000/x/y:1", "10.9.0.1:5000/x/y:1"),
        ("localhost/y:1", "localhost/y:1"),
    ],
)
def test_names_as_containerd_has_them(node: Node, name: str, full: str) -> None:
    said = node.run('. "$BOOTFARM_ROOT/usr/lib/bootfarm/preload"\nfull_name "$1"', name)
    assert said.stdout == f"{full}\n"


def test_every_name_of_an_archive(node: Node) -> None:
    names = ["a.example/x:1", "a.example/x:latest", "b.example:5000/y:2"]
    path = node.root / IMAGES / "x.tar"
    archive(path, names)
    said = node.run('. "$BOOTFARM_ROOT/usr/lib/bootfarm/preload"\narchive_names "$1"', str(path))
    assert said.stdout.split() == names
