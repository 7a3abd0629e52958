"""Boots that need no cluster: firmware, drivers, images, and servers that go away."""

import re
import time
from pathlib import Path

import pytest

from rack.machine import NodeSpec
from rack.network import API_IP
from rack.node import Node
from rack.rack import Rack
from tests.e2e.waits import read_boot_id, wait_finding, wait_line, wait_phase

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

# What every machine of this rack gets, and then a section for each.
LTS_CONF = """
[default]
KEEP_SYSTEM_SERVICES = ssh
RCFILE_01_SSH = "mkdir -p /root/.ssh; echo '{{ ssh_key }}' >> /root/.ssh/authorized_keys"
"""
DHCP = "grub"
"""These boots go by GRUB, those of the other racks by iPXE."""
LOGS = {"syslog": 514, "netconsole": 6667}
"""Where the server hears them; 6666 is the rack's own receiver's."""

# Every variable that acts on the node, with two that follow a failing line.
EVERY_VARIABLE = """
HOSTNAME_BASE = every
HOSTNAME_EXTRA = mac
HOSTS_01 = "10.9.0.20 api.cluster.example.org"
DNS_SERVER = "10.9.0.1 10.9.0.2"
SEARCH_DOMAIN = overridden.example.org
TIMEZONE = Europe/Prague
TIMESERVER = ntp.example.org
SYSLOG_HOST = 10.9.0.1
MODULE_01 = "dummy numdummies=2"
RM_SYSTEM_SERVICES = "systemd-timesyncd"
KEEP_SYSTEM_SERVICES = "ssh cron"
INIT_COMMAND_01 = "mkdir -p /srv/init-command"
PREINIT_01 = "echo \"$HOSTNAME_BASE $BOOTIF $init\" > /srv/preinit"
FSTAB_01 = "tmpfs /srv/volume tmpfs size=1m,nofail 0 0"
FSTAB_02 = "10.9.0.1:/nowhere /srv/nfs nfs nofail,noauto 0 0"
FSTAB_03 = "/dev/nowhere /srv/missing ext4 nofail,x-systemd.device-timeout=1 0 0"
CRONTAB_01 = "* * * * * touch /run/by-cron"
RCFILE_01_FAILS = "echo before; exit 3"
RCFILE_02_AFTER = "touch /run/after"
RCFILE_ON_ERROR = continue
KERNEL_CMDLINE = "bootfarm.test=1 ltsp.search_domain=cmdline.example.org"
LTSP_NBD_TO_RAM = true
"""
MISSING_DISK = 'FSTAB_01 = "LABEL=nowhere /srv/data ext4 x-systemd.device-timeout=5 0 2"'
UNATTENDED = f"""
KERNEL_CMDLINE = "bootfarm.on_error=reboot"
{MISSING_DISK}
"""
DRIVER = "e1000"
"""The NIC driver that the demo's recipe builds from source; the kernel has none of its own."""


def section(name: str, *lines: str) -> str:
    """A section for the machine of that name."""
    return "\n".join([f"[{NodeSpec(name).completed('').mac}]", *lines, ""])


@pytest.fixture(scope="module")
def farm(rack: Rack, store: Path) -> Rack:
    """The rack with a server and no control plane."""
    sections = [
        section("uefi", "HOSTNAME = raised-by-uefi", "TIMEZONE = Asia/Tokyo"),
        section("in-ram", "LTSP_NBD_TO_RAM = true"),
        section(
            "first",
            "HOSTNAME = first-node",
            'RCFILE_02_BREAKS = "echo nothing to see; exit 7"',
            'RCFILE_03_NEVER = "touch /run/never"',
        ),
        section(
            "second",
            "IMAGE = amd64-bookworm",
            "HOSTNAME = second-node",
            f'RCFILE_02_JOIN = "kubeadm join {API_IP}:6443 --token abcdef.0123456789abcdef'
            f' --discovery-token-ca-cert-hash sha256:{"0" * 64}"',
        ),
        section("every", EVERY_VARIABLE),
        section("unattended", UNATTENDED),
    ]
    config = {"default_image": "amd64", "logs": LOGS}
    rack.serve(store, LTS_CONF + "".join(sections), config=config)
    return rack


