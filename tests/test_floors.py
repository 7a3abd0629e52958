"""A module imports only from the floors below its own (docs/design.md, Floors)."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent

# Bottom to top. A name stands for the module and all modules below it in the
# tree; the longest name that fits decides. Modules on one line are neighbours
# and do not import each other.
FLOORS = [
    ["imagebuild.errors"],
    [
        *("imagebuild.run", "imagebuild.manifest", "imagebuild.inuse"),
        *("imagebuild.ingredients", "imagebuild.yamlnode"),
    ],
    ["imagebuild.store", "imagebuild.kernel", "imagebuild.listing"],
    ["imagebuild.imagescli"],
    [
        *("imagebuild.recipe", "imagebuild.apt", "imagebuild.patches", "imagebuild.configure"),
        "imagebuild.packing",
    ],
    ["imagebuild.stage", "imagebuild.runtime"],
    ["imagebuild.chrootapt"],
    ["imagebuild.stages"],
    ["imagebuild.pipeline"],
    ["imagebuild.progress", "imagebuild.buildstream"],
    ["imagebuild.container", "imagebuild.engine"],
    ["imagebuild.imagecli"],
    ["imagebuild.cli"],
    ["server.errors"],
    ["server.events", "server.content", "server.quantities", "server.fastpath"],
    ["server.ltsconf", "server.protocols", "server.yamlfile", "server.templates"],
    [
        *("server.inventory", "server.stamp", "server.background", "server.extras"),
        *("server.phases", "server.eventlog", "server.logconfig"),
        *("server.secrecy", "server.dnszone"),
    ],
    ["server.config", "server.identity", "server.dhcpconfig", "server.timeline"],
    ["server.bootplan", "server.nodes", "server.secretsource", "server.logbook"],
    ["server.netboot", "server.rendering", "server.feed", "server.diagnosis"],
    ["server.metrics", "server.overview"],
    ["server.boottree"],
    ["server.explaining"],
    [
        "server.sources",
        "server.directory",
        "server.keeping",
        "server.catalog",
        "server.loaders",
        "server.recording",
        "server.services",
        "server.web",
        "server.terminal",
        "server.kubernetes",
    ],
    ["server.measure"],
    ["server.assemble", "server.ltsconf.cli", "server.doctor"],
    ["server.app"],
    ["server.simulate.profile", "server.simulate.tally"],
    ["server.simulate"],
    ["server.simulate.cli"],
    ["server.cli"],
    ["rack.errors"],
    ["rack"],
    ["rack.cli"],
    ["fuzz"],
    ["bootfarm"],
]
PACKAGES = ("bootfarm", "imagebuild", "server", "rack", "fuzz")
# What `server` may use of `imagebuild`: the meeting place and its format.
MEETING_PLACE = {"imagebuild.store", "imagebuild.manifest", "imagebuild.inuse"}


@cache
def list_modules() -> dict[str, Path]:
    """Every module of the project by its name."""
    paths = [HOUSE / "bootfarm.py"]
    for package in PACKAGES:
        paths += sorted((HOUSE / package).rglob("*.py"))
    return {
        ".".join(path.relative_to(HOUSE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }


def find_floor(module: str) -> tuple[int, str]:
    """The floor of `module` and the room (entry of FLOORS) that it belongs to."""
    best = (-1, "")
    for number, rooms in enumerate(FLOORS):
        for room in rooms:
            if (module == room or module.startswith(room + ".")) and len(room) > len(best[1]):
                best = (number, room)
    return best


def list_imports(path: Path) -> Iterator[str]:
    """Absolute names of the project's own modules that the file imports, wherever it does."""
    modules = list_modules()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = node.module or ""
            names = [
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base
                for alias in node.names
            ]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


@pytest.mark.parametrize(
    ("module", "path"), list(list_modules().items()), ids=lambda value: str(value)
)
def test_imports_only_from_floors_below(module: str, path: Path) -> None:
    floor, room = find_floor(module)
    if module in PACKAGES and module != "bootfarm" and room != module:
        return  # a package's docstring
    assert floor >= 0, f"{module} stands on no floor: add it to FLOORS"
    for name in list_imports(path):
        other_floor, other_room = find_floor(name)
        if module.startswith("imagebuild."):
            assert not name.startswith(("server", "rack")), f"{module} imports {name}"
        if module.startswith("server."):
            assert not name.startswith("rack"), f"{module} imports {name}"
            if name.startswith("imagebuild"):
                assert name in MEETING_PLACE, f"{module} imports {name}"
        assert other_room == room or other_floor < floor, (
            f"{module} (floor {floor}, {room}) imports {name} (floor {other_floor}, {other_room})"
        )


def test_every_floor_but_planned_ones_is_used() -> None:
    rooms = {find_floor(module)[1] for module in list_modules()}
    planned = {"server.web"}
    missing = {room for line in FLOORS for room in line} - rooms - planned
    assert not missing
