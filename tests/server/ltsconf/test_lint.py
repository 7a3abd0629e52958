"""The linter: a text, and what is said about it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from server.commands.lts import lts
from server.ltsconf.files import read_nothing
from server.ltsconf.lint import lint
from server.ltsconf.problem import Outcome, Problem
from server.ltsconf.scan import Included

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "corpus" / "cases-public.json").read_text()
)


def find(text: str) -> list[Problem]:
    main = Included("main", "lts.conf", text.encode("utf-8", "surrogateescape"))
    return lint(main, read_nothing)


def places(text: str) -> list[tuple[str, int]]:
    return [(problem.code, problem.line) for problem in find(text)]


FSTAB = '[default]\n{0} = "{1} ext4 nofail 0 0"\n{2} = "{3} ext4 nofail 0 0"\n'
JOIN = '[default]\nRCFILE_01 = "kubeadm join {} --config /etc/join.yaml"\n'
TWICE = [("line-twice", 3)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('[default]\nTIMEZONE = "UTC"\n', []),
        ("[default]\nHOSTNAM = x\n", [("unknown-variable", 2)]),
        ('[default]\nMY KEY = "x"\n', [("bad-key", 2)]),
        ('[default]\n"" = x\n', [("bad-key", 2)]),
        ("[default]\nNBD_SWAP = True\n", [("swap-variable", 2)]),
        ('[default]\nFSTAB_1 = "/dev/sda2 none swap sw 0 0"\n', [("swap-variable", 2)]),
        ("[default]\nLDM_AUTOLOGIN = True\n", [("desktop-variable", 2)]),
        ("[default]\nNFS_HOME = /home\n", [("replaced-variable", 2)]),
        ("[default]\nLTSP_NBD_TO_RAM = maybe\n", [("bad-value", 2)]),
        ("[default]\nLTSP_NBD_TO_RAM = On\n", []),
        ("[default]\nHOSTNAME_EXTRA = name\n", [("bad-value", 2)]),
        ("[default]\nRCFILE_ON_ERROR = ignore\n", [("bad-value", 2)]),
        ('[default]\nIMAGE = "amd64:canary"\n', []),
        ('[default]\nIMAGE = "a b"\n', [("bad-value", 2)]),
        ('[default]\nFSTAB_01 = "/dev/sda1 /data"\n', [("bad-value", 2)]),
        ('[default]\nCRONTAB_01 = "0 4 * * run"\n', [("bad-value", 2)]),
        ('[default]\nCRONTAB_01 = "@daily run"\n', []),
        ("[default]\nHOSTS_01 = 10.9.0.1\n", [("bad-value", 2)]),
        ('[default]\nHOSTS_01 = "10.9.0.999 api"\n', [("bad-value", 2)]),
        ('[default]\nHOSTS_01 = "10.9.0.1 api.example.org api"\n', []),
        ("[default]\nTIMEZONE = Europe/Pragu\n", [("bad-value", 2)]),
        ("[default]\nTIMEZONE = posix/Europe/Prague\n", []),
        ("[default]\nDNS_SERVER = 10.9.0.999\n", [("bad-value", 2)]),
        ("[default]\nDNS_SERVER = ns.example.org\n", [("bad-value", 2)]),
        ('[default]\nDNS_SERVER = "10.9.0.1, fd00::1"\n', []),
        ("[default]\nTIMESERVER = 10.9.0\n", [("bad-value", 2)]),
        ("[default]\nTIMESERVER = auto\n", [("bad-value", 2)]),
        ('[default]\nTIMESERVER = "ntp.example.org 10.9.0.1"\n', []),
        ('[default]\nSYSLOG_HOST = "a b"\n', [("bad-value", 2)]),
        ("[default]\nSEARCH_DOMAIN = -x.example\n", [("bad-value", 2)]),
        ('[pc7]\nHOSTNAME = "two words"\n', [("bad-value", 2)]),
        ('[default]\nFSTAB_01 = "/dev/sda1 /data ext4"\n', [("bad-value", 2)]),
        ('[default]\nFSTAB_01 = "/dev/sda1 data ext4 nofail 0 0"\n', [("bad-value", 2)]),
        ('[default]\nFSTAB_01 = "/dev/sda1 /data ext4 nofail 0 x"\n', [("bad-value", 2)]),
        ('[default]\nFSTAB_01 = "tmpfs /tmp tmpfs size=64q 0 0"\n', [("bad-value", 2)]),
        ('[default]\nFSTAB_01 = "tmpfs /tmp tmpfs size=50%,mode=1777 0 0"\n', []),
        ('[default]\nFSTAB_01 = "/dev/sda1 /data ext4 defaults 0 2"\n', [("disk-required", 2)]),
        ('[default]\nFSTAB_01 = "LABEL=a /data xfs rw,noatime 0 0"\n', [("disk-required", 2)]),
        ('[default]\nFSTAB_01 = "UUID=a /data xfs noauto 0 0"\n', []),
        ('[default]\nFSTAB_01 = "UUID=a /data xfs x-systemd.automount 0 0"\n', []),
        ('[default]\nFSTAB_01 = "10.9.0.1:/x /data nfs defaults 0 0"\n', []),
        ('[default]\nFSTAB_01 = "tmpfs /tmp tmpfs defaults 0 0"\n', []),
        ("[default]\nOVERLAY_SIZE = 1G\nJOURNAL_SIZE = 128\nMEMORY_RESERVE = 40%\n", []),
        ("[default]\nOVERLAY_SIZE = 1GiB\n", [("bad-value", 2)]),
        ("[default]\nCONTAINERS_SIZE = 120%\n", [("bad-value", 2)]),
        ("[default]\nMEMORY_RESERVE = much\n", [("bad-value", 2)]),
        ("[default]\nJOURNAL_SIZE = 0\n", [("bad-value", 2)]),
        ("[default]\nSHM_SIZE = -1G\n", [("bad-value", 2)]),
        ("[default]\nDISK_SECONDS = 90\n", []),
        ("[default]\nDISK_SECONDS = 1min\n", [("bad-value", 2)]),
        (
            "[default]\nOVERLAY_SIZE = 50%\nCONTAINERS_SIZE = 51%\nTIMEZONE = UTC\n",
            [("memory-twice", 3)],
        ),
        ("[default]\nOVERLAY_SIZE = 50%\n[pc7]\nCONTAINERS_SIZE = 51%\n", []),
        ('[default]\nCRONTAB_01 = "0 4 * * 0 root docker image prune -f"\n', [("bad-value", 2)]),
        ('[default]\nCRONTAB_01 = "0 24 * * 0 docker image prune -f"\n', [("bad-value", 2)]),
        ('[default]\nCRONTAB_01 = "*/5 1-3,7 * jan-mar mon run"\n', []),
        ('[default]\nCRONTAB_01 = "@dayly run"\n', [("bad-value", 2)]),
        ('[default]\nCRONTAB_01 = "@daily root run"\n', [("bad-value", 2)]),
        ("[default]\nMODULE_01 = a/b\n", [("bad-value", 2)]),
        ('[default]\nKERNEL_CMDLINE = "a #b"\n', [("ipxe-word", 2)]),
        ('[default]\nKERNEL_CMDLINE = "a ; b"\n', [("ipxe-word", 2)]),
        ('[default]\nKERNEL_CMDLINE = "${net0/ip}"\n', [("ipxe-word", 2)]),
        ('[default]\nKERNEL_CMDLINE = "quiet root=/dev/sda1"\n', [("bad-value", 2)]),
        ('[default]\nKERNEL_CMDLINE = "ip=dhcp"\n', [("bad-value", 2)]),
        ('[default]\nKERNEL_CMDLINE = "bootfarm.on_error=reebot"\n', [("bad-value", 2)]),
        ('[default]\nKERNEL_CMDLINE = "bootfarm.on_eror=reboot"\n', [("bad-value", 2)]),
        ('[default]\nKERNEL_CMDLINE = "bootfarm.on_error=reboot rootwait"\n', []),
        ('[default]\nKERNEL_CMDLINE = "bootfarm.home=never"\n', []),
        ('[default]\nKERNEL_CMDLINE = "bootfarm.home=600"\n', []),
        ('[default]\nKERNEL_CMDLINE = "bootfarm.home=SECONDS"\n', [("bad-value", 2)]),
        ('[default]\nIMAGE = "amd64@zz"\n', [("bad-value", 2)]),
        ('[default]\nIMAGE = "amd64@0123456789ab"\n', []),
        ("[default]\nMEMORY_RESERVE = 100%\n", [("bad-value", 2)]),
        ("[default]\nHOSTNAME_BASE = -node\n", [("bad-value", 2)]),
        ("[pc7]\nHOSTNAME = 10.9.0.1\n", [("bad-value", 2)]),
        ("[pc7]\nHOSTNAME = localhost\n", [("bad-value", 2)]),
        (f"[pc7]\nHOSTNAME = {'x' * 64}\n", [("bad-value", 2)]),
        ("[pc7]\nHOSTNAME = pc7.example.org\n", []),
        ("[default]\nDNS_SERVER = 0.0.0.0\n", [("bad-value", 2)]),
        ("[default]\nSYSLOG_HOST = 255.255.255.255\n", [("bad-value", 2)]),
        ("[default]\nSEARCH_DOMAIN = 10.9.0.1\n", [("bad-value", 2)]),
        ('[default]\nTIMESERVER = "pool.ntp.org iburst"\n', [("bad-value", 2)]),
        ('[default]\nMODULE_01 = "modprobe nvidia"\n', [("bad-value", 2)]),
        ("[default]\nMODULE_01 = nvidia.ko.xz\n", [("bad-value", 2)]),
        ("[default]\nRM_SYSTEM_SERVICES = ssh.servce\n", [("bad-value", 2)]),
        ("[default]\nRM_SYSTEM_SERVICES = dbus-org.freedesktop.network1\n", []),
        ('[default]\nFSTAB_01 = "sda1 /data ext4 nofail 0 0"\n', [("bad-value", 2)]),
        ('[default]\nFSTAB_01 = "LABEL= /data ext4 nofail 0 0"\n', [("bad-value", 2)]),
        ('[default]\nFSTAB_01 = "/dev/sda1 /data exty4 nofail 0 0"\n', [("bad-value", 2)]),
        ('[default]\nFSTAB_01 = "/dev/sda1 / ext4 nofail 0 0"\n', [("bad-value", 2)]),
        ('[default]\nFSTAB_01 = "/dev/sda1 /etc ext4 nofail 0 0"\n', [("bad-value", 2)]),
        ('[default]\nFSTAB_01 = "/dev/sda1 /data/../x ext4 nofail 0 0"\n', [("bad-value", 2)]),
        ('[default]\nFSTAB_01 = "server/x /data nfs nofail 0 0"\n', [("bad-value", 2)]),
        ('[default]\nFSTAB_01 = "s:/x /data cifs nofail 0 0"\n', [("bad-value", 2)]),
        ('[default]\nFSTAB_01 = "//s/x /data cifs nofail 0 0"\n', []),
        ('[default]\nFSTAB_01 = "/dev/sda1 /data zfs2 nofail 0 0"\n', []),
        ('[default]\nCRONTAB_01 = "0 0 30 2 * run"\n', [("bad-value", 2)]),
        ('[default]\nCRONTAB_01 = "0 0 31 apr * run"\n', [("bad-value", 2)]),
        ('[default]\nCRONTAB_01 = "0 0 * * 0 0 run"\n', [("bad-value", 2)]),
        ('[default]\nCRONTAB_01 = "0 0 * * * date +%s"\n', [("bad-value", 2)]),
        ('[default]\nCRONTAB_01 = "0 0 * * * date +\\%s"\n', []),
        ('[default]\nFSTAB_01 = "/dev/sda1 /data ext5 nofail 0 0"\n', [("bad-value", 2)]),
        ('[default]\nFSTAB_01 = "s:/x /data nfs3 nofail 0 0"\n', [("bad-value", 2)]),
        ('[default]\nFSTAB_01 = "/dev/sda1 /data ntfs nofail 0 0"\n', []),
        ('[default]\nFSTAB_01 = "UUID=data /data ext4 nofail 0 0"\n', [("bad-value", 2)]),
        ('[default]\nFSTAB_01 = "UUID=2B1E-44AF /data vfat nofail 0 0"\n', []),
        ('[default]\nFSTAB_01 = "PARTUUID=2b1e44af-01 /data ext4 nofail 0 0"\n', []),
        (
            '[default]\nFSTAB_01 = "LABEL=a /b ext4 nofail,x-systemd.device-timeout=soon 0 0"\n',
            [("bad-value", 2)],
        ),
        (
            '[default]\nFSTAB_01 = "LABEL=a /b ext4 nofail,x-systemd.device-timeout=1min30s 0 0"\n',
            [],
        ),
        ('[default]\nCRONTAB_01 = "*/90 * * * * run"\n', [("bad-value", 2)]),
        ('[default]\nCRONTAB_01 = "*/60 * * * * run"\n', []),
        ('[default]\nCRONTAB_01 = "0 4 * * * echo \'a"\n', [("bad-value", 2)]),
        ('[default]\nRCFILE_01 = "echo \'a b"\n', [("bad-value", 2)]),
        ('[default]\nRCFILE_01 = "echo a\\\\"\n', []),
        ('[default]\nRCFILE_01 = "echo \'a b\' \\""\n', []),
        ('[default]\nRCFILE_01 = "echo "$(echo "it\'s")""\n', []),
        ('[default]\nPREINIT_01 = "mkswap /x && swapon /x"\n', [("swap-variable", 2)]),
        ('[default]\nPREINIT_01 = "swapon --show; swapoff -a; echo swapon"\n', []),
        ('[default]\nRCFILE_01 = "kubeadm join 10.9.0.20 --v=5"\n', [("bad-value", 2)]),
        (
            '[default]\nKERNEL_CMDLINE = "systemd.machine_id=0123456789abcdef0123456789abcdef"\n',
            [("identity-for-many", 2)],
        ),
        (
            '[pc7]\nKERNEL_CMDLINE = "systemd.machine_id=0123456789abcdef0123456789abcdef"\n',
            [],
        ),
        ('[pc7]\nKERNEL_CMDLINE = "systemd.machine_id=pc7"\n', [("bad-value", 2)]),
        ('[pc*]\nKERNEL_CMDLINE = "systemd.hostname=pc7"\n', [("identity-for-many", 2)]),
        ("[0.0.0.0]\nTIMEZONE = UTC\n", [("unreachable-section", 1)]),
        ("[ff:ff:ff:ff:ff:ff]\nTIMEZONE = UTC\n", [("unreachable-section", 1)]),
        ('[default]\nREGISTRY_MIRRORS = "a=https://m:99999"\n', [("bad-value", 2)]),
        ('[default]\nREGISTRY_MIRRORS = "a=https://m a=https://m"\n', [("bad-value", 2)]),
        ('[default]\nRCFILE_01 = "kubeadm join https://a:6443"\n', [("bad-value", 2)]),
        ('[default]\nRCFILE_01 = "kubeadm join a:99999"\n', [("bad-value", 2)]),
        ('[default]\nRCFILE_01 = "kubeadm join [fd00::1]:6443"\n', []),
        ("[default]\nKERNEL_CMDLINE = a\\b\n", [("bad-value", 2)]),
        (
            '[default]\nRCFILE_01 = "kubeadm join --token abcdef.012345 a:6443"\n',
            [("bad-value", 2)],
        ),
        (
            '[default]\nRCFILE_01 = "kubeadm join a --discovery-token-ca-cert-hash sha256:…"\n',
            [("bad-value", 2)],
        ),
        ('[default]\nRCFILE_01 = "kubeadm join a:6443 --token $(cat /t)"\n', []),
        ('[default]\nRCFILE_01 = "kubeadm join a:6443 --node-labels a=b"\n', [("bad-value", 2)]),
        ('[default]\nRCFILE_01 = "kubeadm --v=5 join a:6443 && x --node-labels a=b"\n', []),
        ('[default]\nRCFILE_01 = "run {{ secrets.a }}"\n', [("braces-no-template", 2)]),
        ('[default]\nRCFILE_01 = "run {{ token }}"\n', [("braces-no-template", 2)]),
        ("[default]\nRCFILE_01 = \"docker ps --format '{{.Names}} {{json .Labels}}'\"\n", []),
        ("# site\n# jinja2\n[default]\nRCFILE_01 = {{ secrets.a }}\n", [("braces-no-template", 2)]),
        ("# nothing\n", [("empty-text", 1)]),
        ("", [("empty-text", 1)]),
        ("[b8:27:eb:*|dc:a6:32:*]\nTIMEZONE = UTC\n", [("unreachable-section", 1)]),
        ("[192.168.67.*, 192.168.68.*]\nTIMEZONE = UTC\n", [("unreachable-section", 1)]),
        ("[5254.0012.3456]\nTIMEZONE = UTC\n", [("unreachable-section", 1)]),
        ("[52-54-00-*]\nTIMEZONE = UTC\n", [("unreachable-section", 1)]),
        ("[52:54:00:*:*:*]\nTIMEZONE = UTC\n", []),
        ("[10.9.0.25?]\nTIMEZONE = UTC\n", []),
        ("[10.9.0.26?]\nTIMEZONE = UTC\n", [("unreachable-section", 1)]),
        ("[default]\nHOSTNAME = a\n", [("hostname-for-many", 2)]),
        ("[pc*]\nHOSTNAME = a\n", [("hostname-for-many", 2)]),
        ("[pc7]\nHOSTNAME = a\n", []),
        ("[default]\nTIMEZONE = “UTC”\n", [("typographic-quotes", 2)]),
        ('[default]\nRCFILE_01 = "echo ‘x’"\n', [("typographic-quotes", 2)]),
        ('[default]\nRCFILE_01 = "kubeadm join –token x"\n', [("typographic-dash", 2)]),
        ('[default]\nRCFILE_01 = "mount\u00a0/dev/sda /mnt"\n', [("odd-blank", 2)]),
        ("[default]\nTIMESERVER = a\u200b\n", [("odd-blank", 2)]),
        ('[default]\nRCFILE_01 = "echo caf\u00e9"\n', []),
        (FSTAB.format("FSTAB_01", "/dev/sda1 /srv", "FSTAB_02", "/dev/sdb1 /srv"), TWICE),
        (FSTAB.format("FSTAB_01", "/dev/sda1 /srv", "FSTAB_02", "/dev/sdb1 /srv2"), []),
        ("[default]\nHOSTS_01 = 10.0.0.1 a b\nHOSTS_02 = 10.0.0.2 c B\n", TWICE),
        ("[default]\nHOSTS_01 = 10.0.0.1 a\nHOSTS_02 = 10.0.0.1 a b\n", []),
        ("[x]\nHOSTS_01 = 10.0.0.1 a\n[y]\nHOSTS_02 = 10.0.0.2 a\n", []),
        ('[default]\nRCFILE_01 = "if true; then echo"\n', [("shell-syntax", 2)]),
        ('[default]\nPREINIT_01 = "echo $(date"\n', [("shell-syntax", 2)]),
        ('[default]\nINIT_COMMAND_01 = "a && && b"\n', [("shell-syntax", 2)]),
        ('[default]\nRCFILE_01 = "echo \'${x}"\n', [("shell-syntax", 2)]),
        ('[default]\nRCFILE_01 = "for i in 1 2; do echo $i; done | sort &"\n', []),
        ('[default]\nRCFILE_01 = "touch /nowhere/x; exit 3"\n', []),
        (f'[default]\nKERNEL_CMDLINE = "a={"x" * 2045}"\n', []),
        (f'[default]\nKERNEL_CMDLINE = "a={"x" * 2046}"\n', [("bad-value", 2)]),
        (JOIN.format("10.0.0.256:6443"), [("bad-value", 2)]),
        (JOIN.format("fd00::1:6443"), [("bad-value", 2)]),
        (JOIN.format("[fd00::g]:6443"), [("bad-value", 2)]),
        (JOIN.format("[fd00::1]:6443"), []),
        (JOIN.format("api.example.org:6443"), []),
        (JOIN.format("api:6443 \\"), [("bad-value", 2)]),
        ('[default]\nRCFILE_01 = "kubeadm join …"\n', [("bad-value", 2)]),
        ("[default]\nSYSLOG_HOST = a#b\n", [("value-cut", 2)]),
        ("[default]\nSYSLOG_HOST = a # b\n", []),
        ('[default]\nSYSLOG_HOST = "a" # a "b"\n', [("comment-in-value", 2)]),
        ("[default]\nSYSLOG_HOST =\na\n", [("value-on-next-line", 2)]),
        ("[default]\nTIMEZONE = UTC\nTIMEZONE = GMT\n", [("key-twice", 2)]),
        ("[pc7]\nLIKE = a\nLIKE = a\n[a]\nTIMEZONE = GMT\n", []),
        ("[pc7]\nLIKE = nosuch\n", [("like-unknown", 2)]),
        ("[default]\nLIKE = a\n[a]\nTIMEZONE = GMT\n", [("like-in-default", 2)]),
        ("[a]\nLIKE = b\n[b]\nLIKE = a\n", [("like-cycle", 1), ("like-cycle", 3)]),
        ("[x]\nLIKE = a\n[a]\nLIKE = a\n[y]\nLIKE = x\n", [("like-cycle", 3)]),
        ("[a]\nTIMEZONE = UTC\n[A]\nTIMEZONE = GMT\n", [("duplicate-section", 3)]),
        ("[*]\nTIMEZONE = UTC\n[pc*]\nTIMEZONE = GMT\n", [("shadowed-section", 3)]),
        ("[pc*]\nTIMEZONE = UTC\n[*]\nTIMEZONE = GMT\n", []),
        ("[pc?]\nTIMEZONE = UTC\n[pc*]\nTIMEZONE = GMT\n", []),
        ("[*]\nTIMEZONE = UTC\n[pc*]\nTIMEZONE = GMT\n[x]\nLIKE = pc*\n", []),
        ("[02-1b-44-11-3a-b7]\nTIMEZONE = UTC\n", [("unreachable-section", 1)]),
        ("[192.0.2.0/24]\nTIMEZONE = UTC\n", [("unreachable-section", 1)]),
        ("[room one]\nTIMEZONE = UTC\n", [("unreachable-section", 1)]),
        ("[room one]\nTIMEZONE = UTC\n[pc7]\nLIKE = room one\n", []),
        ('[default]\nRCFILE_01 = "a"\nRCFILE_02 = "b"\nRCFILE_10 = "c"\n', []),
        ('[default]\nRCFILE_2 = "a"\nRCFILE_10 = "b"\n', [("order-width", 2)]),
        ('[default]\nRCFILE_1 = "a"\nRCFILE_01 = "b"\n', [("order-tie", 3)]),
        ('[default]\nRCFILE_SSH = "a"\nRCFILE_01 = "b"\n', [("order-no-number", 2)]),
        ('[default]\nRCFILE_1 = "a"\nRCFILE_1A = "b"\n', [("order-prefix", 2)]),
        ("[default]\nSYSLOG_HOST = it's\n", [("stray-quote", 2), ("text-behind-value", 2)]),
        ("[default]\nTIMEZONE = UTC\ninclude nosuch\n", [("include-missing", 3)]),
    ],
)
def test_what_is_found(text: str, found: list[tuple[str, int]]) -> None:
    assert places(text) == found


def test_all_problems_at_once() -> None:
    text = (
        "[default]\nSYSLOG_HOST = a=b\n[spare]\n[pc7]\noops\nTIMEZONE = UTC\npc8]\n"
        "[pc[0-9]]\nTIMEZONE: UTC\nHOSTNAME = a\n=\nSEARCH_DOMAIN =\n[x]\nTIMEZONE = UTC\n"
    )
    assert places(text) == [
        ("stray-equals", 2),
        ("empty-section", 3),
        ("no-equals", 5),
        ("no-equals", 7),
        ("bad-header", 8),
        ("no-equals", 9),
        ("stray-equals", 11),
        ("no-value", 13),
    ]
    assert {problem.outcome for problem in find(text)} == {Outcome.STOPS}


@pytest.mark.parametrize(
    ("key", "meant"),
    [("HOSTNAM", "HOSTNAME"), ("RCFIL_07_X", "RCFILE_07_X"), ("RCFILE07", "RCFILE_07"),
     ("KEEP_SYSTEM_SERVICE", "KEEP_SYSTEM_SERVICES"), ("PREINT_1", "PREINIT_1")],
)  # fmt: skip
def test_did_you_mean(key: str, meant: str) -> None:
    (problem,) = find(f"[default]\n{key} = x\n")
    assert f"Did you mean {meant}?" in problem.hint


@pytest.mark.parametrize(
    "value",
    [
        "kubeadm join --token abcdef.0123456789abcdef 10.9.0.20:6443",
        "curl https://user:hunter2@example.org/",
        "echo password=hunter2",
        "echo '-----BEGIN OPENSSH PRIVATE KEY-----'",
    ],
)
def test_secrets_are_told_and_not_repeated(value: str) -> None:
    (problem,) = find(f'[default]\nRCFILE_01 = "{value}"\n')
    assert problem.code == "secret"
    assert "abcdef.0" not in problem.excerpt
    assert "hunter2" not in problem.excerpt.replace("hunter2 ", "")


def test_a_template_with_the_secret_elsewhere_holds_none(tmp_path: Path) -> None:
    conf = tmp_path / "lts.conf"
    conf.write_text('# jinja2\n[default]\nRCFILE_01 = "kubeadm join --token {{ secrets.t }} x"\n')
    result = CliRunner().invoke(lts, ["check", str(conf), "--strict"])
    assert (result.exit_code, result.stdout) == (0, "")


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c["stopped"] or c["crashes"] or c.get("echoed")],
    ids=lambda case: case["slug"],
)
def test_whatever_goes_wrong_in_ltsp5_is_an_error(case: dict[str, Any]) -> None:
    included = {path.encode(): text.encode() for path, text in case.get("includes", {}).items()}

    def read_include(path: bytes) -> Included | None:
        if path == b"/etc/lts.d":
            return Included(path, path.decode(), None)
        data = included.get(path)
        return None if data is None else Included(path, path.decode(), data)

    main = Included("main", "lts.conf", case["conf"].encode("utf-8", "surrogateescape"))
    assert any(problem.severity == "error" for problem in lint(main, read_include))


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_exit_codes(tmp_path: Path) -> None:
    good = write(tmp_path / "good", "[default]\nTIMEZONE = UTC\n")
    warning = write(tmp_path / "warning", "[default]\nHOSTNAM = x\n")
    bad = write(tmp_path / "bad", "[default]\n")
    for arguments, status in (
        ([good], 0),
        ([warning], 0),
        ([warning, "--strict"], 1),
        ([bad], 1),
        ([good, bad], 1),
        ([str(tmp_path / "nosuch")], 2),
    ):
        assert CliRunner().invoke(lts, ["check", *arguments]).exit_code == status


def test_formats(tmp_path: Path) -> None:
    bad = write(tmp_path / "a,b.conf", "[default]\nSYSLOG_HOST = 100%=x\n")
    text = CliRunner().invoke(lts, ["check", bad])
    assert f"{bad}:2:19: error: an = that belongs to no key [stray-equals]" in text.stdout
    assert "2 | SYSLOG_HOST = 100%=x" in text.stdout
    assert "fix: " in text.stdout
    github = CliRunner().invoke(lts, ["check", bad, "--format", "github"])
    place = str(tmp_path / "a%2Cb.conf")
    assert github.stdout.startswith(f"::error file={place},line=2,col=19,title=lts.conf%3A stray-")
    report = json.loads(CliRunner().invoke(lts, ["check", bad, "--format", "json"]).stdout)
    assert (report["errors"], report["warnings"]) == (1, 0)
    assert report["problems"][0]["line"] == 2
    assert report["problems"][0]["ltsp5"] == "stops"


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("1GiB", "Write 1G."),
        ("512MB", "Write 512M."),
        ("1.5G", "Write 1536M."),
        ("2T", "Write 2048G."),
        ("512 M", "Write 512M."),
        ("524288K", "Write 512M."),
        ("half", "Write 512M, 2G or 30%."),
        ("101%", "Write 512M, 2G or 30%."),
    ],
)
def test_a_size_is_mended_in_the_remedy(word: str, remedy: str) -> None:
    (problem,) = find(f'[default]\nOVERLAY_SIZE = "{word}"\n')
    assert (problem.severity, problem.line, problem.hint) == ("error", 2, remedy)
    mended = remedy.removeprefix("Write ").rstrip(".").split(",")[0]
    assert find(f"[default]\nOVERLAY_SIZE = {mended}\n") == []


def test_a_disk_without_nofail_is_mended_in_the_remedy() -> None:
    line = "LABEL=data /srv/data ext4 noatime 0 2"
    (problem,) = find(f'[default]\nFSTAB_07 = "{line}"\n')
    assert (problem.severity, problem.line) == ("warning", 2)
    assert "FSTAB_07: without nofail a machine on which LABEL=data is missing" in problem.message
    assert problem.hint.startswith('Write "LABEL=data /srv/data ext4 noatime,nofail 0 2";')
    assert find('[default]\nFSTAB_07 = "LABEL=data /srv/data ext4 noatime,nofail 0 2"\n') == []


def test_a_family_without_its_number_is_named_with_one() -> None:
    for key in ("FSTAB", "HOSTS", "MODULE", "CRONTAB"):
        (found,) = [
            one for one in find(f"[default]\n{key} = x\n") if one.code == "unknown-variable"
        ]
        assert found.hint.startswith(f"Did you mean {key}_01? ")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["[default]\nTIMEZONE = UTC\n", "# site\n[default]\nA = 1\n"])
def test_utf_16_is_called_so_first(encoding: str, text: str) -> None:
    data = ("\ufeff" + text).encode(encoding)
    first = lint(Included("main", "lts.conf", data), read_nothing)[0]
    assert (first.code, first.severity, first.line) == ("byte-order-mark", "error", 1)
    assert first.message.startswith("the file is UTF-16")
    assert "iconv -f UTF-16" in first.hint
