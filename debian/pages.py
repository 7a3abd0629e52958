"""What the package has of the command line itself: man pages, completions, farm.yaml.

pages.py VERSION DIRECTORY      # bootfarm is importable; writes man/, completions/, farm.yaml
"""

import sys
from pathlib import Path

from click.shell_completion import BashComplete as AskingBash
from click.shell_completion import FishComplete, ShellComplete, ZshComplete
from click_man.core import write_man_pages

from bootfarm import main
from server.commands.schema import describe_farm
from server.farm.example import render_example


class BashComplete(AskingBash):
    """click's, which would ask the bash of the machine that builds for its version."""

    @staticmethod
    def _check_version() -> None:
        """Debian 12's is new enough."""


SHELLS: dict[str, type[ShellComplete]] = {
    "bash": BashComplete,
    "zsh": ZshComplete,
    "fish": FishComplete,
}
SETTLED = {
    "store": "/var/lib/bootfarm/store",
    "lts_conf": "/etc/bootfarm/lts.conf",
    "state": "/var/lib/bootfarm",
}
"""What the package's farm.yaml says; all other keys are comments."""


def write_pages(version: str, directory: Path) -> None:
    """Write all of them below `directory`."""
    man, completions = directory / "man", directory / "completions"
    for folder in (man, completions):
        folder.mkdir(parents=True, exist_ok=True)
    write_man_pages("bootfarm", main, version=version, target_dir=str(man))
    for page in man.iterdir():
        # click's sign that lines are not to be filled again; troff would strike over.
        page.write_text(page.read_text().replace("\b", ""))
    for name, shell in SHELLS.items():
        script = shell(main, {}, "bootfarm", "_BOOTFARM_COMPLETE").source()
        (completions / name).write_text(script)
    (directory / "farm.yaml").write_text(render_example(describe_farm(), SETTLED))


if __name__ == "__main__":
    write_pages(sys.argv[1], Path(sys.argv[2]))
