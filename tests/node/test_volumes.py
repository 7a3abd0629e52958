"""bootfarm-volumes, the late ones, and what is told where a boot waits or gives up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from server.ltsconf.shapes import check_required_disk
from tests.node.conftest import ROOTFS

STORES = ["/var/lib/docker", "/var/lib/containerd"]


class Machine:
    """A machine's disks and mounts: `sleep` is counted, a second each; what shows up after how
    many seconds is in `later`, by device."""

    def __init__(self, node: Any) -> None:
        self.node = node
        node.write("proc/meminfo", f"MemTotal: {2000 * 1024} kB\n")
        node.flat()
        node.write("seconds", "0\n")
        node.write("mounted", "/\n")
        (node.root / "dev").mkdir(exist_ok=True)
        node.stub(
            "sleep",
            'n=$(($(cat "$BOOTFARM_ROOT/seconds") + $1)); echo $n >"$BOOTFARM_ROOT/seconds"\n'
            'for event in "$BOOTFARM_ROOT"/later/*; do\n'
            '  [ -e "$event" ] && [ "$n" -ge "${event##*/}" ] || continue\n'
            '  . "$event"; rm "$event"\ndone',
        )
        node.stub("mountpoint", 'exec grep -qxF -e "$2" "$BOOTFARM_ROOT/mounted"')
        node.stub("udevadm", "exit 0")
        node.stub("journalctl", "echo 'wrong fs type, bad superblock'")
        node.stub("systemd-escape", 'for last; do :; done; echo "unit:$last"')
        node.stub("systemctl", self.systemctl("exit 0"))
        node.stub("mount", 'echo "mount $*" >>"$BOOTFARM_ROOT/calls"')
        node.stub("mkdir", 'case $* in *"$BOOTFARM_ROOT"*) exec /bin/mkdir "$@" ;; esac')
        node.write("calls", "")

    def systemctl(self, start: str) -> str:
        return (
            'echo "systemctl $*" >>"$BOOTFARM_ROOT/calls"\n'
            'case $1 in list-units) cat "$BOOTFARM_ROOT/lvm" 2>/dev/null ;;\n'
            f"start) unit=$2; {start} ;; esac"
        )

    def mounts_what_is_started(self, after: str = "") -> None:
        begin = "case $unit in unit:*) ;; *) exit 0 ;; esac; "
        mount = 'echo "${unit#unit:}" >>"$BOOTFARM_ROOT/mounted"; exit 0'
        self.node.stub("systemctl", self.systemctl(begin + after + mount))

    def disk(self, name: str) -> str:
        """The path of a device that fstab names: it begins as a device's does."""
        return f"/dev/..{self.node.root}/dev/{name}"

    def later(self, seconds: int, script: str) -> None:
        self.node.write(f"later/{seconds}", script + "\n")

    def controller(self) -> None:
        self.node.write("sys/bus/pci/devices/0000:00:05.0/class", "0x010601\n")

    def run(self, *args: str, **env: str) -> str:
        done = self.node.script("volumes", *args, **env)
        return str(done.stdout + done.stderr)

    @property
    def seconds(self) -> int:
        return int(self.node.read("seconds"))

    def has_waited(self, seconds: int) -> bool:
        """Whether it waited so long; on a busy machine a mount's own command, which runs
        beside, takes a turn or two of `sleep 1` more."""
        return seconds <= self.seconds <= seconds + 3

    @property
    def tmpfs(self) -> list[str]:
        calls = self.node.read("calls").splitlines()
        return [line.split()[-1] for line in calls if line.startswith("mount -t tmpfs")]


@pytest.fixture
def machine(node: Any) -> Machine:
    return Machine(node)


@pytest.mark.parametrize(
    "line",
    [
        "/dev/null /srv/backup ext4 noauto 0 0",
        "/dev/null /srv/backup ext4 nofail,noauto,ro 0 0",
        "/dev/null none swap sw 0 0",
        "/dev/null swap swap defaults 0 0",
        "/dev/null none ext4 defaults 0 0",
        "/dev/null /srv/backup ext4 nofail,x-systemd.automount 0 0",
        "/dev/null /srv/iscsi ext4 _netdev,nofail 0 0",
        "/dev/null /srv/bound none bind 0 0",
        "10.9.0.1:/srv /srv/nfs nfs defaults 0 0",
        "tmpfs /srv/tmpfs tmpfs size=1m 0 0",
        "# /dev/null /srv/backup ext4 defaults 0 0",
        "",
    ],
)
def test_nobody_waits_for_what_is_not_mounted_at_boot(machine: Machine, line: str) -> None:
    machine.controller()
    machine.node.write("etc/fstab", line + "\n")
    machine.run()
    assert machine.has_waited(0)
    assert machine.tmpfs == STORES
    assert "start" not in machine.node.read("calls")


