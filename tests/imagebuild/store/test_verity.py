"""The hash tree against veritysetup: recorded bytes, and the program itself."""

import hashlib
import os
import struct
from pathlib import Path

import pytest

from imagebuild.store.verity import BLOCK, Verity, append_tree
from tests import peers


def make_data(blocks: int) -> bytes:
    """Blocks that all differ, the same at each call."""
    numbers = (struct.pack(">I", number) for number in range(blocks))
    return b"".join(hashlib.sha256(number).digest() * 128 for number in numbers)


@pytest.mark.parametrize(
    ("blocks", "cut", "root", "whole"),
    [
        # Root hash and SHA-256 of what `veritysetup format` of cryptsetup 2.6.1 left, given the
        # same --salt, --uuid, --hash-offset and --data-blocks: no, one, two and three levels.
        (
            *(1, 0, "7e44bf4a856b2e531e4d95c29093d68a7872e50697166b4dba7dd5f5bae02714"),
            "ed6bad22cdca5b785668dd5976ec67739ea29672ede025d3f3f9204fecb16631",
        ),
        (
            *(2, 0, "d628bb1eb58bd8e8764a13c76540d462fdde7de723504a9a59b94fe8936b88ce"),
            "00030ba5f7c170c926a144206e98b995c327450d9e2b8e25e90d3d3ac7b4c900",
        ),
        (
            *(128, 0, "e489c6cf016454397ce463d486af9dca34482fef88a2ff9e1f3d65caf238a192"),
            "141c3319c1c429bf49a2fdb89dae5d5cfbb33b047c79627443a9defd25699f8c",
        ),
        (
            *(129, 0, "f115857961de6f3090dbe1a05f139b0c5b1177ff701d8704d8ea54fe43d2c1b6"),
            "30255008d79f7b4a929e7ecfaf7ad492e6cfc6ce43463f48e70f4b93b9fae989",
        ),
        (
            *(300, 1000, "92598495615979dc6fa2e25bd970152d16f504624b9e347972fdf16dd78f89fb"),
            "2c103e55f58bc17ae71753660c74f4aac474d6d4b0303d2b116ef6e5bb15c273",
        ),
        (
            *(16385, 0, "21ac4a956a205224c89e1ed34e310e6a8743e21a081877b84fe8e600d9c1a5a7"),
            "26b8988fe205644ae54d4715639c65435f2e243e187c76adf40d65a965f37f54",
        ),
    ],
)
def test_the_bytes_are_those_of_veritysetup(
    tmp_path: Path, blocks: int, cut: int, root: str, whole: str
) -> None:
    path = tmp_path / "image"
    path.write_bytes(make_data(blocks)[: blocks * BLOCK - cut])
    verity = append_tree(path)
    assert (verity.data_blocks, verity.hash_start, verity.root) == (blocks, blocks + 1, root)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == whole


def test_other_data_has_another_salt_and_root(tmp_path: Path) -> None:
    found = []
    for name, data in (("one", make_data(3)), ("again", make_data(3)), ("other", make_data(4))):
        (tmp_path / name).write_bytes(data)
        found.append(append_tree(tmp_path / name))
    one, again, other = found
    assert one == again
    assert (tmp_path / "one").read_bytes() == (tmp_path / "again").read_bytes()
    assert one.salt != other.salt
    assert one.root != other.root


def test_an_empty_file_has_no_tree(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="empty"):
        append_tree(tmp_path / "empty")


def test_the_word_of_the_kernel_command_line() -> None:
    assert Verity(60941, 60942, "a" * 64, "b" * 64).argument() == (
        f"bootfarm.verity=1,4096,4096,60941,60942,sha256,{'a' * 64},{'b' * 64}"
    )


@pytest.mark.integration
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_veritysetup_finds_it_right_and_one_flipped_byte_wrong() -> None:
    root = peers.unpack("cryptsetup-bin")
    path = root / "image"
    try:
        path.write_bytes(make_data(300))
        verity = append_tree(path)
        argv = ["/sbin/veritysetup", "verify", "/image", "/image", verity.root]
        argv.append(f"--hash-offset={verity.data_blocks * BLOCK}")
        done = peers.run_in(root, argv)
        assert done.returncode == 0, done.stderr
        with path.open("r+b") as file:
            file.seek(200 * BLOCK)
            file.write(b"X")
        assert peers.run_in(root, argv).returncode != 0
    finally:
        path.unlink(missing_ok=True)
