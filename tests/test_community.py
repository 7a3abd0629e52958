"""What people meet who report or contribute: forms that hosts take, links that lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent
PAGES = ("CONTRIBUTING.md", "SECURITY.md")


@pytest.mark.parametrize(
    "path", sorted((HOUSE / ".github/ISSUE_TEMPLATE").iterdir()), ids=lambda path: str(path.name)
)
def test_issue_forms_fit_the_hosts_schema(path: Path) -> None:
    kind = "config" if path.name == "config.yml" else "forms"
    program = Path(sys.executable).parent / "check-jsonschema"
    argv = [str(program), "--builtin-schema", f"vendor.github-issue-{kind}", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_links_and_targets_exist(page: str) -> None:
    text = (HOUSE / page).read_text()
    for link in re.findall(r"\]\(([^)#:]+)", text):
        assert (HOUSE / link).exists(), link
    makefile = (HOUSE / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)`?", text):
        assert re.search(rf"^{target}:", makefile, re.M), target
