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
