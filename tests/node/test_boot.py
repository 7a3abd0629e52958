"""The initramfs's steps that need no kernel of their own."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

WHOLE = b'# bootfarm lts.conf\nA="from the server"\n# end\n'
OWN = '# bootfarm lts.conf\nA="the image\'s"\n# end\n'


def add_nic(node: Any, name: str, mac: str, carrier: str = "1", is_device: bool = True) -> None:
    node.write(f"sys/class/net/{name}/address", mac + "\n")
    node.write(f"sys/class/net/{name}/type", "1\n")
    node.write(f"sys/class/net/{name}/carrier", carrier + "\n")
    if is_device:
        (node.root / f"sys/class/net/{name}/device").mkdir()


@pytest.mark.parametrize(
    "value",
    [
        "01-52-54-00-AB-cd-01",
        "01:52:54:00:ab:cd:01",
        "52-54-00-ab-cd-01",
        "52:54:00:AB:CD:01",
        "20-52-54-00-ab-cd-01",
    ],
)
def test_bootif(node: Any, value: str) -> None:
    assert node.boot(f"bootif_mac {value}").stdout == "52:54:00:ab:cd:01\n"


@pytest.mark.parametrize("value", ["", "01", "52-54-00-ab-cd", "52-54-00-ab-cd-xx", "eth0"])
def test_bad_bootif(node: Any, value: str) -> None:
    done = node.boot(f"bootif_mac '{value}'")
    assert (done.returncode, done.stdout) == (1, "")


def test_the_card_of_bootif_is_chosen_among_several(node: Any) -> None:
    add_nic(node, "enp1s0", "52:54:00:00:00:01")
    add_nic(node, "enp2s0", "52:54:00:00:00:02")
    add_nic(node, "br0", "52:54:00:00:00:02", is_device=False)
    node.write("proc/cmdline", "BOOTIF=01-52-54-00-00-00-02\n")
    node.stub("ip", 'echo "ip $*"')
    done = node.boot("choose_nic")
    assert "ip link set dev enp2s0 up" in done.stdout
    assert "enp1s0" not in done.stdout
    assert node.read("run/bootfarm/interface") == "enp2s0\n"
    assert node.read("run/bootfarm/mac") == "52:54:00:00:00:02\n"


def test_missing_card_is_told_with_those_that_are_there(node: Any) -> None:
    add_nic(node, "enp1s0", "52:54:00:00:00:01")
    node.write("sys/bus/pci/devices/0000:03:00.0/class", "0x020000\n")
    node.write("sys/bus/pci/devices/0000:03:00.0/vendor", "0x14e4\n")
    node.write("sys/bus/pci/devices/0000:03:00.0/device", "0x16d7\n")
    node.write("proc/cmdline", "BOOTIF=01-52-54-00-00-00-02\n")
    done = node.boot(
        'choose_nic || echo "$FAILED_WHAT; $FAILED_EXPECTED; $FAILED_CHECK"', NIC_SECONDS="0"
    )
    assert "no network card with the address 52:54:00:00:00:02" in done.stdout
    assert "enp1s0 (52:54:00:00:00:01)" in done.stdout
    assert "0000:03:00.0 vendor 0x14e4 device 0x16d7" in done.stdout


def test_card_without_link_is_told(node: Any) -> None:
    add_nic(node, "enp1s0", "52:54:00:00:00:01", carrier="0")
    node.write("proc/cmdline", "BOOTIF=01-52-54-00-00-00-01\n")
    node.stub("ip", "true")
    done = node.boot('choose_nic || echo "$FAILED_WHAT"', LINK_SECONDS="0")
    assert "enp1s0 (52:54:00:00:00:01) has no link" in done.stdout


def test_without_bootif_the_first_card_with_a_link(node: Any) -> None:
    add_nic(node, "enp1s0", "52:54:00:00:00:01", carrier="0")
    add_nic(node, "enp2s0", "52:54:00:00:00:02")
    node.stub("ip", "true")
    node.boot("choose_nic")
    assert node.read("run/bootfarm/interface") == "enp2s0\n"


def test_only_pci_network_cards_without_driver_are_named(node: Any) -> None:
    for slot, pci_class, has_driver in [
        ("0000:00:01.0", "0x020000", True),
        ("0000:00:02.0", "0x010601", False),
        ("0000:00:03.0", "0x020700", False),
    ]:
        base = f"sys/bus/pci/devices/{slot}"
        node.write(f"{base}/class", pci_class + "\n")
        node.write(f"{base}/vendor", "0x8086\n")
        node.write(f"{base}/device", "0x1572\n")
        if has_driver:
            (node.root / base / "driver").mkdir()
    done = node.boot("nics_without_driver")
    assert done.stdout == "0000:00:03.0 vendor 0x8086 device 0x1572\n"


def test_missing_firmware_is_named(node: Any) -> None:
    node.stub(
        "dmesg",
        "echo '[ 1.0] bnx2 0000:01:00.0: firmware: failed to load bnx2/x.fw (-2)'\n"
        "echo '[ 1.1] virtio_net virtio0: fine'",
    )
    done = node.boot("warn_of_nics_without_driver")
    assert "missing firmware: [ 1.0] bnx2 0000:01:00.0" in done.stdout + done.stderr
    assert "virtio" not in done.stdout + done.stderr


def add_card(node: Any, name: str, address: str, index: int) -> None:
    node.write(f"sys/class/net/{name}/address", f"{address}\n")
    node.write(f"sys/class/net/{name}/type", "1\n")
    node.write(f"sys/class/net/{name}/ifindex", f"{index}\n")
    node.write(f"sys/class/net/{name}/carrier", "1\n")
    (node.root / f"sys/class/net/{name}/device").mkdir()


def test_a_card_is_taken_once_udev_has_named_it(node: Any) -> None:
    """Nobody has waited for all devices (patches/udev), and a card in use keeps its name."""
    add_card(node, "eth0", "52:54:00:12:34:56", 2)
    node.write("proc/cmdline", "BOOTIF=01-52-54-00-12-34-56\n")
    node.write("run/udev/control", "")
    node.stub("ip", "true")
    done = node.boot('choose_nic || echo "$FAILED_WHAT; $FAILED_EXPECTED"', NIC_SECONDS="1")
    assert "no network card with the address 52:54:00:12:34:56" in done.stdout
    # udev renames it a little later, while the boot waits.
    rename = (
        '( sleep 0.5; mv "$BOOTFARM_ROOT/sys/class/net/eth0" "$BOOTFARM_ROOT/sys/class/net/enp1s0"'
        '; mkdir "$BOOTFARM_ROOT/run/udev/data"; : >"$BOOTFARM_ROOT/run/udev/data/n2" ) &\n'
    )
    done = node.boot(f"{rename}choose_nic; state_get interface; wait", NIC_SECONDS="20")
    assert done.stdout.splitlines()[-1] == "enp1s0"


def test_a_card_that_udev_is_about_to_rename_is_not_taken(node: Any) -> None:
    """udev's record is there before the new name is. Seen on a slow machine: the card was found
    as eth0, and a moment later there was none of that name."""
    add_card(node, "eth0", "52:54:00:12:34:56", 2)
    node.write("proc/cmdline", "BOOTIF=01-52-54-00-12-34-56\n")
    node.write("run/udev/control", "")
    node.write("run/udev/data/n2", "I:9605433\nE:ID_BUS=pci\nE:ID_RENAMING=1\n")
    node.stub("ip", 'echo "ip $*"')
    done = node.boot('choose_nic || echo "$FAILED_WHAT"', NIC_SECONDS="1")
    assert "no network card with the address 52:54:00:12:34:56" in done.stdout
    rename = (
        '( sleep 0.5; mv "$BOOTFARM_ROOT/sys/class/net/eth0" "$BOOTFARM_ROOT/sys/class/net/enp1s0"'
        '; echo I:9605433 >"$BOOTFARM_ROOT/run/udev/data/n2" ) &\n'
    )
    done = node.boot(f"{rename}choose_nic; state_get interface; wait", NIC_SECONDS="20")
    assert done.stdout.splitlines()[-1] == "enp1s0"
    assert "set dev eth0" not in done.stdout


def test_a_card_that_gets_another_name_while_its_link_comes_up(node: Any) -> None:
    add_card(node, "eth0", "52:54:00:12:34:56", 2)
    node.write("sys/class/net/eth0/carrier", "0\n")
    node.write("proc/cmdline", "BOOTIF=01-52-54-00-12-34-56\n")
    node.stub("ip", 'echo "ip $*"')
    rename = (
        '( sleep 0.5; mv "$BOOTFARM_ROOT/sys/class/net/eth0" "$BOOTFARM_ROOT/sys/class/net/enp1s0"'
        '; echo 1 >"$BOOTFARM_ROOT/sys/class/net/enp1s0/carrier" ) &\n'
    )
    done = node.boot(f"{rename}choose_nic; state_get interface; wait", LINK_SECONDS="20")
    assert "ip link set dev eth0 up" in done.stdout
    assert "ip link set dev enp1s0 up" in done.stdout
    assert done.stdout.splitlines()[-1] == "enp1s0"


def test_without_bootif_no_card_is_taken_before_all_are_named(node: Any) -> None:
    for index, name in enumerate(("eth0", "eth1"), 2):
        add_card(node, name, f"52:54:00:12:34:0{index}", index)
    node.write("run/udev/control", "")
    node.write("run/udev/data/n3", "")
    node.stub("ip", "true")
    script = 'choose_nic || echo "$FAILED_WHAT"'
    assert "there is no network card" in node.boot(script, NIC_SECONDS="1").stdout
    node.write("run/udev/data/n2", "")
    assert "network card eth0, address" in node.boot(script, NIC_SECONDS="1").stdout


def test_a_card_without_a_driver_is_one_for_good(node: Any) -> None:
    """udev may be at its module still: it is waited for, but only where a card has no driver."""
    base = "sys/bus/pci/devices/0000:00:03.0"
    for name, text in (("class", "0x020000"), ("vendor", "0x8086"), ("device", "0x1572")):
        node.write(f"{base}/{name}", f"{text}\n")
    node.write("run/udev/control", "")
    node.stub("udevadm", f'echo "asked $*"; mkdir "$BOOTFARM_ROOT/{base}/driver"')
    node.stub("dmesg", "true")
    done = node.boot("settle_cards; warn_of_nics_without_driver; settle_cards")
    assert done.stdout.splitlines() == ["asked settle --timeout=10"]
    assert "no driver" not in done.stderr


@pytest.mark.parametrize(
    "nbdroot",
    [
        "",
        "nbdroot=server:/opt/ltsp/x",
        "nbdroot=10.0.0.1",
        "nbdroot=10.0.0.1:",
        "nbdroot=10.0.0:/x",
        "nbdroot=1.2.3.4.5:/x",
    ],
)
def test_bad_nbdroot_is_told(node: Any, nbdroot: str) -> None:
    node.write("proc/cmdline", f"quiet {nbdroot}\n")
    done = node.boot('read_server || echo "$FAILED_WHAT; $FAILED_EXPECTED"')
    assert "nbdroot=" in done.stdout
    assert "/opt/ltsp/<image>" in done.stdout


def test_server_from_the_command_line(node: Any) -> None:
    node.write("proc/cmdline", "nbdroot=10.9.0.2:/opt/ltsp/amd64@abc nbdport=99 bootfarm.http=80\n")
    assert node.boot("read_server").returncode == 0
    facts = {
        name: node.read(f"run/bootfarm/{name}").strip() for name in ("server", "export", "name")
    }
    assert facts == {"server": "10.9.0.2", "export": "/opt/ltsp/amd64@abc", "name": "amd64"}
    assert (node.read("run/bootfarm/nbd"), node.read("run/bootfarm/http")) == ("99\n", "80\n")


@pytest.mark.parametrize(("offset", "is_set"), [(0, False), (7200, True), (-7200, True)])
def test_clock_is_set_when_it_is_off(
    node: Any, served: Callable[[], Any], offset: int, is_set: bool
) -> None:
    served().answers["/api/time"] = f"{1_700_000_000 + offset}.5\n".encode()
    done = node.boot(
        'date() { echo 1700000000; }\nset_system_clock() { echo "set to $1"; }\nset_clock'
    )
    assert (f"set to {1_700_000_000 + offset}" in done.stdout) is is_set


@pytest.mark.parametrize("answer", [b"", b"soon\n", b"99999999999999999999\n"])
def test_nonsense_for_a_time_is_told_and_not_set(
    node: Any, served: Callable[[], Any], answer: bytes
) -> None:
    served().answers["/api/time"] = answer
    done = node.boot("set_system_clock() { echo set; }\nset_clock")
    assert "set\n" not in done.stdout.splitlines(keepends=True)
    assert "GET /api/time" in done.stdout + done.stderr


def test_ltsconf_by_http(node: Any, served: Callable[[], Any]) -> None:
    server = served()
    server.answers["/ltsp/amd64/lts.conf"] = WHOLE
    assert node.boot("get_ltsconf").returncode == 0
    assert node.read("run/bootfarm/lts.conf") == WHOLE.decode()
    assert server.asked == ["/ltsp/amd64/lts.conf?mac=52:54:00:00:00:01"]
    assert [b["status"] for b in server.beacons] == ["ok"]


def test_cut_ltsconf_is_refused_and_tftp_asked(node: Any, served: Callable[[], Any]) -> None:
    served().answers["/ltsp/amd64/lts.conf"] = WHOLE[:-3]
    node.write("by-tftp", WHOLE.replace(b"server", b"tftp"))
    done = node.boot('fetch_by_tftp() { cp "$BOOTFARM_ROOT/by-tftp" "$1"; }\nget_ltsconf')
    assert "is cut or no flat text" in done.stdout + done.stderr
    assert "from the tftp" in node.read("run/bootfarm/lts.conf")


def test_the_images_own_ltsconf_when_there_is_no_server(
    node: Any, served: Callable[[], Any]
) -> None:
    server = served()
    node.write("etc/lts.conf", OWN)
    done = node.boot("fetch_by_tftp() { return 1; }\nsleep() { :; }\nget_ltsconf")
    assert done.returncode == 0
    assert node.read("run/bootfarm/lts.conf") == OWN
    assert [b["status"] for b in server.beacons] == ["start", "start", "start", "error"]
    assert server.beacons[1]["detail"] == "no lts.conf from 127.0.0.1 yet, try 2 of 3"


def test_no_ltsconf_at_all_fails_with_what_to_check(node: Any, served: Callable[[], Any]) -> None:
    served()
    done = node.boot(
        "fetch_by_tftp() { return 1; }\nsleep() { :; }\n"
        'get_ltsconf || echo "$FAILED_WHAT; $FAILED_CHECK"'
    )
    assert "no lts.conf from the server, and the image has none" in done.stdout
    assert "/healthz" in done.stdout


def test_kernel_command_line_overrides_in_order(node: Any) -> None:
    node.flat(RCFILE_1="one", RCFILE_10="ten", TIMEZONE="UTC")
    node.write("proc/cmdline", "ltsp.timezone=Europe/Prague ltsp.rcfile_2=two ltsp.a-b=x ltsp.=x\n")
    node.boot("apply_cmdline_settings")
    assert node.read("run/bootfarm/lts.conf").splitlines() == [
        "# bootfarm lts.conf",
        'RCFILE_1="one"',
        'RCFILE_2="two"',
        'RCFILE_10="ten"',
        'TIMEZONE="Europe/Prague"',
        "# end",
    ]


@pytest.mark.parametrize(("available_kib", "fits"), [(456 * 1024, True), (455 * 1024, False)])
def test_image_and_headroom_must_fit_into_memory(node: Any, available_kib: int, fits: bool) -> None:
    node.write("proc/meminfo", f"MemTotal: 999999 kB\nMemAvailable:   {available_kib} kB\n")
    assert (node.boot(f"fits_into_ram {200 * 1024 * 1024}").returncode == 0) is fits


@pytest.mark.parametrize(
    ("status", "cause"),
    [(3, "nbd_refused"), (4, "nbd_no_answer"), (5, "no_export"), (1, "nbd_failed")],
)
def test_a_root_that_is_not_there_is_told_before_the_last_try(
    node: Any, served: Callable[[], Any], status: int, cause: str
) -> None:
    server = served()
    for name, value in {"server": "127.0.0.1", "nbd": "10809", "export": "/opt/ltsp/x"}.items():
        node.write(f"run/bootfarm/{name}", f"{value}\n")
    said = "nbdroot: no export /opt/ltsp/x from 127.0.0.1 port 10809 (Connection refused)"
    node.write("usr/lib/bootfarm/nbdroot", f"#!/bin/sh\necho '{said}' >&2; exit {status}\n")
    (node.root / "usr/lib/bootfarm/nbdroot").chmod(0o755)
    done = node.boot(
        "modprobe() { :; }\nnbd_ready() { :; }\nsleep() { :; }\nattach_root", NBD_TRIES="5"
    )
    assert done.returncode == 1
    (beacon,) = server.beacons
    assert (beacon["phase"], beacon["status"]) == ("root", "error")
    assert beacon["detail"] == f"no root yet, try 3 of 5: {said}"
    assert beacon["cause"] == cause


def test_the_farms_other_servers_are_known_in_their_order(node: Any) -> None:
    words = (
        "nbdroot=10.9.0.1:/opt/ltsp/amd64 bootfarm.servers=10.9.0.2,10.9.0.3:8081,x,10.9.0.4:1:2"
    )
    node.write("proc/cmdline", f"{words}\n")
    done = node.boot("read_server && next_server && next_server && cat $BOOTFARM_STATE/servers")
    assert done.returncode == 0, done.stderr
    assert "names no server by x: left out" in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == (
        "10.9.0.3:8081:10809 10.9.0.4:1:2 10.9.0.1:8080:10809 10.9.0.2:8080:10809"
    )
    assert [node.read(f"run/bootfarm/{name}") for name in ("server", "http", "nbd")] == [
        *("10.9.0.3\n", "8081\n", "10809\n")
    ]
    node.write("proc/cmdline", "nbdroot=10.9.0.1:/opt/ltsp/amd64\n")
    assert node.boot("read_server && next_server").returncode == 1
    assert node.read("run/bootfarm/servers") == "10.9.0.1:8080:10809\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ""),
        ("bootfarm.servers=10.9.0.2:8081", "300 10.9.0.1:8080:10809 10.9.0.2:8081:10809"),
        (
            "bootfarm.servers=10.9.0.2 bootfarm.home=never",
            "0 10.9.0.1:8080:10809 10.9.0.2:8080:10809",
        ),
        (
            "bootfarm.servers=10.9.0.2 bootfarm.home=60",
            "60 10.9.0.1:8080:10809 10.9.0.2:8080:10809",
        ),
        (
            "bootfarm.servers=10.9.0.2 bootfarm.home=x",
            "300 10.9.0.1:8080:10809 10.9.0.2:8080:10809",
        ),
    ],
)
def test_nbdroot_is_told_all_servers_in_the_machines_order(
    node: Any, words: str, expected: str
) -> None:
    node.write("proc/cmdline", f"nbdroot=10.9.0.1:/opt/ltsp/amd64 {words}\n")
    node.write("usr/lib/bootfarm/nbdroot", '#!/bin/sh\nshift 6; echo "told: $*"\n', mode=0o755)
    script = "modprobe() { :; }\nnbd_ready() { :; }\nread_server\nnext_server\nattach_root"
    done = node.boot(script)
    assert done.returncode == 0, done.stderr
    assert f"told: {expected}" in done.stdout.replace("told: \n", "told: \n")
    assert ("bootfarm.home=x is no number" in done.stderr) == ("home=x" in words)


def test_lts_conf_and_root_come_from_the_next_server_when_the_first_is_dead(
    node: Any, served: Callable[[], Any]
) -> None:
    server = served()
    server.answers["/ltsp/amd64/lts.conf"] = WHOLE
    port = node.read("run/bootfarm/http").strip()
    with socket.socket() as dead:
        dead.bind(("127.0.0.2", 0))  # and does not listen
        words = f"nbdroot=127.0.0.2:/opt/ltsp/amd64 bootfarm.http={dead.getsockname()[1]}"
        node.write("proc/cmdline", f"{words} bootfarm.servers=127.0.0.1:{port}\n")
        done = node.boot(
            "fetch_by_tftp() { return 1; }\nsleep() { :; }\nread_server && get_ltsconf"
        )
    assert done.returncode == 0, done.stderr
    assert node.read("run/bootfarm/lts.conf") == WHOLE.decode()
    assert node.read("run/bootfarm/server") == "127.0.0.1\n"
    # The root: nbdroot is asked for another server each time.
    node.state(servers="127.0.0.2:1:10809 127.0.0.1:2:10810", server="127.0.0.2", nbd="10809")
    node.write(
        "usr/lib/bootfarm/nbdroot",
        '#!/bin/sh\necho "$3 $4"; [ "$3" = 127.0.0.1 ] || exit 4\n',
        mode=0o755,
    )
    done = node.boot("modprobe() { :; }\nnbd_ready() { :; }\nsleep() { :; }\nattach_root")
    assert done.returncode == 0, done.stderr
    assert "attached" in done.stdout
    assert "127.0.0.1 10810" in done.stdout


def test_the_first_report_tells_what_machine_it_is(node: Any, served: Callable[[], Any]) -> None:
    server = served()
    node.write("proc/meminfo", "MemTotal: 2097152 kB\nMemAvailable:   1000000 kB\n")
    node.write("sys/class/dmi/id/product_serial", "SN 1&x=y\n")
    for name, driver in (("0000:00:03.0", True), ("0000:01:00.0", False)):
        path = f"sys/bus/pci/devices/{name}"
        node.write(f"{path}/class", "0x020000\n")
        node.write(f"{path}/vendor", "0x8086\n")
        node.write(f"{path}/device", "0x1533\n")
        if driver:
            node.write(f"{path}/driver/x", "")
    node.boot("note_hardware\nreport_initramfs\nreport network ok x")
    first, second = server.beacons
    assert (first["memory"], first["serial"]) == ("2048", "SN 1&x=y")
    assert first["detail"].endswith("; no driver for: 0000:01:00.0 vendor 0x8086 device 0x1533")
    assert first["cause"] == "no_driver"
    assert first["cards"] == "0000:01:00.0 vendor 0x8086 device 0x1533"
    assert not {"memory", "serial", "cause", "cards"} & set(second)


def test_failing_step_tells_console_and_server_then_tries_again(
    node: Any, served: Callable[[], Any]
) -> None:
    server = served()
    done = node.boot(
        "tries=0\n"
        "try_it() {\n"
        "  tries=$((tries+1)); [ $tries -ge 2 ] || fail no_link 'no cable' 'a cable' 'the port'\n"
        "}\n"
        "give_shell() { echo shell; }\n"
        "step network try_it && echo went on"
    )
    output = done.stdout + done.stderr
    assert "FAILED in phase network: no cable" in output
    assert "expected: a cable" in output
    assert "to check: the port" in output
    assert done.stdout.endswith("shell\nwent on\n")
    assert server.beacons[0]["detail"] == "no cable"
    assert (server.beacons[0]["phase"], server.beacons[0]["status"]) == ("network", "error")
    assert server.beacons[0]["cause"] == "no_link"


def test_on_error_reboot(node: Any) -> None:
    node.write("proc/cmdline", "bootfarm.on_error=reboot\n")
    done = node.boot(
        "sleep() { echo slept $1; }\nreboot() { echo rebooted; exit 0; }\n"
        "try_it() { fail step a b c; }\nstep root try_it"
    )
    assert "slept 30\nrebooted\n" in done.stdout


def test_dhcp_lease_is_kept_as_data(node: Any) -> None:
    node.stub("ip", 'echo "ip $*"')
    done = node.run(
        '"$BOOTFARM_ROOT/usr/lib/bootfarm/udhcpc-script" bound',
        interface="eth0",
        ip="10.0.0.9",
        mask="24",
        router="10.0.0.1 10.0.0.2",
        hostname="x$(touch /never)",
        dns="10.0.0.3",
    )
    assert "ip addr add 10.0.0.9/24" in done.stdout
    assert "default via 10.0.0.1 dev eth0" in done.stdout
    assert "10.0.0.2" not in done.stdout
    script = node.lib("lib/state")
    assert node.run(script + "dhcp_get hostname").stdout == "x$(touch /never)\n"
    assert node.run(script + "dhcp_get domain", check=False).returncode == 1


def test_dhcp_gives_up_with_what_to_check(node: Any) -> None:
    node.state(interface="eth0", mac="52:54:00:00:00:01")
    done = node.boot(
        'run_udhcpc() { return 1; }\nask_dhcp || echo "$FAILED_WHAT; $FAILED_CHECK"', DHCP_TRIES="2"
    )
    assert "try 2 of 2" in done.stdout
    assert "no DHCP answer on eth0 (52:54:00:00:00:01) in 2 tries" in done.stdout
