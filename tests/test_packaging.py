"""What `pip install` of a wheel brings: the templates, wherever they end up."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_a_wheel_has_the_templates_and_runs(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    source = tmp_path / "source"
    # Of a copy: setuptools writes build/ beside what it packs.
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=HOUSE,
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    for name in (Path(word.decode()) for word in files if word):
        if (HOUSE / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((HOUSE / name).read_bytes())
    argv = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    subprocess.run(argv, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    for template in (HOUSE / "netboot-config").rglob("*.j2"):
        relative = template.relative_to(HOUSE)
        assert any(name.endswith(f"/data/share/bootfarm/{relative}") for name in packed), relative
    for template in (HOUSE / "server/web/templates").iterdir():
        assert f"server/web/templates/{template.name}" in packed

    # A prefix of its own, beside which there is no checkout.
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = str(venv / "bin" / "python")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", str(wheel)], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done = subprocess.run(
        [str(venv / "bin" / "bootfarm"), "dhcp-config", "dnsmasq", "--server=10.9.0.2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "/ltsp/amd64/grub/x86_64-efi/core.efi" in done.stdout
