import json
import os
from pathlib import Path
from typing import Any

import pytest

from server.errors import ServerError
from server.simulate.profile import DEFAULT, Fetch, Reads, load_profile, parse_profile

D = "ab" * 32


def line(**fields: Any) -> str:
    return json.dumps(fields)


def fetch(t: float, path: str, **fields: Any) -> str:
    return line(**{"t": t, "via": "tftp", "path": path, "bytes": 9, "options": "", **fields})


def reads(t: float, *found: list[int], connection: int = 1) -> str:
    export = f"/opt/ltsp/amd64@{D}"
    return line(t=t, via="nbd", export=export, size=1000, connection=connection, reads=list(found))


HEAD = line(format=1, node="10.9.0.11", started=1.0)


def test_steps_in_the_order_in_which_they_began() -> None:
    profile = parse_profile(
        [
            HEAD,
            fetch(2.0, f"/ltsp/amd64/@{D}/vmlinuz", options="blksize=1024 tsize=0"),
            fetch(1.0, "/ltsp/amd64/grub/i386-pc/core.0", options="tsize=0", stopped=True),
            reads(4.0, [4_000_000, 0, 512], [4_000_000, 512, 512], [4_100_000, 8, 4]),
            fetch(5.0, "/ltsp/amd64/lts.conf", via="http"),
            reads(6.0, [6_000_000, 100, 50]),
        ],
        "x",
    )
    assert (profile.image, profile.digest, profile.export_size) == ("amd64", D, 1000)
    assert profile.phases == ("loader", "kernel", "root", "ltsconf")
    core, kernel, first, conf, second = profile.steps
    assert isinstance(core, Fetch)
    assert (core.probe, core.tsize, core.blksize) == (True, True, 0)
    assert isinstance(kernel, Fetch)
    assert kernel.path == "/ltsp/{image}/@{digest}/vmlinuz"
    assert (kernel.blksize, kernel.windowsize, kernel.probe) == (1024, 0, False)
    assert isinstance(first, Reads)
    assert first.groups == (((0, 512), (512, 512)), ((8, 4),))
    assert first.times == (4.0, 4.1)
    assert (first.size, first.count) == (1028, 3)
    assert isinstance(conf, Fetch)
    assert conf.via == "http"
    assert isinstance(second, Reads)
    assert profile.bytes == 9 * 3 + 1028 + 50


def test_reads_of_two_connections_are_no_group() -> None:
    profile = parse_profile(
        [HEAD, reads(1.0, [1_000_000, 0, 4]), reads(1.0, [1_000_000, 4, 4], connection=2)], "x"
    )
    (step,) = profile.steps
    assert isinstance(step, Reads)
    assert step.groups == (((0, 4),), ((4, 4),))


def test_a_root_of_another_size() -> None:
    profile = parse_profile([HEAD, reads(1.0, [1_000_000, 0, 400], [1_000_001, 600, 400])], "x")
    assert profile.fitted(1000) is profile
    (step,) = profile.fitted(700).steps
    assert isinstance(step, Reads)
    for group in step.groups:
        for offset, length in group:
            assert length == 400
            assert 0 <= offset <= 300
    (step,) = profile.fitted(100).steps
    assert isinstance(step, Reads)
    assert step.groups == (((0, 100),), ((0, 100),))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "nothing was fetched"),
        ([HEAD], "nothing was fetched"),
        ([line(format=2)], "format 2, not 1"),
        (["{"], "x:1: not a line"),
        ([HEAD, "[]"], "x:2: not a line"),
        ([HEAD, line(via="ftp", path="/a", t=1, bytes=1)], "x:2: not a line"),
        ([HEAD, fetch(1.0, "relative")], "x:2: not a line"),
        ([HEAD, reads(1.0, [1, -5, 4])], "x:2: not a line"),
    ],
)
def test_what_is_no_recording(lines: list[str], said: str) -> None:
    with pytest.raises(ServerError, match=said) as caught:
        parse_profile(lines, "x")
    assert caught.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="--profile"):
        load_profile(tmp_path / "x")


def test_the_profile_that_is_shipped() -> None:
    profile = load_profile(DEFAULT)
    assert {"loader", "menu", "kernel", "initrd", "ltsconf", "root"} <= set(profile.phases)
    assert profile.export_size > 100_000_000
    read = sum(step.size for step in profile.steps if isinstance(step, Reads))
    assert read > 50_000_000
    assert max(o + n for s in profile.steps if isinstance(s, Reads) for g in s.groups for o, n in g)


def test_a_profile_that_is_no_file_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, says in (
        (tmp_path / "pipe", "nobody writes into"),
        (Path("/dev/zero"), "is no file"),
        (tmp_path / "none", "No such file or directory"),
    ):
        with pytest.raises(ServerError, match=says) as caught:
            load_profile(path)
        assert caught.value.hint
