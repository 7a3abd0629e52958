import subprocess
from pathlib import Path

import pytest

from rack import kvm
from rack.machine import KVM, TCG


def test_cpio_is_what_cpio_reads(tmp_path: Path) -> None:
    files = {"bin": (0o040755, b""), "bin/x": (0o100755, b"hello\n"), "init": (0o100755, b"#!")}
    archive = kvm.pack_cpio(files)
    listing = subprocess.run(
        ["cpio", "--extract", "--make-directories", "--quiet"],
        input=archive,
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    assert listing.stderr == b""
    assert (tmp_path / "bin" / "x").read_bytes() == b"hello\n"
    assert (tmp_path / "bin" / "x").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(("verdict", "options"), [(True, KVM), (False, TCG)])
def test_probe_decides_once_per_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: bool, options: tuple[str, ...]
) -> None:
    asked = []

    def works(kernel: Path, busybox: Path, work: Path) -> bool:
        asked.append(kernel)
        return verdict

    monkeypatch.setenv("BOOTFARM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kvm, "works", works)
    monkeypatch.setattr("os.access", lambda path, mode: True)
    (tmp_path / "vmlinuz").write_bytes(b"kernel")
    for _ in range(2):
        assert kvm.find_accelerator(tmp_path / "vmlinuz", tmp_path / "busybox") == options
    assert len(asked) == 1
    (tmp_path / "vmlinuz").write_bytes(b"another kernel")
    kvm.find_accelerator(tmp_path / "vmlinuz", tmp_path / "busybox")
    assert len(asked) == 2


def test_a_machine_without_kvm_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert kvm.find_accelerator(Path("/nowhere"), Path("/nowhere")) == TCG


@pytest.mark.integration
def test_a_kernel_that_does_not_boot_is_not_kvms_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvm, "PATIENCE", 3.0)
    (tmp_path / "vmlinuz").write_bytes(b"no kernel at all" * 1000)
    (tmp_path / "busybox").write_bytes(b"")
    assert not kvm.works(tmp_path / "vmlinuz", tmp_path / "busybox", tmp_path)
