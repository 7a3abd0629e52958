"""The root that is checked as it is read: the step of the initramfs, and verityroot's parts."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagebuild.stages.builder import SHARED
from tests.node.conftest import ROOTFS, Server

SOURCES = ROOTFS / "usr/src/bootfarm"
FLAGS = ["-Wall", "-Wextra", "-Werror", '-DPROGRAM="verityroot"', f"-I{SOURCES}"]
SANITIZED = ["-O1", "-g", "-fsanitize=address,undefined", f"-I{SOURCES / 'verity'}"]
ROOT, SALT = "a1" * 32, "b2" * 32
TABLE = f"1,4096,4096,60941,60942,sha256,{ROOT},{SALT}"
USAGE = "usage: verityroot open NAME DEVICE TABLE"
MAC = "52:54:00:00:00:01"

TABLES = """
#include <errno.h>
#include <stdio.h>
#include "dmverity.h"

int main(int argc, char **argv)
{
	struct table table;

	if (argc != 2 || read_table(argv[1], "/dev/nbd0", &table) < 0)
		return errno == EINVAL ? 1 : 99;
	printf("0 %llu verity %s", (unsigned long long)table.sectors, table.parameters);
	return 0;
}
"""
UEVENTS = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "corruption.h"

static const char *const names[] = {"-", "block", "removed"};

/* Reads uevents of standard input, each behind its length as a line; the words after each. */
int main(void)
{
	static struct corruption corruption;
	char line[32], words[WORDS_MAX];
	struct block block;

	while (fgets(line, sizeof(line), stdin) != NULL) {
		size_t length = strtoul(line, NULL, 10);
		char *data = malloc(length);
		enum news news;

		if (fread(data, 1, length, stdin) != length)
			return 1;
		news = read_uevent(data, length, 3, &block);
		if (news == NEWS_BLOCK)
			note_block(&corruption, &block);
		describe_blocks(&corruption, words);
		printf("%s|%s\\n", names[news], words);
		free(data);
	}
	return 0;
}
"""
BEACON = """
#include <arpa/inet.h>
#include <stdlib.h>
#include "beacon.h"

int main(int argc, char **argv)
{
	struct reporter reporter = {.address = "127.0.0.1", .mac = argv[2], .boot = "one"};

	reporter.server.sin_family = AF_INET;
	reporter.server.sin_port = htons((uint16_t)atoi(argv[1]));
	inet_pton(AF_INET, "127.0.0.1", &reporter.server.sin_addr);
	return argc == 4 && report_corruption(&reporter, argv[3], 2) ? 0 : 1;
}
"""


def compile_part(folder: Path, name: str, main: str) -> Path:
    """A program of that main function and one of verityroot's sources."""
    (folder / "main.c").write_text(main)
    program = folder / name
    sources = [folder / "main.c", SOURCES / f"verity/{name}.c", SOURCES / "clock.c"]
    subprocess.run(["gcc", *FLAGS, *SANITIZED, "-o", program, *sources], check=True)
    return program


