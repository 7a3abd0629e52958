"""Facts about the kernel that a root file system holds."""

from pathlib import Path

from imagebuild.errors import BuildError


def kernel_version(root: Path) -> str:
    """The version of the one kernel below `/boot`; BuildError when there is none or several."""
    versions = sorted(
        path.name.removeprefix("vmlinuz-")
        for path in (root / "boot").glob("vmlinuz-*")
        if not path.is_symlink()
    )
    if len(versions) != 1:
        raise BuildError(
            f"the image holds {len(versions)} kernels{': ' if versions else ''}"
            f"{', '.join(versions)}, not one",
            hint="kernel.package must be the only linux-image package of the recipe",
        )
    return versions[0]


def has_module(root: Path, module: str) -> bool:
    """Whether the image's one kernel has a module, built in or as a file. module: dm-verity."""
    directory = root / "usr/lib/modules" / kernel_version(root)
    builtin = directory / "modules.builtin"
    if builtin.is_file() and f"/{module}.ko\n" in builtin.read_text():
        return True
    return any(directory.rglob(f"{module}.ko*"))
