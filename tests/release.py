"""`make release-check`: what a release of this tree would lack; and its notes.

python -m tests.release             # every fault, a line each; exit status 1 if there is one
python -m tests.release --notes     # the version's section of CHANGELOG.md
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from imagebuild.errors import count_words

HOUSE = Path(__file__).parent.parent
PLACE = "pyproject.toml"
"""Where the version stands."""
ELSEWHERE = ("CHANGELOG.md", "*.txt", "go.mod", "go.sum")
"""Files with versions of other things, and of all releases."""


def run_git(house: Path, *words: str) -> str:
    """What git prints; "" where it finds nothing."""
    return subprocess.run(["git", *words], cwd=house, capture_output=True, text=True).stdout


def read_version(house: Path) -> str:
    """The version of pyproject.toml."""
    return str(tomllib.loads((house / PLACE).read_text())["project"]["version"])


def read_notes(house: Path, version: str) -> str:
    """The version's section of CHANGELOG.md, its heading left out; "" where there is none."""
    text = (house / "CHANGELOG.md").read_text()
    heading = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$"
    found = re.search(rf"{heading}\n(.*?)(?=^## \[|\Z)", text, re.M | re.S)
    return found[1].strip() if found else ""


def find_faults(house: Path) -> list[str]:
    """What of the tree itself keeps it from being released: each fault with its remedy."""
    version = read_version(house)
    faults = []
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        faults.append(f"{PLACE}: the version {version!r} is not MAJOR.MINOR.PATCH")
    without = [f":(exclude,glob)**/{name}" for name in (*ELSEWHERE, PLACE)]
    word = rf"(^|[^0-9.]){re.escape(version)}($|[^0-9.]|[.][^0-9])"
    for place in run_git(
        house, "grep", "-nE", f"bootfarm.*{word}", "--", ":!tests", *without
    ).splitlines():
        faults.append(f"{place[:100]}: the version stands in {PLACE} alone; name it without one")
    if not read_notes(house, version):
        faults.append(
            f"CHANGELOG.md: no section `## [{version}] - YYYY-MM-DD` with notes;"
            " give [Unreleased] that name, and begin a new [Unreleased] above it"
        )
    if "## [Unreleased]" not in (house / "CHANGELOG.md").read_text():
        faults.append("CHANGELOG.md: no section [Unreleased] for what comes next; add it")
    if changed := run_git(house, "status", "--porcelain").splitlines():
        faults.append(
            f"{count_words(len(changed), 'change')} not committed ({changed[0][3:]}); commit"
        )
    tagged = run_git(house, "rev-list", "--max-count=1", f"refs/tags/v{version}").strip()
    if tagged and tagged != run_git(house, "rev-parse", "HEAD").strip():
        faults.append(f"v{version} is another commit already; give {PLACE} the next version")
    return faults


def main(words: list[str]) -> int:
    """Print faults or notes; the exit status."""
    if words == ["--notes"]:
        notes = read_notes(HOUSE, read_version(HOUSE))
        print(notes)
        return 0 if notes else 1
    faults = find_faults(HOUSE)
    for fault in faults:
        print(fault)
    print(f"bootfarm {read_version(HOUSE)}: {count_words(len(faults), 'fault')}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