def test_lts_check_warns_of_each_disk_that_the_node_must_have(machine: Machine) -> None:
    sources = (
        "/dev/sda1",
        "UUID=a",
        "LABEL=a",
        "PARTUUID=a",
        "PARTLABEL=a",
        "ID=a",
        "tmpfs",
        "a:/b",
    )
    kinds = ("/srv/x ext4", "none swap", "none ext4", "/srv/x swap")
    options = (
        "defaults",
        "noauto",
        "_netdev",
        "rw,x-systemd.automount",
        "bind",
        "nofail",
        "nofails",
    )
    lines = [f"{a} {b} {c} 0 0" for a in sources for b in kinds for c in options]
    machine.node.write("etc/fstab", "\n".join(lines) + "\n")
    script = '. "$BOOTFARM_ROOT/usr/lib/bootfarm/volumes"; local_lines'
    waited = machine.node.run(script).stdout.splitlines()
    # The node waits for those with nofail, too.
    wanted = [line for line in lines if check_required_disk(line.replace(" nofail ", " defaults "))]
    assert [line.split() for line in waited] == [line.split()[:2] for line in wanted]
    required = [line for line in wanted if check_required_disk(line)]
    assert len(required) == 12


def test_a_wait_that_is_no_number_is_told(machine: Machine, served: Callable[[], Any]) -> None:
    server = served()
    machine.node.write("etc/fstab", "")
    machine.node.flat(DISK_SECONDS="1min")
    machine.node.script("volumes")
    (beacon,) = server.beacons
    assert beacon["detail"] == "DISK_SECONDS is '1min', no number of seconds up to 9999"


def test_a_machine_without_disks_waits_for_none(machine: Machine) -> None:
    machine.node.write("etc/fstab", "LABEL=nowhere /srv/data ext4 nofail 0 0\n")
    assert "no LABEL=nowhere on this machine" in machine.run()
    assert machine.has_waited(0)


def test_disks_that_do_not_come_cost_one_wait_and_are_told(
    machine: Machine, served: Callable[[], Any]
) -> None:
    server = served()
    machine.controller()
    lines = [f"LABEL=no{n} /srv/no{n} ext4 nofail 0 0\n" for n in range(3)]
    machine.node.write("etc/fstab", "".join(lines))
    machine.run()
    assert machine.has_waited(10)
    details = [beacon["detail"] for beacon in server.beacons]
    assert "waiting for LABEL=no0 (/srv/no0) to show up, 10 of 10 s" in details
    assert "systemctl start --no-block bootfarm-late-volumes.service" in machine.node.read("calls")
    assert len(machine.node.read("run/bootfarm/late-volumes").splitlines()) == 3


def test_how_long_a_disk_is_waited_for_is_said_by_ltsconf(machine: Machine) -> None:
    machine.node.flat(DISK_SECONDS="45")
    disk = machine.disk("slow")
    machine.node.write("etc/fstab", f"{disk} /var/lib/docker ext4 nofail 0 0\n")
    machine.later(40, f"touch {disk}")
    machine.mounts_what_is_started()
    machine.run()
    assert machine.has_waited(40)
    assert machine.tmpfs == ["/var/lib/containerd"]


def test_a_volume_group_that_is_put_together_is_waited_for_and_mounted(machine: Machine) -> None:
    """systemd has given the device up by then: 'dependency failed', which is not 'failed'."""
    disk = machine.disk("group-docker")
    machine.node.write("etc/fstab", f"{disk} /var/lib/docker ext4 nofail 0 0\n")
    machine.node.write("lvm", "lvm-activate-group.service loaded activating start\n")
    machine.later(70, f"touch {disk}")
    machine.mounts_what_is_started()
    machine.run()
    assert machine.has_waited(70)
    assert machine.tmpfs == ["/var/lib/containerd"]


def test_a_volume_group_that_never_comes_is_given_up_once_for_all(machine: Machine) -> None:
    lines = [f"{machine.disk(f'g{n}')} {where} ext4 nofail 0 0\n" for n, where in enumerate(STORES)]
    machine.node.write("etc/fstab", "".join(lines))
    machine.node.write("lvm", "lvm-activate-group.service loaded activating start\n")
    machine.run()
    assert machine.has_waited(120)
    assert machine.tmpfs == STORES


def test_a_check_that_does_not_end_is_told_and_given_up(
    machine: Machine, served: Callable[[], Any]
) -> None:
    server = served()
    lines = [f"/dev/null /srv/v{n} ext4 nofail 0 2\n" for n in range(3)]
    machine.node.write("etc/fstab", "".join(lines))
    # The unit's job does not end before all is over.
    machine.node.stub("systemctl", machine.systemctl("exec tail -f /dev/null"))
    machine.run(MOUNT_SECONDS="60")
    assert machine.has_waited(60)
    details = [beacon["detail"] for beacon in server.beacons]
    assert "waiting for /dev/null to be checked and mounted on /srv/v0, 30 of 60 s" in details
    assert any("cannot be mounted on /srv/v2" in detail for detail in details)