def test_verityroot_compiles_without_a_warning_and_says_how_it_is_used(tmp_path: Path) -> None:
    program = tmp_path / "verityroot"
    sources = [*sorted((SOURCES / "verity").glob("*.c")), *(SOURCES / name for name in SHARED)]
    subprocess.run(["gcc", "-O2", *FLAGS, "-static", "-o", program, *sources], check=True)
    dynamic = subprocess.run(["readelf", "--dynamic", program], capture_output=True, text=True)
    assert "no dynamic section" in dynamic.stdout
    watch = ["watch", "/dev/dm-0", "10.9.0.1", "8080", MAC, "one"]
    for words in (
        *([], ["open"], ["open", "x", "/dev/nbd0"], ["close"], ["fly", "x"], watch[:-1]),
        ["watch", "/dev/sda", *watch[2:]],
        ["watch", "/dev/dm-0", "not-an-ip", *watch[3:]],
        ["watch", "/dev/dm-0", "10.9.0.1", "0", *watch[4:]],
    ):
        done = subprocess.run([program, *words], capture_output=True, text=True)
        assert done.returncode == 2, words
        assert USAGE in done.stderr
    done = subprocess.run([program, "open", "x", "/dev/x", "1,2"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "verityroot: bootfarm.verity=1,2 is no table of dm-verity\n",
    )
    short = tmp_path / "short"
    short.write_bytes(bytes(4096))
    done = subprocess.run([program, "open", "x", short, TABLE], capture_output=True, text=True)
    assert done.returncode == 3
    assert "short has 4096 bytes, and with its hash tree it has to have more than 2496" in (
        done.stderr
    )


@pytest.fixture(scope="module")
def read_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_part(tmp_path_factory.mktemp("table"), "dmverity", TABLES)


def test_the_word_becomes_dm_veritys_table(read_table: Path) -> None:
    done = subprocess.run([read_table, TABLE], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"0 487528 verity 1 /dev/nbd0 /dev/nbd0 4096 4096 60941 60942 sha256 {ROOT} {SALT}"
    )


@pytest.mark.parametrize(
    "words",
    [
        "",
        ",",
        ",,,,,,,",
        TABLE + ",x",
        TABLE[2:],
        TABLE.replace("1,", "2,", 1),
        TABLE.replace("4096", "4097", 1),
        TABLE.replace("4096", "0", 1),
        TABLE.replace("4096", "131072", 1),
        TABLE.replace("60941", "0"),
        TABLE.replace("60941", "-1"),
        TABLE.replace("60941", " 60941"),
        TABLE.replace("60941", "99999999999999999999"),
        TABLE.replace("60942", "60940"),
        TABLE.replace("sha256", "sha1"),
        TABLE.replace(ROOT, ROOT[1:]),
        TABLE.replace(ROOT, ROOT.upper()),
        TABLE.replace(SALT, "-"),
        TABLE.replace(SALT, SALT + " 1 ignore_corruption"),
        TABLE + "0" * 600,
    ],
)
def test_what_is_no_table(read_table: Path, words: str) -> None:
    done = subprocess.run([read_table, words], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


@pytest.fixture(scope="module")
def uevents(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    program = compile_part(tmp_path_factory.mktemp("uevents"), "corruption", UEVENTS)

    def run(*messages: bytes) -> list[str]:
        data = b"".join(b"%d\n%s" % (len(message), message) for message in messages)
        done = subprocess.run([program], input=data, capture_output=True, check=True)
        return done.stdout.decode().splitlines()

    return run


def uevent(*more: str, action: str = "change", device: str = "dm-3") -> bytes:
    """As the kernel sends it."""
    words = [f"{action}@/devices/virtual/block/{device}", f"ACTION={action}", "SUBSYSTEM=block"]
    words += [*more, "MAJOR=253", "MINOR=3", f"DEVNAME={device}", "DEVTYPE=disk", "SEQNUM=1"]
    return "".join(f"{word}\0" for word in words).encode()


def test_uevents_of_wrong_blocks_are_gathered(uevents: Callable[..., list[str]]) -> None:
    wrong = "DM_VERITY_ERR_BLOCK_NR="
    assert uevents(
        uevent(),
        uevent(f"{wrong}0,17089"),
        uevent(f"{wrong}0,17089"),
        uevent(f"{wrong}1,61004"),
        uevent(f"{wrong}0,5", device="dm-30"),
        uevent(f"{wrong}0,6")[:-60],
        uevent(f"{wrong}2,7"),
        uevent(f"{wrong}0,"),
        uevent(f"{wrong}0,8x"),
        uevent(wrong),
        b"",
        b"no NUL",
        b"\0\0\0",
        uevent(action="remove", device="dm-4"),
        uevent(action="remove"),
    ) == [
        "-|",
        "block|data 17089",
        "block|data 17089",
        "block|data 17089, hash 61004",
        *["-|data 17089, hash 61004"] * 10,
        "removed|data 17089, hash 61004",
    ]


def test_words_of_many_blocks_are_bounded(uevents: Callable[..., list[str]]) -> None:
    """300 bytes are what the server takes of a fact."""
    most = 999_999_999_999_999_999
    messages = [uevent(f"DM_VERITY_ERR_BLOCK_NR=1,{most - number}") for number in range(40)]
    last = uevents(*messages)[-1].partition("|")[2]
    assert len(last) < 300
    assert last.startswith(f"hash {most}, hash {most - 1}, ")
    named = last.count("hash ")
    assert last.endswith(f" and {40 - named} more")


@pytest.fixture(scope="module")
def beacon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_part(tmp_path_factory.mktemp("beacon"), "beacon", BEACON)


def test_the_report_is_a_beacon_with_its_facts(beacon: Path, server: Server) -> None:
    words = "data 17089, hash 61004"
    done = subprocess.run([beacon, str(server.port), MAC, words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    said = "2 blocks of the root, read from 127.0.0.1, are not what the kernel command line says"
    whole = {
        **{"mac": MAC, "phase": "root", "status": "error", "boot": "one"},
        **{"cause": "image_corrupt", "detail": f"{said}: {words}"},
        **{"corrupted": words, "served": "127.0.0.1"},
    }
    assert server.beacons == [whole]
    server.unknown = {"corrupted", "served"}  # as an older server does
    done = subprocess.run([beacon, str(server.port), MAC, words], capture_output=True, text=True)
    assert done.returncode == 0
    del whole["corrupted"], whole["served"]
    assert server.beacons[1:] == [whole]


def test_a_server_that_is_away_is_told_later(beacon: Path, server: Server) -> None:
    port = str(server.port)
    server.close()
    done = subprocess.run([beacon, port, MAC, "data 1"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")


def give_root(node: Any, status: int, said: str) -> None:
    """nbdroot and verityroot that write down how they were called."""
    for name in ("nbdroot", "verityroot"):
        node.write(
            f"usr/lib/bootfarm/{name}",
            f'#!/bin/sh\necho "{name} $*" >>"$BOOTFARM_ROOT/calls"\n'
            f'[ "$1" != open ] || {{ echo "{said}"; exit {status}; }}\n',
            mode=0o755,
        )
    node.state(server="10.9.0.1", nbd="10809", http="8080", export="/opt/ltsp/x", mac=MAC)
    node.state(boot_id="one", root_mode="live NBD")


QUIET = "modprobe() { :; }\nnbd_ready() { :; }\nsleep() { :; }\n"


def test_without_the_word_nothing_is_set_up(node: Any) -> None:
    give_root(node, 1, "never")
    done = node.boot(f"{QUIET}verify_root && root_device")
    assert (done.returncode, done.stdout) == (0, "/dev/nbd0\n")
    assert not (node.root / "calls").exists()


def test_the_root_is_the_checked_device(node: Any) -> None:
    give_root(node, 0, "/dev/dm-0")
    node.write("proc/cmdline", f"quiet bootfarm.verity=old bootfarm.verity={TABLE}\n")
    done = node.boot(f"{QUIET}verify_root && root_device && state_get root-mode")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["/dev/dm-0", "live NBD, verified"]
    attached, opened, watched = node.read("calls").splitlines()
    assert attached.startswith("nbdroot attach /dev/nbd0 10.9.0.1 10809 /opt/ltsp/x ")
    assert opened == f"verityroot open bootfarm-root /dev/nbd0 {TABLE}"
    assert watched == f"verityroot watch /dev/dm-0 10.9.0.1 8080 {MAC} one"


@pytest.mark.parametrize(
    ("status", "cause", "words"),
    [
        (3, "verity_mismatch", "the image is not the one that the kernel command line names: why"),
        (4, "no_verity", "the image cannot be checked: why"),
        (2, "command_line", "bootfarm.verity= cannot be read: why"),
    ],
)
def test_an_image_that_is_refused_is_let_go_of_and_told(
    node: Any, served: Callable[[], Server], status: int, cause: str, words: str
) -> None:
    server = served()
    give_root(node, status, "why")
    node.state(server="127.0.0.1", http=str(server.port))
    node.write("proc/cmdline", f"bootfarm.verity={TABLE}\n")
    done = node.boot(f"{QUIET}verify_root || tell_failure root; root_device")
    assert done.stdout.splitlines()[-1] == "/dev/nbd0"
    (told,) = server.beacons
    assert (told["phase"], told["status"], told["cause"]) == ("root", "error", cause)
    assert told["detail"] == words
    assert node.read("calls").splitlines()[-1] == "nbdroot detach /dev/nbd0"


def test_the_farms_next_server_may_have_the_image_right(
    node: Any, served: Callable[[], Server]
) -> None:
    """What the first one serves is refused and told; each server is tried once."""
    server = served()
    give_root(node, 0, "/dev/dm-0")
    refused = """#!/bin/sh
echo "verityroot $*" >>"$BOOTFARM_ROOT/calls"
[ "$1" = open ] || exit 0
[ "$(cat "$BOOTFARM_ROOT/run/bootfarm/nbd")" = "$GOOD" ] || { echo why; exit 3; }
echo /dev/dm-0
"""
    node.write("usr/lib/bootfarm/verityroot", refused, mode=0o755)
    node.write("proc/cmdline", f"bootfarm.verity={TABLE}\n")
    port = server.port
    servers = f"127.0.0.1:{port}:10809 127.0.0.1:{port}:10810"
    node.state(server="127.0.0.1", http=str(port), nbd="10809", servers=servers)
    done = node.boot(f"{QUIET}verify_root && root_device", GOOD="10810")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "/dev/dm-0"
    assert [told["cause"] for told in server.beacons] == ["verity_mismatch"]
    attached = [line for line in node.read("calls").splitlines() if " attach " in line]
    assert [line.split()[4] for line in attached] == ["10809", "10810"]
    node.state(nbd="10809", servers=servers)
    (node.root / "run/bootfarm/root-device").unlink()
    done = node.boot(f"{QUIET}verify_root", GOOD="none")
    assert done.returncode == 1
    attached = [line for line in node.read("calls").splitlines() if " attach " in line]
    assert [line.split()[4] for line in attached[2:]] == ["10809", "10810"]
