"""What container/setup-base installs is what the server imports."""

import ast
import re
import sys
from pathlib import Path

HOUSE = Path(__file__).parents[2]
OWN = {"container", "imagebuild", "server"}
OPTIONAL = {"tftpy"}
"""What a command does without, and says so."""
DEBIAN = {
    "click": "python3-click",
    "cryptography": "python3-cryptography",
    "dnslib": "python3-dnslib",
    "h11": "python3-h11",
    "jinja2": "python3-jinja2",
    "markupsafe": "python3-jinja2",
    "prometheus_client": "python3-prometheus-client",
    "yaml": "python3-yaml",
}


def imported() -> set[str]:
    """The packages that the container's code imports, whoever has made them."""
    names: set[str] = set()
    for package in ("container", "server"):
        for path in (HOUSE / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    names.add((node.module or "").partition(".")[0])
    return names - OWN - OPTIONAL - set(sys.stdlib_module_names)


def test_every_import_has_its_package() -> None:
    text = (HOUSE / "container/setup-base").read_text()
    installed = set(re.findall(r"python3-[a-z0-9-]+", text))
    assert {DEBIAN[name] for name in imported()} == installed
