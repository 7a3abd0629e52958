"""Which of the project's files a module reads when it is imported."""

import ast
from pathlib import Path

HOUSE = Path(__file__).parents[2]


def closure(module: str) -> set[str]:
    """`module`, its packages and all that they import, wherever the import stands."""
    todo, seen = [module], set()
    while todo:
        name = todo.pop()
        base = HOUSE / name.replace(".", "/")
        path = next(
            (p for p in (base.with_suffix(".py"), base / "__init__.py") if p.exists()), None
        )
        if path is None or path in seen:
            continue
        seen.add(path)
        parts = name.split(".")
        todo += [".".join(parts[:i]) for i in range(1, len(parts))]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                todo += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                todo += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return {str(path.relative_to(HOUSE)) for path in seen}
