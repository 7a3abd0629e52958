import os
from pathlib import Path

import pytest

from imagebuild.chroot.kernel import kernel_version
from imagebuild.chroot.listing import render_listing
from imagebuild.errors import BuildError


def test_a_line_for_each_file_sorted(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir(mode=0o755)
    (tmp_path / "b/file").write_text("123")
    (tmp_path / "b/file").chmod(0o4755)
    (tmp_path / "a").symlink_to("b/file")
    os.mkfifo(tmp_path / "c", 0o600)
    tmp_path.chmod(0o755)
    owner = f"{os.getuid()} {os.getgid()}"
    assert render_listing(tmp_path).splitlines() == [
        f"0755 {owner} d 0 /",
        f"0777 {owner} l 0 /a -> b/file",
        f"0755 {owner} d 0 /b",
        f"4755 {owner} f 3 /b/file",
        f"0600 {owner} p 0 /c",
    ]


def test_a_newline_in_a_name(tmp_path: Path) -> None:
    (tmp_path / "a\nb").write_text("")
    with pytest.raises(BuildError, match="newline in its name"):
        render_listing(tmp_path)


def test_the_one_kernel(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    with pytest.raises(BuildError, match="holds 0 kernels"):
        kernel_version(tmp_path)
    (tmp_path / "boot/vmlinuz-6.1.0-49-cloud-amd64").write_text("")
    (tmp_path / "boot/vmlinuz-link").symlink_to("vmlinuz-6.1.0-49-cloud-amd64")
    assert kernel_version(tmp_path) == "6.1.0-49-cloud-amd64"
    (tmp_path / "boot/vmlinuz-6.12").write_text("")
    with pytest.raises(BuildError, match=r"holds 2 kernels: 6\.1\.0-49-cloud-amd64, 6\.12"):
        kernel_version(tmp_path)