def test_a_volume_that_cannot_be_mounted_is_told_and_not_waited_for(
    machine: Machine, served: Callable[[], Any]
) -> None:
    server = served()
    machine.node.write("etc/fstab", "/dev/null /srv/my\\040disk ext4 nofail 0 0\n")
    machine.run()
    assert machine.seconds <= 1
    (beacon,) = server.beacons
    assert (beacon["phase"], beacon["status"]) == ("preinit", "error")
    assert beacon["detail"] == (
        "/dev/null is there and cannot be mounted on /srv/my disk (unit:/srv/my disk):"
        " wrong fs type, bad superblock"
    )


def test_a_disk_that_comes_late_is_mounted_and_told(
    machine: Machine, served: Callable[[], Any]
) -> None:
    server = served()
    disk = machine.disk("late")
    machine.node.write("run/bootfarm/late-volumes", f"{disk} /srv/late\n{disk} /var/lib/docker\n")
    machine.later(100, f"touch {disk}")
    machine.mounts_what_is_started()
    machine.run("late")
    assert machine.has_waited(100)
    assert [beacon["detail"] for beacon in server.beacons] == [
        f"{disk} came late and is mounted on /srv/late",
        f"{disk} came too late for /var/lib/docker, which is in memory for this boot:"
        " DISK_SECONDS in lts.conf says how long to wait",
    ]
    assert "/var/lib/docker" not in machine.node.read("mounted")


def test_a_disk_that_never_comes_is_given_up_and_told(
    machine: Machine, served: Callable[[], Any]
) -> None:
    server = served()
    machine.node.write("run/bootfarm/late-volumes", "LABEL=never /srv/never\n")
    machine.run("late")
    assert machine.has_waited(600)
    (beacon,) = server.beacons
    assert beacon["detail"] == (
        "/srv/never is given up: LABEL=never has not shown up in 600 s more"
    )


def mountinfo(**types: str) -> str:
    lines = [
        f"2{n} 1 8:{n} / {where} rw,relatime shared:{n} - {kind} /dev/x rw\n"
        for n, (where, kind) in enumerate(types.items())
    ]
    return "".join(lines)


@pytest.mark.parametrize(
    ("types", "tmpfs"),
    [
        ({}, STORES),
        ({"/var/lib": "ext4"}, []),
        ({"/var": "xfs"}, []),
        ({"/var/lib/docker": "ext4"}, ["/var/lib/containerd"]),
        ({"/var/lib/docker": "tmpfs", "/var/lib": "btrfs"}, []),
        ({"/var/lib/docker": "overlay"}, STORES),
        ({"/var": "nfs4"}, STORES),
        ({"/var": "nfs4", "/var/lib/containerd": "ext4"}, ["/var/lib/docker"]),
        ({"/srv": "ext4"}, STORES),
    ],
    ids=lambda value: ",".join(value) or "none",
)
def test_containers_follow_the_file_system_that_they_lie_on(
    machine: Machine, types: dict[str, str], tmpfs: list[str]
) -> None:
    machine.node.write("etc/fstab", "")
    machine.node.write("mounted", "\n".join(["/", *types, ""]))
    machine.node.write("proc/self/mountinfo", mountinfo(**{"/": "overlay", **types}))
    machine.run()
    assert machine.tmpfs == tmpfs


def test_memory_for_containers_has_a_size(machine: Machine) -> None:
    machine.node.write("etc/fstab", "")
    machine.node.state(containers_mib="800")
    machine.run()
    calls = [line for line in machine.node.read("calls").splitlines() if "tmpfs" in line]
    assert calls == [
        "mount -t tmpfs -o mode=0711,size=100m tmpfs /var/lib/docker",
        "mount -t tmpfs -o mode=0711,size=700m tmpfs /var/lib/containerd",
    ]