@pytest.fixture(scope="module")
def pair(farm: Rack) -> tuple[Node, Node]:
    """Two machines on one server at once, each with a section and an image of its own."""
    first = farm.boot(NodeSpec("first", memory=768))
    second = farm.boot(NodeSpec("second", memory=768))
    for node in (first, second):
        node.wait_ssh(500)  # the second one's join goes on trying, so its lines do not end
    return first, second


def power_off(node: Node) -> None:
    """Shut down in an orderly way, which has to end, also with the root on the network.

    Not by the button: logind is among the services that a node does without."""
    node.ssh("systemctl poweroff --no-block")
    node.wait_off(timeout=180)


def test_uefi_boot_to_login_with_lts_conf_applied(farm: Rack) -> None:
    node = farm.boot(NodeSpec("uefi", firmware="uefi", memory=768))
    farm.wait_up(node)
    node.wait_ssh()
    assert node.ssh("hostname").strip() == "raised-by-uefi"
    assert node.ssh("test -d /sys/firmware/efi && cat /etc/timezone").strip() == "Asia/Tokyo"
    assert "BOOTIF=01-" + node.mac.replace(":", "-") in node.ssh("cat /proc/cmdline")
    node.power_cut()


def test_every_variable_at_once(farm: Rack) -> None:
    """640 MiB hold no image of over 300: LTSP_NBD_TO_RAM falls back to live NBD and says so."""
    node = farm.boot(NodeSpec("every", memory=640))
    # Before rc.local's own failure is what matters most.
    finding = wait_finding(farm, node, "image-too-large", timeout=500)
    assert finding["severity"] == "note"
    assert re.match(r"The image needs [1-9].* MiB, the machine has ", finding["headline"])
    assert "falls back to live NBD" in finding["headline"]
    farm.wait_up(node)
    node.wait_ssh()
    mac = node.mac.replace(":", "")
    wanted = {
        "hostname": f"every{mac}",
        "getent hosts api.cluster.example.org | cut -d ' ' -f 1": "10.9.0.20",
        "grep -v '^#' /etc/resolv.conf": (
            "nameserver 10.9.0.1\nnameserver 10.9.0.2\nsearch cmdline.example.org"
        ),
        "cat /etc/timezone; readlink -f /etc/localtime": (
            "Europe/Prague\n/usr/share/zoneinfo/Europe/Prague"
        ),
        "grep NTP /etc/systemd/timesyncd.conf.d/bootfarm.conf": "NTP=ntp.example.org",
        "systemctl is-active systemd-timesyncd": "inactive",
        "ls -d /sys/class/net/dummy* | wc -l": "2",
        "systemctl is-active ssh cron": "active\nactive",
        "test -d /srv/init-command && echo made": "made",
        "cat /srv/preinit": f"every 01-{node.mac.replace(':', '-')} /sbin/init-ltsp",
        "findmnt -no FSTYPE /srv/volume; findmnt -bno SIZE /srv/volume": "tmpfs\n1048576",
        "grep -c '^10.9.0.1:/nowhere /srv/nfs nfs .*_netdev' /etc/fstab": "1",
        "test -d /srv/missing && ! mountpoint -q /srv/missing && echo skipped": "skipped",
        "tail -n 1 /var/spool/cron/crontabs/root": "* * * * * touch /run/by-cron",
        "cat /var/log/bootfarm/RCFILE_01_FAILS.log": "before",
        "test -e /run/after && echo went on": "went on",
        "grep -o bootfarm.test=1 /proc/cmdline": "bootfarm.test=1",
        "findmnt -no SOURCE /rofs": "/dev/nbd0",
    }
    found = {command: node.ssh(f"{command}; true").strip() for command in wanted}
    assert found == wanted
    assert farm.server is not None
    assert "RCFILE_01_FAILS: exit 3: before" in farm.server.log.read_text()
    ended = "timeout 90 sh -c 'until systemctl is-failed -q bootfarm-rcfile; do sleep 1; done'"
    node.ssh(ended, timeout=120)
    rcfile = wait_phase(farm, node, "rcfile")
    assert (rcfile["status"], rcfile["detail"]) == ("error", "1 of 3 lines failed: RCFILE_01_FAILS")
    assert "live NBD" in str(wait_phase(farm, node, "root")["detail"])
    node.ssh("logger a word for the syslog host")
    node.ssh("timeout 90 sh -c 'until [ -e /run/by-cron ]; do sleep 1; done'", timeout=120)
    wait_line(farm, node, "syslog", r"a word for the syslog host$")
    # Its last words come by netconsole, in the extended format, and stay.
    card = node.ssh("ip -o route get 10.9.0.1 | sed 's/.* dev \\([^ ]*\\).*/\\1/'").strip()
    node.ssh(f"modprobe netconsole netconsole=+@/{card},{LOGS['netconsole']}@10.9.0.1/")
    node.ssh("echo '<3>a word of the kernel' > /dev/kmsg")
    assert wait_line(farm, node, "netconsole", r"\] a word of the kernel$")["severity"] == 3
    node.ssh("(sleep 2; echo c > /proc/sysrq-trigger) > /dev/null 2>&1 &")
    wait_line(farm, node, "netconsole", "Kernel panic - not syncing: sysrq triggered crash")
    assert farm.server.get(f"/nodes/{node.mac}")[1].count(b'<span class="bad">') > 1
    node.power_cut()


