"""How full the machine's file systems are: measured on real ones, told rarely."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.nodes.space import Space, parse_space
from server.web.beacon import parse_beacon

NAMESPACE = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--"]


def can_mount() -> bool:
    mount = ["sh", "-c", "mount -t tmpfs none /mnt"]
    return subprocess.run([*NAMESPACE, *mount], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs a mount namespace")
def test_real_file_systems_are_measured_as_df_does(node: Any, tmp_path: Path) -> None:
    """The root an overlay on 16 MiB of memory; below it a disk with few inodes, and no /run."""
    node.write("etc/fstab", "/dev/x /srv/data tmpfs defaults 0 0\n/dev/y /srv/a ext4 - 0 0\n")
    script = (
        "set -e; root=$1; mkdir -p $2/rw\n"
        "mount -t tmpfs -o size=16m tmpfs $2/rw; mkdir $2/rw/up $2/rw/work\n"
        "mount -t overlay -o lowerdir=$root,upperdir=$2/rw/up,workdir=$2/rw/work overlay $root\n"
        "mkdir -p $root/srv/data\n"
        "mount -t tmpfs -o size=8m,nr_inodes=20 tmpfs $root/srv/data\n"
        "dd if=/dev/zero of=$root/big bs=1048576 count=12 2>/dev/null\n"
        "n=0; while [ $n -lt 15 ]; do n=$((n + 1)); : >$root/srv/data/$n; done\n"
        + node.lib("lib/state")
        + '. "$BOOTFARM_LIB/watch-space"; space_words\n'
        "df -P $root $root/srv/data | tail -n 2; df -Pi $root/srv/data | tail -n 1"
    )
    words = [*NAMESPACE, *node.shell, "-c", script, "test", str(node.root), str(tmp_path)]
    library = str(node.root / "usr/lib/bootfarm")
    env = {**os.environ, "BOOTFARM_ROOT": str(node.root), "BOOTFARM_LIB": library}
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told, *table = done.stdout.splitlines()
    percent = [int(line.split()[4].rstrip("%")) for line in table]
    root, data = parse_space(told)
    assert (root.path, root.percent, root.mib) == ("/", percent[0], 16)
    assert 75 <= root.percent <= 80
    # The root directory is an inode, too; df rounds up.
    assert (data.path, data.mib, data.percent) == ("/srv/data", 8, percent[1])
    assert data.files == 80 == percent[2]


class Watched:
    """`stat` and `mountpoint` say what `measures` has, one look after the other."""

    def __init__(self, node: Any) -> None:
        self.node = node
        node.write("etc/fstab", "")
        node.write("looks", "0\n")
        node.stub("mountpoint", "case $2 in *docker) exit 0 ;; esac; exit 1")
        node.stub(
            "stat",
            'n=$(cat "$BOOTFARM_ROOT/looks"); case $4 in */docker) f=docker ;; *) f=root ;; esac\n'
            'sed -n "$((n + 1))p" "$BOOTFARM_ROOT/measures.$f"',
        )
        node.stub(
            "sleep",
            'n=$(cat "$BOOTFARM_ROOT/looks"); n=$((n + 1)); echo $n >"$BOOTFARM_ROOT/looks"\n'
            '[ "$n" -lt "$(wc -l <"$BOOTFARM_ROOT/measures.root")" ]',
        )

    def told(
        self, server: Any, root: list[int], docker: list[int] | None = None, **env: str
    ) -> list[str]:
        for name, percents in (("root", root), ("docker", docker or [10] * len(root))):
            lines = [f"1000 {1000 - 10 * one} {1000 - 10 * one} 0 0 1048576" for one in percents]
            self.node.write(f"measures.{name}", "\n".join(lines) + "\n")
        assert self.node.script("watch-space", check=False, **env).returncode == 1  # stub's sleep
        assert {beacon["phase"] for beacon in server.beacons} == {"space"}
        return [beacon["space"] for beacon in server.beacons]


@pytest.fixture
def watched(node: Any) -> Watched:
    return Watched(node)


def test_what_has_not_changed_is_told_now_and_then(
    watched: Watched, served: Callable[[], Any]
) -> None:
    server = served()
    told = watched.told(server, [20, 22, 24, *[24] * 4], [50] * 7, SPACE_REFRESH="3")
    assert len(told) == 3  # looks 0, 3 and 6
    assert told[0] == "/:20:0:1000 /var/lib/docker:50:0:1000"


def test_a_change_is_told_and_near_the_end_each_percent(
    watched: Watched, served: Callable[[], Any]
) -> None:
    told = watched.told(served(), [20, 24, 25, 25, 75, 76, 76, 75, 70, 69], [9] * 10)
    said = [parse_space(text)[0].percent for text in told]
    assert said == [20, 25, 75, 76, 75, 70]


def test_the_other_file_system_is_looked_at_too(
    watched: Watched, served: Callable[[], Any]
) -> None:
    told = watched.told(served(), [20] * 4, [80, 80, 97, 97])
    assert [parse_space(text)[1].percent for text in told] == [80, 97]


def test_the_server_takes_what_the_node_sends(watched: Watched, served: Callable[[], Any]) -> None:
    server = served()
    watched.told(server, [20])
    (form,) = server.beacons
    beacon = parse_beacon("", "&".join(f"{key}={value}" for key, value in form.items()).encode())
    assert parse_space(beacon.space) == (
        Space("/", 20, 0, 1000),
        Space("/var/lib/docker", 10, 0, 1000),
    )


@pytest.mark.parametrize("length", [1, 20, 300])
def test_a_beacon_stays_small_however_many_disks_there_are(
    node: Any, served: Callable[[], Any], length: int
) -> None:
    server = served()
    lines = [f"/dev/d{n} /srv/{'x' * length}{n} ext4 nofail 0 0\n" for n in range(20)]
    node.write("etc/fstab", "".join(lines))
    node.stub("mountpoint", "exit 0")
    node.stub("stat", "echo 1000 500 500 0 0 1048576")
    node.stub("sleep", "exit 1")
    node.script("watch-space", check=False)
    (beacon,) = server.beacons
    assert len(beacon["space"]) <= 200
    found = [space.path for space in parse_space(beacon["space"])]
    assert found[:4] == ["/", "/run", "/var/lib/docker", "/var/lib/containerd"]
    assert len(found) == {1: 8, 20: 7, 300: 4}[length]
