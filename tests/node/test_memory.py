"""What the machine's memory is promised to: sizes add up to what there is, less a reserve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from server.ltsconf.shapes import check_size

PLAN = """
plan_memory "$BOOTFARM_STATE/lts.conf" "$IMAGE" || exit 3
echo "$memory_reserve $memory_run $memory_shm $MEMORY_DEV_MIB $memory_overlay $memory_containers"
echo "$memory_trouble"
"""
NAMES = ("reserve", "run", "shm", "dev", "overlay", "containers")


def plan(node: Any, total: int, image: int = 0, **values: str) -> tuple[Mapping[str, int], str]:
    """The shares in MiB, and what could not be as lts.conf says."""
    node.write("proc/meminfo", f"MemTotal: {total * 1024 + 7} kB\nMemAvailable: 1 kB\n")
    node.flat(**values)
    lib = node.lib("lib/flat", "lib/state", "lib/memory")
    numbers, trouble = node.run(lib + PLAN, IMAGE=str(image)).stdout.split("\n")[:2]
    return dict(zip(NAMES, map(int, numbers.split()), strict=True)), trouble


@pytest.mark.parametrize("total", [490, 978, 1990, 7900, 257_000])
@pytest.mark.parametrize("image", [0, 250])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"OVERLAY_SIZE": "30%"},
        {"CONTAINERS_SIZE": "90%"},
        {"OVERLAY_SIZE": "100G", "CONTAINERS_SIZE": "300G"},
        {"MEMORY_RESERVE": "40%", "JOURNAL_SIZE": "100", "SHM_SIZE": "10%"},
        {"MEMORY_RESERVE": "100%"},
        {"SHM_SIZE": "100%"},
    ],
    ids=lambda values: "-".join(values) or "default",
)
def test_no_mib_is_promised_twice(
    node: Any, total: int, image: int, values: dict[str, str]
) -> None:
    shares, trouble = plan(node, total, image, **values)
    files = sum(shares[name] for name in NAMES[1:])
    if "out of the reserve" in trouble or "SHM_SIZE" in values:
        assert min(shares["overlay"], shares["containers"]) > 0
    else:
        assert image + files + shares["reserve"] <= total
    assert shares["overlay"] >= 16
    assert shares["containers"] >= 16


def test_the_usual_shares(node: Any) -> None:
    shares, trouble = plan(node, 2000)
    assert shares == {
        "reserve": 500,
        "run": 200,
        "shm": 125,
        "dev": 8,
        "overlay": 466,
        "containers": 701,
    }
    assert trouble == ""


def test_variables_are_obeyed(node: Any) -> None:
    shares, trouble = plan(
        node,
        4000,
        MEMORY_RESERVE="1G",
        OVERLAY_SIZE="0300M",
        CONTAINERS_SIZE="1000",
        JOURNAL_SIZE="512m",
        SHM_SIZE="10%",
    )
    assert trouble == ""
    assert (shares["reserve"], shares["overlay"], shares["containers"]) == (1024, 300, 1000)
    assert (shares["run"], shares["shm"]) == (544, 400)


def test_the_one_that_is_not_named_gets_the_rest(node: Any) -> None:
    shares, _ = plan(node, 2000, OVERLAY_SIZE="1000")
    assert (shares["overlay"], shares["containers"]) == (1000, 167)
    shares, _ = plan(node, 2000, CONTAINERS_SIZE="1000")
    assert (shares["overlay"], shares["containers"]) == (167, 1000)


def test_more_than_there_is_is_told(node: Any) -> None:
    shares, trouble = plan(node, 2000, OVERLAY_SIZE="2G", CONTAINERS_SIZE="2G")
    assert "OVERLAY_SIZE and CONTAINERS_SIZE ask for 4096 MiB, and there are 1167" in trouble
    assert shares["overlay"] + shares["containers"] <= 1167


@pytest.mark.parametrize(
    "word", ["", "x", "-1", "1T", "1.5G", "0", "0%", "$(reboot)", "99999999G", "G", "%", "101%"]
)
def test_a_size_that_is_none_is_told_and_the_default_used(node: Any, word: str) -> None:
    shares, trouble = plan(node, 2000, OVERLAY_SIZE=word)
    assert shares["overlay"] == 466
    assert f"OVERLAY_SIZE is '{word}', no size: write 512M, 2G or 30%" in trouble


def test_a_machine_without_meminfo_has_no_plan(node: Any) -> None:
    node.write("proc/meminfo", "")
    node.flat()
    lib = node.lib("lib/flat", "lib/state", "lib/memory")
    assert node.run(lib + PLAN, check=False, IMAGE="0").returncode == 3


def test_the_root_is_mounted_with_its_share(node: Any) -> None:
    node.write("proc/meminfo", f"MemTotal: {2000 * 1024} kB\n")
    node.flat()
    assert node.boot("overlay_options").stdout == "mode=0755,size=466m\n"
    node.state(image_mib="300")
    assert node.boot("overlay_options").stdout == "mode=0755,size=346m\n"


def test_an_image_that_leaves_nothing_for_the_overlay_stays_on_the_server(node: Any) -> None:
    node.flat()
    node.write("proc/meminfo", f"MemTotal: {1000 * 1024} kB\nMemAvailable: {950 * 1024} kB\n")
    # 256 in reserve, 100 for /run, 62 for /dev/shm, 8 for /dev, 128 to write to.
    assert node.boot(f"fits_into_ram {446 << 20}").returncode == 0
    assert node.boot(f"fits_into_ram {447 << 20}").returncode == 1


def mounts(node: Any) -> list[str]:
    node.write("proc/meminfo", f"MemTotal: {2000 * 1024} kB\n")
    node.stub("mount", 'echo "$*" >>"$BOOTFARM_ROOT/mounts"')
    node.apply("memory")
    return str(node.read("mounts")).replace(str(node.root), "").splitlines()


def test_what_is_in_memory_is_limited_before_systemd_comes(node: Any) -> None:
    node.flat(JOURNAL_SIZE="100M")
    assert mounts(node) == [
        "-o remount,nosuid,nodev,noexec,mode=0755,size=200m /run",
        "-o remount,nosuid,mode=0755,size=8m /dev",
        "-t tmpfs -o nosuid,nodev,mode=1777,size=125m tmpfs /dev/shm",
    ]
    assert (node.root / "run/systemd/system/tmp.mount").readlink().as_posix() == "/dev/null"
    written = [*(node.root / "run/systemd/journald.conf.d").iterdir()]
    assert [path.read_text() for path in written] == ["[Journal]\nRuntimeMaxUse=100M\n"]
    assert sorted(["bootfarm.conf", written[0].name])[1] == written[0].name  # read last
    assert node.read("run/bootfarm/containers-mib") == "701\n"


def test_what_fstab_or_the_recipe_says_stays(node: Any) -> None:
    node.flat()
    node.write("etc/fstab", "tmpfs /tmp tmpfs size=1g 0 0\ntmpfs /dev/shm tmpfs size=1g 0 0\n")
    assert not any("shm" in line for line in mounts(node))
    assert not (node.root / "run/systemd/system/tmp.mount").exists()
    node.write("etc/fstab", "")
    node.write("etc/systemd/system/tmp.mount", "[Mount]\n")
    node.apply("memory")
    assert not (node.root / "run/systemd/system/tmp.mount").is_symlink()


def test_nonsense_is_told_on_the_page(node: Any) -> None:
    node.flat(SHM_SIZE="plenty")
    node.write("proc/meminfo", f"MemTotal: {2000 * 1024} kB\n")
    node.stub("mount", "true")
    assert "SHM_SIZE is 'plenty', no size" in node.apply("memory").stderr


STORES = ("/var/lib/docker", "/var/lib/containerd")


@pytest.mark.parametrize(
    ("runtime", "expected"), [("docker", (700, 100)), ("containerd", (100, 700))]
)
def test_stores_share_what_containers_get(
    node: Any, runtime: str, expected: tuple[int, int]
) -> None:
    node.state(containers_mib="800")
    if runtime == "docker":
        node.write("usr/sbin/dockerd", "", mode=0o755)
    script = '. "$BOOTFARM_ROOT/usr/lib/bootfarm/volumes"\nstore_mib "$1" "$2"'
    found = tuple(int(node.run(script, store, "2").stdout) for store in STORES)
    assert found == expected
    for store in STORES:
        assert node.run(script, store, "1").stdout == "800\n"


def test_lts_check_and_the_node_read_the_same_sizes(node: Any) -> None:
    numbers = ("", "0", "00", "1", "010", "512", "100", "101", "9999999", "00000001", "10000000")
    words = [f"{number}{unit}" for number in numbers for unit in ("", "M", "m", "G", "g", "%", "K")]
    words += ["1.5G", "-1", "+1", " 1", "1 G", "1GB", "1M%", "0x10", "½"]
    node.write("words", "\n".join(words) + "\n")
    script = (
        node.lib("lib/memory") + "while IFS= read -r word; do\n"
        'size=$(size_mib "$word" 1000) && [ "$size" -gt 0 ] && echo yes || echo no\n'
        'done <"$BOOTFARM_ROOT/words"'
    )
    taken = dict(zip(words, node.run(script).stdout.split(), strict=True))
    checked = {word: "no" if check_size(word) else "yes" for word in words}
    assert taken == checked
    assert {"yes", "no"} == set(taken.values())