def test_ram_boot_with_the_built_driver_survives_the_servers_end(farm: Rack, store: Path) -> None:
    """The machine's only NIC needs the module that was built from source in the builder
    stage: without it in the initramfs there is no network, no root and no login."""
    node = farm.boot(NodeSpec("in-ram", nic=DRIVER, memory=1536))
    farm.wait_up(node)
    node.wait_ssh()
    assert f"/{DRIVER}" in node.ssh("readlink /sys/class/net/e*/device/driver")
    module = node.ssh(f"modinfo -n {DRIVER}").strip()
    assert "/updates/" in module
    loaded_by = node.ssh(f"journalctl -k -o short-monotonic --grep {DRIVER} | head -n 1")
    assert float(loaded_by.split("]")[0].strip("[ ")) < float(
        node.ssh(
            "journalctl -k -o short-monotonic --grep 'systemd.*running in system mode' | head -n 1"
        )
        .split("]")[0]
        .strip("[ ")
    )
    assert node.ssh("findmnt -no SOURCE /rofs").strip().startswith("/dev/loop")
    assert farm.server is not None
    farm.server.stop()
    try:
        node.ssh("echo 3 > /proc/sys/vm/drop_caches")
        assert node.ssh(
            "tar -cf - /rofs/usr/lib/x86_64-linux-gnu /rofs/usr/sbin | wc -c", timeout=300
        ).strip()
        power_off(node)
    finally:
        farm.server.start()


def test_a_machine_without_anybody_reboots_by_itself(farm: Rack) -> None:
    """bootfarm.on_error=reboot, in emergency mode and where a line of RCFILE_* fails."""
    assert farm.server is not None
    node = farm.boot(NodeSpec("unattended", memory=640))
    finding = wait_finding(farm, node, "emergency-mode", timeout=500)
    assert finding["severity"] == "error"
    assert "LABEL=nowhere for /srv/data has not shown up" in finding["headline"]
    assert farm.timeline(node)["boots"] == 1
    # Somebody mends the disk's line, and breaks another.
    text = farm.server.lts_conf.read_text()
    assert MISSING_DISK in text
    written = farm.server.lts_conf.with_suffix(".new")
    written.write_text(
        text.replace(MISSING_DISK, 'RCFILE_02_BREAKS = "echo no such thing; exit 9"')
    )
    written.rename(farm.server.lts_conf)
    finding = wait_finding(farm, node, "rcfile-failed", timeout=500)
    assert "RCFILE_02_BREAKS" in finding["headline"]
    assert farm.timeline(node)["boots"] == 2
    assert "rebooting in 30 seconds (bootfarm.on_error=reboot)" in node.console.text()
    end = time.monotonic() + 300
    while farm.timeline(node)["boots"] < 3:
        node.check()
        assert time.monotonic() < end, farm.timeline(node)
        time.sleep(2)
    node.power_cut()


