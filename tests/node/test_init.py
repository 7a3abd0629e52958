"""Each step of init-ltsp on a root in a directory."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from server.ltsconf.variables import VARIABLES

DHCP = "interface=eth0\nip=10.9.0.17\nhostname=from-dhcp\ndns=10.9.0.1 10.9.0.2\ndomain=farm.test\n"


def test_machine_id_of_the_command_line_first(node: Any) -> None:
    node.write("proc/cmdline", "systemd.machine_id=0123456789ABCDEF0123456789abcdef\n")
    node.write("sys/class/dmi/id/product_uuid", "11223344-5566-7788-99AA-BBCCDDEEFF00\n")
    node.apply("machine_id")
    assert node.read("etc/machine-id") == "0123456789abcdef0123456789abcdef\n"


UUIDS = (
    "11223344-5566-7788-99AA-BBCCDDEEFF00",
    "00000000-0000-0000-0000-000000000000",
    "03000200-0400-0500-0006-000700080009",
    "00020003-0004-0005-0006-000700080009",
    "Not Settable",
    "",
)
MACS = ("52:54:00:00:00:01", "52:54:00:00:00:02")


def test_machine_id_tells_boards_apart_that_share_a_uuid_or_a_mac(node: Any) -> None:
    def machine_id(uuid: str, mac: str) -> str:
        node.write("sys/class/dmi/id/product_uuid", uuid + "\n")
        node.state(mac=mac)
        node.apply("machine_id")
        return str(node.read("etc/machine-id"))

    ids = {(uuid, mac): machine_id(uuid, mac) for uuid in UUIDS for mac in MACS}
    assert len(set(ids.values())) == len(UUIDS) * len(MACS)
    for (uuid, mac), found in ids.items():
        assert len(found) == 33
        assert set(found.strip()) <= set("0123456789abcdef")
        assert machine_id(uuid.lower(), mac) == found  # at the next boot


def test_a_machine_that_nothing_tells_apart_is_told(node: Any) -> None:
    node.write("proc/sys/kernel/random/uuid", "0f0f0f0f-0000-4000-8000-000000000001\n")
    done = node.apply("machine_id")
    assert "another one at each boot" in done.stderr
    assert len(node.read("etc/machine-id")) == 33


def test_storage_knows_each_machine_by_its_machine_id(node: Any) -> None:
    for directory in ("etc/iscsi", "etc/nvme", "etc/openvswitch"):
        (node.root / directory).mkdir()
    seen = []
    for machine in ("0123456789abcdef0123456789abcdef", "f" * 32):
        node.write("etc/machine-id", machine + "\n")
        node.apply("identity")
        names = ("iscsi/initiatorname.iscsi", "nvme/hostnqn", "nvme/hostid")
        texts = [node.read(f"etc/{name}") for name in names]
        node.apply("identity")
        assert [node.read(f"etc/{name}") for name in names] == texts
        seen.append(texts)
        for name in names:
            (node.root / "etc" / name).unlink()
    first, second = seen
    assert first[1:] == [
        "nqn.2014-08.org.nvmexpress:uuid:01234567-89ab-cdef-0123-456789abcdef\n",
        "01234567-89ab-cdef-0123-456789abcdef\n",
    ]
    assert re.fullmatch(r"InitiatorName=iqn\.1993-08\.org\.debian:01:[0-9a-f]{12}\n", first[0])
    assert "0123456789ab" not in first[0]
    assert not set(first) & set(second)


def test_what_the_recipe_or_a_volume_says_of_identity_stays(node: Any) -> None:
    node.write("etc/machine-id", "0" * 31 + "1\n")
    node.write("etc/nvme/hostnqn", "nqn.2014-08.org.example:mine\n")
    node.apply("identity")
    assert node.read("etc/nvme/hostnqn") == "nqn.2014-08.org.example:mine\n"
    assert (node.root / "etc/nvme/hostid").exists()
    assert not (node.root / "etc/iscsi").exists()


def test_a_command_that_takes_long_is_told(node: Any, served: Callable[[], Any]) -> None:
    server = served()
    node.flat(PREINIT_01_SLOW="exit 0")
    # Ten seconds pass while the command runs: it waits for the beacon of it.
    node.stub("sleep", '[ -e "$BOOTFARM_ROOT/slept" ] && exit 1; touch "$BOOTFARM_ROOT/slept"')
    command = 'n=0; until grep -q x "$BOOTFARM_ROOT/told" || [ $n -ge 4000 ]; do n=$((n+1)); done'
    node.write("usr/lib/bootfarm/report.real", node.read("usr/lib/bootfarm/report"), mode=0o755)
    node.write(
        "usr/lib/bootfarm/report",
        '#!/bin/sh\n. "$BOOTFARM_ROOT/usr/lib/bootfarm/report.real"\nmain "$@"\n'
        'echo x >"$BOOTFARM_ROOT/told"\n',
        mode=0o755,
    )
    node.write("told", "")
    node.flat(PREINIT_01_SLOW=command)
    node.apply("preinit")
    assert server.beacons[0]["detail"] == "waiting for PREINIT_01_SLOW to end, 10 s"
    assert (server.beacons[0]["phase"], server.beacons[0]["status"]) == ("preinit", "start")


@pytest.mark.parametrize(
    ("values", "dhcp", "expected"),
    [
        ({"HOSTNAME": "Worker_03.example.org"}, DHCP, "worker-03.example.org"),
        ({"HOSTNAME": "-a;rm -rf /-"}, DHCP, "a-rm--rf"),
        ({"HOSTNAME_BASE": "node"}, DHCP, "node17"),
        ({"HOSTNAME_BASE": "node", "HOSTNAME_EXTRA": "MAC"}, DHCP, "node525400abcd01"),
        ({"HOSTNAME_EXTRA": "ip"}, DHCP, "ltsp17"),
        ({}, DHCP, "from-dhcp"),
        ({}, "ip=10.9.0.17\nhostname=\n", "node-525400abcd01"),
    ],
)
def test_hostname(node: Any, values: dict[str, str], dhcp: str, expected: str) -> None:
    node.flat(**values)
    node.write("run/bootfarm/dhcp", dhcp)
    node.state(mac="52:54:00:ab:cd:01", ip="10.9.0.17")
    node.apply("hostname")
    assert node.read("etc/hostname") == expected + "\n"
    assert node.read("proc/sys/kernel/hostname") == expected + "\n"


def test_hosts(node: Any) -> None:
    node.flat(HOSTS_01="10.9.0.20 api", HOSTS_2="10.9.0.21 other")
    node.write("run/bootfarm/dhcp", DHCP)
    node.state(hostname="w1")
    node.apply("hosts")
    assert node.read("etc/hosts").splitlines() == [
        "127.0.0.1\tlocalhost",
        "127.0.1.1\tw1.farm.test w1",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "10.9.0.20 api",
        "10.9.0.21 other",
    ]


def test_dns_of_ltsconf_before_dhcps(node: Any) -> None:
    node.flat(DNS_SERVER="10.1.1.1,10.1.1.2", SEARCH_DOMAIN="a.test b.test")
    node.write("run/bootfarm/dhcp", DHCP)
    node.apply("dns")
    assert node.read("etc/resolv.conf").splitlines()[1:] == [
        "nameserver 10.1.1.1",
        "nameserver 10.1.1.2",
        "search a.test b.test",
    ]


def test_dns_of_dhcp(node: Any) -> None:
    node.flat()
    node.write("run/bootfarm/dhcp", DHCP)
    node.apply("dns")
    assert node.read("etc/resolv.conf").splitlines()[1:] == [
        "nameserver 10.9.0.1",
        "nameserver 10.9.0.2",
        "search farm.test",
    ]


def test_dns_where_resolved_owns_the_file(node: Any) -> None:
    node.flat(DNS_SERVER="10.1.1.1")
    (node.root / "etc/resolv.conf").symlink_to("/run/systemd/resolve/stub-resolv.conf")
    node.apply("dns")
    assert "DNS=10.1.1.1\n" in node.read("etc/systemd/resolved.conf.d/bootfarm.conf")


def test_timezone(node: Any) -> None:
    node.flat(TIMEZONE="Europe/Prague")
    node.write("usr/share/zoneinfo/Europe/Prague", "TZif")
    node.apply("timezone")
    assert (
        node.root / "etc/localtime"
    ).readlink().as_posix() == "/usr/share/zoneinfo/Europe/Prague"
    assert node.read("etc/timezone") == "Europe/Prague\n"


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "../../etc/shadow", "/etc/shadow", ""])
def test_unknown_timezone_is_told(node: Any, zone: str) -> None:
    node.flat(TIMEZONE=zone)
    node.write("etc/shadow", "x")
    assert "TIMEZONE" in node.apply("timezone").stderr
    assert not (node.root / "etc/localtime").is_symlink()


def test_timeserver_for_timesyncd(node: Any) -> None:
    node.flat(TIMESERVER="ntp1 ntp2")
    node.write("lib/systemd/systemd-timesyncd", "", mode=0o755)
    node.apply("timeserver")
    assert node.read("etc/systemd/timesyncd.conf.d/bootfarm.conf") == "[Time]\nNTP=ntp1 ntp2\n"


def test_timeserver_for_chrony(node: Any) -> None:
    node.flat(TIMESERVER="ntp1 ntp2")
    (node.root / "etc/chrony").mkdir()
    node.apply("timeserver")
    assert (
        node.read("etc/chrony/sources.d/bootfarm.sources")
        == "server ntp1 iburst\nserver ntp2 iburst\n"
    )


def test_timeserver_without_a_client_is_told(node: Any) -> None:
    node.flat(TIMESERVER="ntp1")
    assert "neither chrony nor systemd-timesyncd" in node.apply("timeserver").stderr


def test_syslog(node: Any) -> None:
    node.flat(SYSLOG_HOST="10.9.0.15")
    node.apply("syslog")
    assert node.read("run/bootfarm/syslog-host") == "10.9.0.15\n"
    (node.root / "etc/rsyslog.d").mkdir()
    node.apply("syslog")
    assert node.read("etc/rsyslog.d/90-bootfarm.conf") == "*.* @10.9.0.15\n"


def test_syslog_host_that_is_none(node: Any) -> None:
    node.flat(SYSLOG_HOST="10.9.0.15; reboot")
    assert "SYSLOG_HOST" in node.apply("syslog").stderr


def test_modules_with_parameters_and_no_globbing(node: Any) -> None:
    node.flat(MODULE_01="bonding mode=802.3ad", MODULE_02="netconsole netconsole=@/*,@10.0.0.1/")
    node.stub("modprobe", 'for a in "$@"; do printf "[%s]" "$a"; done; echo')
    done = node.apply("modules", 'modprobe() { "$BOOTFARM_ROOT/stubs/modprobe" "$@"; }\n')
    assert done.stdout == "[bonding][mode=802.3ad]\n[netconsole][netconsole=@/*,@10.0.0.1/]\n"


def test_module_that_does_not_load_is_told(node: Any) -> None:
    node.flat(MODULE_01="nosuch")
    done = node.apply("modules", "modprobe() { return 1; }\n")
    assert "MODULE_01: modprobe nosuch failed" in done.stderr


def add_unit(node: Any, name: str, wanted: str = "etc") -> None:
    node.write(f"lib/systemd/system/{name}", "[Unit]\n")
    wants = node.root / wanted / "systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / name).symlink_to(f"/lib/systemd/system/{name}")


def is_started(node: Any, name: str) -> bool:
    masked = node.root / "etc/systemd/system" / name
    if masked.is_symlink() and masked.readlink().as_posix() == "/dev/null":
        return False
    return any(
        (node.root / base / "systemd/system/multi-user.target.wants" / name).is_symlink()
        for base in ("etc", "lib")
    )


def test_default_list_without_what_is_kept(node: Any) -> None:
    for name in ("ssh.service", "rpcbind.service", "docker.service", "apt-daily.timer"):
        add_unit(node, name)
    add_unit(node, "systemd-logind.service", "lib")
    node.flat(KEEP_SYSTEM_SERVICES="rpcbind")
    node.apply("services")
    started = {
        name: is_started(node, name)
        for name in (
            "ssh.service",
            "rpcbind.service",
            "docker.service",
            "apt-daily.timer",
            "systemd-logind.service",
        )
    }
    assert started == {
        "ssh.service": False,
        "rpcbind.service": True,
        "docker.service": True,
        "apt-daily.timer": False,
        "systemd-logind.service": False,
    }
    # By hand it may still be started: only what the vendor's links want is masked.
    assert not (node.root / "etc/systemd/system/ssh.service").is_symlink()


@pytest.mark.parametrize("kept", ["dbus-org.freedesktop.login1", "systemd-logind.service"])
def test_both_names_of_logind_keep_it(node: Any, kept: str) -> None:
    add_unit(node, "systemd-logind.service", "lib")
    node.flat(KEEP_SYSTEM_SERVICES=f"ufw {kept}")
    node.apply("services")
    assert is_started(node, "systemd-logind.service")


def test_rm_system_services_adds_and_keep_wins(node: Any) -> None:
    for name in ("cron.service", "docker.service", "foo.timer"):
        add_unit(node, name)
    node.flat(RM_SYSTEM_SERVICES="cron docker foo.timer *", KEEP_SYSTEM_SERVICES="docker")
    node.apply("services")
    assert not is_started(node, "cron.service")
    assert not is_started(node, "foo.timer")
    assert is_started(node, "docker.service")


def test_sysv_links_are_removed(node: Any) -> None:
    node.write("etc/init.d/rsync", "")
    node.write("etc/rc2.d/S01rsync", "")
    node.flat()
    node.apply("services")
    assert not (node.root / "etc/rc2.d/S01rsync").exists()


def test_fstab(node: Any) -> None:
    node.flat(
        FSTAB_01_SSH="/dev/data/ssh /etc/ssh ext4 nofail,noatime,nodiratime 0 0",
        FSTAB_02="10.9.0.5:/srv /srv/data nfs4 ro",
        FSTAB_03="/dev/sda1\t/must   ext4",
        FSTAB_04="tmpfs /tmp tmpfs size=1g,_netdev 0 0",
        FSTAB_05="/dev/sdb /own ext4 nofail,x-systemd.device-timeout=5s 0 2",
        FSTAB_06="nonsense",
        FSTAB_07="LABEL=late /late ext4 nofail",
    )
    done = node.apply("fstab")
    assert node.read("etc/fstab").splitlines()[1:] == [
        "/dev/data/ssh /etc/ssh ext4 nofail,noatime,nodiratime,x-systemd.device-timeout=30s 0 0",
        "10.9.0.5:/srv /srv/data nfs4 ro,_netdev 0 0",
        "/dev/sda1 /must ext4 defaults 0 0",
        "tmpfs /tmp tmpfs size=1g,_netdev 0 0",
        "/dev/sdb /own ext4 nofail,x-systemd.device-timeout=5s 0 2",
        "LABEL=late /late ext4 nofail,x-systemd.device-timeout=30s 0 0",
    ]
    for mount_point in ("etc/ssh", "srv/data", "must", "tmp", "own"):
        assert (node.root / mount_point).is_dir()
    assert "FSTAB_06" in done.stderr


def test_configure_fstab_no_leaves_the_images_own(node: Any) -> None:
    node.flat(CONFIGURE_FSTAB="False", FSTAB_01="/dev/a /b ext4")
    node.write("etc/fstab", "mine\n")
    node.apply("fstab")
    assert node.read("etc/fstab") == "mine\n"


def test_crontab(node: Any) -> None:
    node.flat(CRONTAB_01="0 4 * * 0 docker image prune -f", CRONTAB_02="@daily echo %")
    crontabs = node.root / "var/spool/cron/crontabs"
    crontabs.mkdir(parents=True)
    node.apply("crontab")
    assert (crontabs / "root").read_text().splitlines()[1:] == [
        "0 4 * * 0 docker image prune -f",
        "@daily echo %",
    ]
    assert (crontabs / "root").stat().st_mode & 0o777 == 0o600


def test_crontab_without_cron_is_told_only_if_wanted(node: Any) -> None:
    node.flat(A="1")
    assert node.apply("crontab").stderr == ""
    node.flat(CRONTAB_01="@daily true")
    assert "no cron" in node.apply("crontab").stderr


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "KUBELET_EXTRA_ARGS=--cgroup-driver=systemd\n"),
        ("KUBELET_EXTRA_ARGS=\n", "KUBELET_EXTRA_ARGS=--cgroup-driver=systemd \n"),
        ('KUBELET_EXTRA_ARGS="-v=2"\n', 'KUBELET_EXTRA_ARGS="--cgroup-driver=systemd -v=2"\n'),
        ("KUBELET_EXTRA_ARGS='-v=2'\n", "KUBELET_EXTRA_ARGS='--cgroup-driver=systemd -v=2'\n"),
        ("KUBELET_EXTRA_ARGS=-v=2\n", "KUBELET_EXTRA_ARGS=--cgroup-driver=systemd -v=2\n"),
        (
            "KUBELET_EXTRA_ARGS=--cgroup-driver=cgroupfs\n",
            "KUBELET_EXTRA_ARGS=--cgroup-driver=cgroupfs\n",
        ),
    ],
)
def test_cgroup_driver(node: Any, before: str | None, after: str) -> None:
    node.write("usr/bin/kubelet", "", mode=0o755)
    if before is not None:
        node.write("etc/default/kubelet", before)
    node.apply("kubernetes")
    assert node.read("etc/default/kubelet") == after


def test_cni_plugins_are_linked_and_none_is_replaced(node: Any) -> None:
    node.write("usr/lib/cni/bridge", "", mode=0o755)
    node.write("usr/lib/cni/loopback", "", mode=0o755)
    node.write("opt/cni/bin/bridge", "the cluster's")
    node.apply("kubernetes")
    assert node.read("opt/cni/bin/bridge") == "the cluster's"
    assert (node.root / "opt/cni/bin/loopback").readlink().as_posix() == "/usr/lib/cni/loopback"


@pytest.mark.parametrize("step", ["preinit", "init_command"])
def test_commands_have_all_values_in_their_environment(node: Any, step: str) -> None:
    family = {"preinit": "PREINIT", "init_command": "INIT_COMMAND"}[step]
    values = {
        "A_VALUE": 'it\'s "$(echo not run)"',
        "LD_PRELOAD": "/never.so",
        "PATH": "/never",
        f"{family}_01": 'printf %s "$A_VALUE" > "$BOOTFARM_ROOT/value"',
        f"{family}_02": 'echo "$SERVER $MACADDR $IPADDR $HOSTNAME" > "$BOOTFARM_ROOT/facts"',
        f"{family}_03": 'env > "$BOOTFARM_ROOT/env"',
    }
    node.flat(**values)
    node.state(server="10.9.0.2", mac="52:54:00:00:00:01", ip="10.9.0.17", hostname="w1")
    node.apply(step, boot_variable="kept")
    assert node.read("value") == values["A_VALUE"]
    assert node.read("facts") == "10.9.0.2 52:54:00:00:00:01 10.9.0.17 w1\n"
    environment = node.read("env").splitlines()
    assert "boot_variable=kept" in environment
    assert "PATH=/never" not in environment
    assert not any(line.startswith("LD_PRELOAD=") for line in environment)


def test_failing_preinit_is_told_and_the_next_one_runs(node: Any) -> None:
    node.flat(PREINIT_01="echo why >&2; exit 7", PREINIT_02='touch "$BOOTFARM_ROOT/second"')
    done = node.apply("preinit")
    assert "PREINIT_01: exit 7: why" in done.stderr
    assert (node.root / "second").exists()
    assert node.read("var/log/bootfarm/PREINIT_01.log") == "why\n"


def test_the_articles_preinit_lines(node: Any) -> None:
    unit = "[Service]\nExecStart=/usr/sbin/dockerd -H fd://\nRestart=always\n"
    node.write("etc/systemd/system/docker.service", unit)
    node.write("etc/hosts", "127.0.0.1 localhost\n127.0.0.2 x\n")
    root = node.root
    node.flat(
        PREINIT_00_TIME=f"ln -sf /usr/share/zoneinfo/Europe/Prague {root}/etc/localtime",
        PREINIT_01_FIX_HOSTNAME=f"sed -i '/^127.0.0.2/d' {root}/etc/hosts",
        PREINIT_02_DOCKER_OPTIONS="sed -i 's|^ExecStart=.*|ExecStart=/usr/bin/dockerd -H fd:// "
        f"--storage-driver overlay2|' {root}/etc/systemd/system/docker.service",
    )
    assert node.apply("preinit").stderr == ""
    assert node.read("etc/hosts") == "127.0.0.1 localhost\n"
    assert "ExecStart=/usr/bin/dockerd -H fd:// --storage-driver overlay2\n" in node.read(
        "etc/systemd/system/docker.service"
    )


def test_no_value_is_evaluated_by_a_step_that_does_not_run_it(node: Any) -> None:
    bomb = f"$(touch {node.root}/bomb)`touch {node.root}/bomb`;touch {node.root}/bomb"
    steps = (
        "hostname",
        "hosts",
        "dns",
        "timezone",
        "timeserver",
        "syslog",
        "modules",
        "services",
        "fstab",
        "crontab",
    )
    node.write("lib/systemd/systemd-timesyncd", "", mode=0o755)
    (node.root / "var/spool/cron/crontabs").mkdir(parents=True)
    node.flat(
        **{
            variable.name.replace("*", "01"): bomb
            for variable in VARIABLES
            if variable.actor.endswith(tuple(f"/{step}.sh" for step in steps))
        }
    )
    for step in steps:
        node.apply(step, "modprobe() { :; }\n")
    assert not (node.root / "bomb").exists()


def test_each_variable_of_the_table_is_known_to_the_file_that_it_names(node: Any) -> None:
    for variable in VARIABLES:
        if variable.actor.startswith("usr/lib/bootfarm/"):
            assert variable.prefix in node.read(variable.actor), variable.name


def test_steps_run_in_order_and_one_that_fails_does_not_stop_them(
    node: Any, served: Callable[[], Any]
) -> None:
    server = served()
    node.flat()
    for name, status in (("one", 0), ("two", 1), ("three", 0)):
        node.write(
            f"usr/lib/bootfarm/init.d/{name}.sh",
            f"apply_{name}() {{ echo {name}; return {status}; }}\n",
        )
    node.apply(
        "one",
        "INIT_STEPS='one two three'\n"
        'trouble() { echo "trouble: $1"; }\n'
        'apply_steps >"$BOOTFARM_ROOT/said"\n',
    )
    assert node.read("said") == "one\ntwo\ntrouble: the step two failed\nthree\n"
    assert server.beacons == []


def test_every_step_has_its_file(node: Any) -> None:
    node.flat()
    done = node.apply("hosts", 'echo "$INIT_STEPS"\n')
    assert "preinit" in done.stdout
    for step in done.stdout.split():
        assert f"apply_{step}()" in node.read(f"usr/lib/bootfarm/init.d/{step}.sh")
