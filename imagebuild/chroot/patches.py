"""Patch series, applied with no fuzz."""

from pathlib import Path

from imagebuild.errors import BuildError
from imagebuild.recipe.ingredients import PatchSeries
from imagebuild.run import Log, run


def series_files(series: Path) -> list[Path]:
    """The patches that a series file names, in order; comments and blank lines left out."""
    files: list[Path] = []
    listing = series / "series"
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), 1):
        name = line.split("#", 1)[0].strip()
        if not name:
            continue
        path = series / name
        if "/" in name or not path.is_file():
            raise BuildError(f"{listing}:{number}: no patch {name!r} in {series}")
        files.append(path)
    return files


def apply_series(series: PatchSeries, root: Path, log: Log | None = None) -> None:
    """Apply a series below `series.directory` of `root`.

    Each patch is tried dry first, so that one that does not apply changes
    nothing; BuildError names it and the file that it does not fit.
    """
    directory = root / series.directory.lstrip("/")
    if not directory.is_dir():
        raise BuildError(
            f"{series.series}: the image has no directory {series.directory}",
            hint="the package that brings it must be among packages:",
        )
    for path in series_files(series.series):
        argv = ["patch", f"-p{series.strip}", "--fuzz=0", "--force", "--no-backup-if-mismatch"]
        argv += ["--directory", str(directory), "--input", str(path)]
        what = f"{path}: does not apply below {series.directory} of the image"
        hint = "refresh the patch against the version in the image, or take it out of series"
        run([*argv, "--dry-run"], log=log, what=what, hint=hint)
        run(argv, log=log, what=what, hint=hint)