def test_emergency_mode_is_told_with_its_cause(machine: Machine, served: Callable[[], Any]) -> None:
    server = served()
    machine.node.write(
        "etc/fstab",
        "LABEL=data /srv/data ext4 defaults 0 2\n"
        "LABEL=may /srv/may ext4 nofail 0 2\n"
        "/dev/null /srv/broken ext4 defaults 0 2\n",
    )
    machine.node.stub(
        "systemctl", "echo 'one.service loaded failed failed One'; echo 'two.mount x'"
    )
    machine.node.stub(
        "journalctl",
        "for match; do :; done; case $match in\n"
        "_SYSTEMD_UNIT=one.service) echo 'no key abcdef.0123456789abcdef in x' ;;\n"
        "UNIT=two.mount) echo 'Dependency failed for /srv/broken.' ;;\nesac",
    )
    machine.node.stub("reboot", "exit 1")
    done = machine.node.script("emergency")
    (beacon,) = server.beacons
    assert (beacon["phase"], beacon["status"]) == ("systemd", "error")
    assert beacon["detail"] == (
        "systemd is in emergency mode: LABEL=data for /srv/data has not shown up, and its FSTAB_*"
        " line has no nofail; /dev/null is not mounted on /srv/broken; failed units: one.service"
        " (no key abcdef.(secret) in x), two.mount (Dependency failed for /srv/broken.)"
    )
    assert beacon["detail"] in done.stdout + done.stderr
    assert machine.seconds == 0  # bootfarm.on_error=shell: systemd's own shell waits


def test_a_unit_that_says_much_leaves_room_for_the_others(
    machine: Machine, served: Callable[[], Any]
) -> None:
    server = served()
    machine.node.write("etc/fstab", "")
    machine.node.stub("systemctl", "echo 'one.service loaded'; echo 'two.mount x'")
    machine.node.stub("journalctl", "printf '%0900d\\n' 0")
    machine.node.script("emergency")
    (beacon,) = server.beacons
    assert beacon["detail"].count("0" * 160) == 2
    assert "two.mount (" in beacon["detail"]


def test_on_error_counts_in_emergency_mode(machine: Machine) -> None:
    machine.node.write("etc/fstab", "")
    machine.node.write("proc/cmdline", "quiet bootfarm.on_error=reboot\n")
    machine.node.script("emergency")
    assert machine.seconds == 30
    assert machine.node.read("calls").endswith("systemctl --force reboot\n")


@pytest.mark.parametrize(
    ("fstab", "waits"),
    [
        ("", False),
        ("LABEL=a /srv/a ext4 nofail 0 2\n", False),  # mounted
        ("LABEL=a /srv/a ext4 nofail 0 2\nLABEL=b /srv/b ext4 nofail 0 2\n", True),
        ("nas:/x /srv/x nfs _netdev 0 0\n", False),
    ],
)
def test_the_modules_of_all_devices_are_waited_for_where_a_disk_is(
    machine: Machine, fstab: str, waits: bool
) -> None:
    machine.node.write("etc/fstab", fstab)
    machine.node.write("mounted", "/\n/srv/a\n")
    machine.node.stub("udevadm", 'echo "udevadm $*" >>"$BOOTFARM_ROOT/calls"')
    machine.node.script("volumes")
    assert ("udevadm settle" in machine.node.read("calls")) is waits


def test_what_systemd_waits_for_is_told(node: Any, served: Callable[[], Any]) -> None:
    server = served()
    node.write("looks", "0\n")
    node.stub(
        "systemctl",
        'case $1 in is-active) [ "$(cat "$BOOTFARM_ROOT/looks")" -ge 4 ]; exit $? ;; esac\n'
        "echo '12 dev-disk-by\\x2dlabel-data.device start running'\n"
        "echo '13 srv-data.mount start waiting'\n"
        "echo '14 bootfarm-volumes.service start running'\n"
        'n=$(cat "$BOOTFARM_ROOT/looks"); [ "$n" -ne 3 ] || echo "15 short.service start running"\n'
        'echo $((n + 1)) >"$BOOTFARM_ROOT/looks"',
    )
    node.stub("systemd-escape", "echo /dev/disk/by-label/data")
    node.stub("sleep", "exit 0")
    node.script("watch-start")
    details = [beacon["detail"] for beacon in server.beacons]
    assert details[:2] == [f"waiting for /dev/disk/by-label/data ({n} s)" for n in (10, 20)]
    assert {(b["phase"], b["status"]) for b in server.beacons} == {("systemd", "start")}
    assert not any("short.service" in detail for detail in details)


def test_an_initramfs_that_gives_up_is_told(node: Any, served: Callable[[], Any]) -> None:
    server = served()
    script = (
        node.lib("boot/main")
        + 'rootmnt=$BOOTFARM_ROOT/newroot init=/sbin/init-ltsp\n. "$BOOTFARM_ROOT/panic"\n'
    )
    panic = ROOTFS / "usr/share/initramfs-tools/scripts/panic/bootfarm"
    node.write("panic", panic.read_text())
    done = node.run(script, check=False)
    assert "the image has no /sbin/init-ltsp" in done.stdout + done.stderr
    (beacon,) = server.beacons
    assert (beacon["phase"], beacon["status"]) == ("root", "error")
    assert beacon["cause"] == "gave_up"
    assert beacon["detail"] == "the initramfs gave up: the image has no /sbin/init-ltsp"
