"""docs/modules.md: every module in a line, from its docstring.

python -m tests.docs.modulepage >docs/modules.md
"""

import ast
import subprocess
from pathlib import Path

HOUSE = Path(__file__).parents[2]
PAGE = HOUSE / "docs/modules.md"
HEAD = """\
# Modules

Every module of the two halves, with the first sentence of its docstring. Which room is for what, \
and who may import whom: docs/design.md. This page is made from the modules \
(`python -m tests.docs.modulepage >docs/modules.md`); a test keeps it so.
"""


def list_modules() -> list[Path]:
    """The Python files of both halves that git tracks or would track."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--"]
    done = subprocess.run(
        [*argv, "imagebuild/*.py", "server/*.py"],
        cwd=HOUSE,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(Path(line) for line in set(done.stdout.split()) if (HOUSE / line).is_file())


def first_sentence(path: Path) -> str:
    """The first paragraph of the docstring, on one line; "" where there is none."""
    text = ast.get_docstring(ast.parse((HOUSE / path).read_text())) or ""
    return " ".join(text.split("\n\n")[0].split())


def render() -> str:
    """The page: a heading a folder, with the folder's own sentence, then its modules."""
    folders: dict[Path, list[Path]] = {}
    for path in list_modules():
        folders.setdefault(path.parent, []).append(path)
    parts = [HEAD]
    for folder, paths in sorted(folders.items()):
        about = next((first_sentence(path) for path in paths if path.name == "__init__.py"), "")
        parts.append(f"\n## {folder}/\n{about}\n\n| module | what it is |\n|---|---|\n")
        for path in paths:
            if path.name != "__init__.py":
                words = first_sentence(path).replace("|", "\\|")
                parts.append(f"| `{path.name}` | {words} |\n")
    return "".join(parts)


if __name__ == "__main__":
    print(render(), end="")
