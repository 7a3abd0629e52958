"""A .deb file from a description of what it holds, the same bytes each time."""

import os
import shutil
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rack.cache import run

REVISION = "0bootfarm1"
"""Behind the upstream version in each package's version."""
COMPRESSION = 3
"""zstd's level: these packages never leave the machine; 9 takes six times as long."""
MAINTAINER = "bootfarm's virtual rack <bootfarm@example.org>"


@dataclass(frozen=True)
class Package:
    """What one .deb holds.

    origin: what it was made of, one sentence for its description. files: path in
    the package -> (source file or its bytes, mode). links: path -> target.
    directories: empty ones. scripts: maintainer script -> its text.
    """

    name: str
    version: str
    summary: str
    origin: str
    depends: tuple[str, ...] = ()
    recommends: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    architecture: str = "amd64"
    files: Mapping[str, tuple[Path | bytes, int]] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    directories: tuple[str, ...] = ()
    scripts: Mapping[str, bytes] = field(default_factory=dict)
    conffiles: tuple[str, ...] = ()

    @property
    def filename(self) -> str:
        """The .deb's name, as Debian writes it."""
        return f"{self.name}_{self.version}_{self.architecture}.deb"


def render_control(package: Package, installed_kib: int) -> str:
    """The control file (Debian policy, section 5.3)."""
    lines = [
        f"Package: {package.name}",
        f"Version: {package.version}",
        f"Architecture: {package.architecture}",
        f"Maintainer: {MAINTAINER}",
        "Section: admin",
        "Priority: optional",
        f"Installed-Size: {installed_kib}",
    ]
    relations = {
        "Depends": package.depends,
        "Recommends": package.recommends,
        "Provides": package.provides,
        "Conflicts": package.conflicts,
        "Replaces": package.replaces,
    }
    lines += [f"{name}: {', '.join(names)}" for name, names in relations.items() if names]
    text = f"{package.origin} For bootfarm's virtual rack; shaped as upstream's own package is."
    lines += [f"Description: {package.summary}"]
    lines += [f" {line}" for line in textwrap.wrap(text, 76)]
    return "\n".join(lines) + "\n"


def build_package(
    package: Package, work: Path, into: Path, epoch: int, level: int = COMPRESSION
) -> Path:
    """Lay the package out below `work` and build it; the path of the .deb.

    `epoch` (seconds) stands in for every time stamp: the same files give the
    same bytes. `level` is zstd's.
    """
    tree = work / package.name
    control = tree / "DEBIAN"
    control.mkdir(parents=True, mode=0o755)
    size = 0
    for path, (source, mode) in package.files.items():
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            target.write_bytes(source)
        else:
            shutil.copyfile(source, target)
        target.chmod(mode)
        size += target.stat().st_size
    for path, goal in package.links.items():
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(goal)
    for path in package.directories:
        (tree / path).mkdir(parents=True, exist_ok=True)
    for name, script in package.scripts.items():
        (control / name).write_bytes(script)
        (control / name).chmod(0o755)
    if package.conffiles:
        (control / "conffiles").write_text("".join(f"{path}\n" for path in package.conffiles))
    (control / "control").write_text(render_control(package, (size + 1023) // 1024))
    for directory, _, _ in os.walk(tree):
        Path(directory).chmod(0o755)
    into.mkdir(parents=True, exist_ok=True)
    deb = into / package.filename
    run(
        ["dpkg-deb", "--root-owner-group", "-Zzstd", f"-z{level}", "--build", tree, deb],
        env={"SOURCE_DATE_EPOCH": str(epoch)},
        timeout=300,
    )
    shutil.rmtree(tree)
    return deb
