"""A module imports only from the floors below its own (docs/design.md, Floors)."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent

# Bottom to top: folders, and the few modules that stand loose. A name stands for
# the module and all modules below it in the tree. Rooms on one line are neighbours
# and do not import each other.
FLOORS = [
    ["imagebuild.architecture", "imagebuild.errors", "imagebuild.wholefile"],
    ["imagebuild.dpkg", "imagebuild.edge", "imagebuild.options"],
    ["imagebuild.run", "imagebuild.sbom", "imagebuild.store", "imagebuild.yamlloader"],
    ["imagebuild.recipe", "imagebuild.signing"],
    ["imagebuild.apt"],
    ["imagebuild.lock", "imagebuild.stage"],
    ["imagebuild.chroot"],
    ["imagebuild.stages"],
    ["imagebuild.pipeline"],
    ["imagebuild.progress", "imagebuild.check"],
    ["imagebuild.container", "imagebuild.docker"],
    ["imagebuild.cli"],
    ["server.errors"],
    [
        *("server.causes", "server.events", "server.content", "server.quantities"),
        "server.troubles",
        *(
            "server.addresses",
            "server.dumps",
            "server.hangup",
            "server.logline",
            "server.yamlfile",
            "server.background",
            "server.fastpath",
        ),
    ],
    ["server.notify", "server.rollout"],
    ["server.ltsconf", "server.protocols"],
    ["server.farm", "server.nodes", "server.services", "server.kubernetes"],
    ["server.site", "server.diagnosis"],
    ["server.machines", "server.sources", "server.observe", "server.peers"],
    ["server.boot", "server.metrics", "server.join"],
    ["server.conduct"],
    ["server.web", "server.terminal"],
    ["server.health", "server.doctor", "server.simulate"],
    ["server.upkeep"],
    ["server.assemble"],
    ["server.app"],
    ["server.commands"],
    ["server.cli"],
    ["rack", "container"],
    ["bench"],
    ["fuzz"],
    ["bootfarm"],
]
PACKAGES = ("bootfarm", "imagebuild", "server", "rack", "container", "bench", "fuzz")
# What `server` may use of `imagebuild`: the meeting place, its format and how images travel, and
# the five things that both halves must have alike: the error that a user can act on, a file
# written whole, YAML, the options that commands of both have, and the table of architectures.
MEETING_PLACE = {
    "imagebuild.architecture",
    "imagebuild.errors",
    "imagebuild.options",
    "imagebuild.wholefile",
    "imagebuild.yamlloader",
    "imagebuild.store.images",
    "imagebuild.store.manifest",
    "imagebuild.store.inuse",
    "imagebuild.store.incoming",
    "imagebuild.store.index",
    "imagebuild.store.moves",
    "imagebuild.store.peer",
    "imagebuild.store.registry",
    "imagebuild.store.signatures",
    "imagebuild.store.trust",
}


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
        if module.startswith("server.") and name.startswith("imagebuild"):
            assert name in MEETING_PLACE, f"{module} imports {name}"
        assert other_room == room or other_floor < floor, (
            f"{module} (floor {floor}, {room}) imports {name} (floor {other_floor}, {other_room})"
        )


def test_every_floor_is_used() -> None:
    rooms = {find_floor(module)[1] for module in list_modules()}
    named = [room for line in FLOORS for room in line]
    assert len(named) == len(set(named))
    assert set(named) == rooms - {""}


def test_no_circle_of_imports() -> None:
    """Also within a room: of its modules, too, each can be read before those that use it."""
    modules = list_modules()
    waiting = {
        module: {name for name in list_imports(path) if name in modules and name != module}
        for module, path in modules.items()
    }
    while ready := {module for module, names in waiting.items() if not names}:
        waiting = {
            module: names - ready for module, names in waiting.items() if module not in ready
        }
    assert not waiting, f"these import each other: {sorted(waiting)}"
