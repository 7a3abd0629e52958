""".pre-commit-hooks.yaml by pre-commit itself, in a repository that uses it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_packaging import list_files

HOUSE = Path(__file__).parent.parent
LTS_CONF = '[default]\nTIMEZONE = "Europe/Prague"\n'
RECIPE = "name: amd64\nrelease: bookworm\nkernel: {package: linux-image-amd64}\n"
WHO = ("-c", "user.name=x", "-c", "user.email=x@example.org")


def git(directory: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", *WHO, *words], cwd=directory, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def hooks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """This tree, as a repository and its commit."""
    directory = tmp_path_factory.mktemp("hooks")
    for name in list_files():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(HOUSE / name, directory / name)
    git(directory, "init", "--quiet")
    git(directory, "add", "--all", "--force")
    git(directory, "commit", "--quiet", "-m", "x")
    return directory, git(directory, "rev-parse", "HEAD")


@pytest.mark.integration
@pytest.mark.timeout(500)
def test_both_hooks(hooks: tuple[Path, str], tmp_path: Path) -> None:
    where, commit = hooks
    git(tmp_path, "init", "--quiet")
    (tmp_path / ".pre-commit-config.yaml").write_text(
        f"repos:\n  - repo: {where}\n    rev: {commit}\n    hooks:\n"
        "      - id: bootfarm-lts-check\n        args: [--strict]\n"
        "      - id: bootfarm-recipe-check\n"
    )
    (tmp_path / "recipes").mkdir()
    for name in ("one", "two"):
        (tmp_path / f"recipes/{name}.yaml").write_text(RECIPE)
    (tmp_path / "lts.conf").write_text(LTS_CONF)
    (tmp_path / "other.yaml").write_text("no: recipe\n")
    git(tmp_path, "add", "--all")

    def run() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [Path(sys.executable).parent / "pre-commit", "run", "--all-files"],
            cwd=tmp_path,
            env={**os.environ, "PRE_COMMIT_HOME": str(where.parent / "cache"), "CC": "/bin/false"},
            capture_output=True,
            text=True,
        )

    good = run()
    assert good.returncode == 0, good.stdout + good.stderr
    assert good.stdout.count("Passed") == 2
    (tmp_path / "lts.conf").write_text(LTS_CONF.replace("TIMEZONE", "TIMEZON"))
    (tmp_path / "recipes/two.yaml").write_text(RECIPE.replace("name:", "nam:"))
    bad = run()
    assert bad.returncode == 1
    assert bad.stdout.count("Failed") == 2
    assert "TIMEZON" in bad.stdout
    assert "recipes/two.yaml" in bad.stdout