def test_two_nodes_at_once_get_each_their_own(pair: tuple[Node, Node]) -> None:
    first, second = pair
    assert first.ssh("hostname").strip() == "first-node"
    assert second.ssh("hostname").strip() == "second-node"
    assert "/opt/ltsp/amd64@" in first.ssh("cat /proc/cmdline")
    assert "/opt/ltsp/amd64-bookworm@" in second.ssh("cat /proc/cmdline")
    assert second.ssh(". /etc/os-release; echo $VERSION_ID").strip() == "12"
    assert first.ssh("cat /etc/machine-id") != second.ssh("cat /etc/machine-id")
    assert first.ssh("ls /usr/sbin/dockerd").strip() == "/usr/sbin/dockerd"
    assert second.ssh("ls /usr/sbin/dockerd 2>/dev/null || echo none").strip() == "none"


def test_failing_rcfile_line_is_seen_on_the_server(farm: Rack, pair: tuple[Node, Node]) -> None:
    first, _ = pair
    seen = wait_phase(farm, first, "rcfile")
    assert seen["status"] == "error"
    assert "RCFILE_02_BREAKS" in str(seen["detail"])
    assert "7" in str(seen["detail"])
    assert first.ssh("test -e /run/never && echo ran || echo stopped").strip() == "stopped"


def test_an_api_server_that_does_not_answer_is_named(farm: Rack, pair: tuple[Node, Node]) -> None:
    _, second = pair
    finding = wait_finding(farm, second, "api-unreachable")
    assert finding["severity"] == "error"
    assert finding["phase"] == "join"
    assert f"{API_IP} port 6443 does not answer" in finding["headline"]
    assert any("TCP 6443" in line for line in finding["check"])


def test_a_pulled_cable_takes_neither_the_address_nor_the_root(pair: tuple[Node, Node]) -> None:
    """Debian 13 and 12; networkd is started anew meanwhile, and finds no carrier."""
    known = "ip -o -4 address show scope global | awk '{print $2, $4}'; ip route show default"
    before = {node.name: (read_boot_id(node), node.ssh(known)) for node in pair}
    for node in pair:
        # What is not in memory by then is read from a root that is out of reach.
        node.ssh(
            "nohup sh -c 'sleep 8; systemctl restart systemd-networkd; sleep 4; "
            "echo 3 > /proc/sys/vm/drop_caches; sha256sum /rofs/usr/bin/* > /run/cable' "
            ">/dev/null 2>&1 &"
        )
        node.set_cable(False)
    time.sleep(45)
    for node in pair:
        node.check()
        node.set_cable(True)
    for node in pair:
        node.wait_ssh()
        assert (read_boot_id(node), node.ssh(known)) == before[node.name]
        node.ssh("timeout 240 sh -c 'until [ -s /run/cable ]; do sleep 1; done'", timeout=300)
        assert "I/O error" not in node.console.text()


def test_live_roots_outlive_a_minute_without_the_server(
    farm: Rack, pair: tuple[Node, Node]
) -> None:
    assert farm.server is not None
    digests = {}
    for node in pair:
        node.ssh(
            "nohup sh -c 'sleep 20; echo 3 > /proc/sys/vm/drop_caches; "
            "tar -cf - /rofs/usr/lib/x86_64-linux-gnu | sha256sum > /run/read; "
            "touch /run/read-done' "
            ">/dev/null 2>&1 &"
        )
    farm.server.kill()
    time.sleep(60)
    for node in pair:
        node.check()
    farm.server.start()
    for node in pair:
        node.wait_ssh()  # its sshd is read anew, too
        node.ssh("timeout 240 sh -c 'until [ -e /run/read-done ]; do sleep 1; done'", timeout=300)
        digests[node.name] = node.ssh("cat /run/read").strip()
        node.ssh("echo 3 > /proc/sys/vm/drop_caches")
        again = node.ssh(
            "tar -cf - /rofs/usr/lib/x86_64-linux-gnu | sha256sum", timeout=300
        ).strip()
        assert digests[node.name] == again
        assert "I/O error" not in node.console.text()
    for node in pair:
        power_off(node)
