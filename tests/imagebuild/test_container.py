import ast
import json
import re
import tomllib
from pathlib import Path

import pytest

from imagebuild import container
from imagebuild.manifest import MANIFEST_NAME
from imagebuild.pipeline import STAGES
from imagebuild.store import Store
from tests.imagebuild.test_store import make_image

HOUSE = Path(__file__).parents[2]
DOCKERFILE = (HOUSE / "Dockerfile").read_text()
HELPERS = ("recipe", "fastpath")
"""Stages beside the article's five, of which one thing is taken each."""


def instructions() -> list[str]:
    """The Dockerfile's instructions, each on one line, without comments."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [re.sub(r"\s+", " ", line) for line in text.splitlines() if line.strip()]


def stages() -> dict[str, tuple[str, list[str]]]:
    """Stage name to (what it is from, its instructions)."""
    found: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for line in instructions():
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            name = match[2]
            found[name] = (match[1], [])
        elif name:
            found[name][1].append(line)
    return found


def test_the_articles_five_stages_in_order() -> None:
    found = stages()
    own = [name for name in found if name not in HELPERS]
    assert own == [stage.NAME for stage in STAGES]
    assert {name: parent for name, (parent, _) in found.items()} == {
        "ltsp-base": "${BASE_IMAGE}",
        "recipe": "ltsp-base",
        "fastpath": "ltsp-base",
        "basesystem": "ltsp-base",
        "builder": "basesystem",
        "ltsp-image": "basesystem",
        "final": "ltsp-base",
    }


def test_nothing_that_the_classic_builder_does_not_know() -> None:
    assert "# syntax" not in DOCKERFILE
    for line in instructions():
        assert "<<" not in line
        assert "--mount" not in line
        assert "--security" not in line
        assert not line.startswith("ADD ")


def test_run_lines_call_the_stages_and_nothing_else() -> None:
    run = [line for _, lines in stages().values() for line in lines if line.startswith("RUN ")]
    calls = [match[1] for line in run if (match := re.search(r"container (\S+)", line))]
    assert calls == ["slice", *(stage.NAME for stage in STAGES)]
    others = [line for line in run if "imagebuild.container" not in line]
    assert others == [
        "RUN sh /farm/setup-base",
        "RUN sh /farm/compile-fastpath /farm/fastpath /farm/_fastpath.so",
        "RUN sh /farm/setup-build",
    ]


def module_path(module: str) -> Path | None:
    base = HOUSE / module.replace(".", "/")
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def needed(module: str) -> set[Path]:
    """The project's files that importing `module` reads; imports in functions do not count."""
    todo, seen = [module], set()
    while todo:
        name = todo.pop()
        path = module_path(name)
        if path is None or path in seen:
            continue
        seen.add(path)
        parts = name.split(".")
        todo += [".".join(parts[:i]) for i in range(1, len(parts))]
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                todo += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                todo += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return {path.relative_to(HOUSE) for path in seen if path.is_relative_to(HOUSE / "imagebuild")}


def copied(stage: str) -> list[set[Path]]:
    """What each RUN of a stage of this project finds copied before it, from its parents on."""
    parent, lines = stages()[stage]
    have = set(copied(parent)[-1]) if parent in ("basesystem",) else set()
    result = []
    for line in lines:
        words = line.split()
        if words[0] == "COPY" and not words[1].startswith("--from"):
            have |= {Path(word) for word in words[1:-1]}
        if "imagebuild.container" in line:
            result.append(set(have))
    return result


@pytest.mark.parametrize("stage", [stage.NAME for stage in STAGES])
def test_each_run_has_the_code_that_it_imports_and_no_later_stages(stage: str) -> None:
    place = {
        "ltsp-base": ("basesystem", 0),
        "basesystem": ("basesystem", 1),
        "final": ("ltsp-image", 1),
    }
    where, index = place.get(stage, (stage, 0))
    have = copied(where)[index]
    want = needed("imagebuild.container") | needed(f"imagebuild.stages.{stage.replace('-', '_')}")
    if stage == "final":
        want |= needed("imagebuild.store")
    assert want <= have, f"missing: {sorted(map(str, want - have))}"
    stages_there = {path.stem.replace("_", "-") for path in have if path.parent.name == "stages"}
    later = {s.NAME for s in STAGES[[s.NAME for s in STAGES].index(stage) + 1 :]}
    assert not stages_there & later


def test_server_and_examples_enter_in_the_final_stage_only() -> None:
    for name, (_, lines) in stages().items():
        for line in lines:
            if name == "fastpath" and line == "COPY server/fastpath /farm/fastpath":
                continue
            if line.startswith("COPY ") and name not in ("final", "recipe"):
                assert "server" not in line.replace("${", "")
                assert "netboot-config" not in line
                assert not line.startswith("COPY . ")


def test_the_fast_path_is_compiled_as_make_install_compiles_it() -> None:
    (module,) = tomllib.loads((HOUSE / "pyproject.toml").read_text())["tool"]["setuptools"][
        "ext-modules"
    ]
    sources = sorted(str(path.relative_to(HOUSE)) for path in HOUSE.glob("server/fastpath/*.c"))
    assert sorted(module["sources"]) == sources
    script = (HOUSE / "container/compile-fastpath").read_text()
    assert f"gcc {' '.join(module['extra-compile-args'])} " in script
    assert "COPY --from=fastpath /farm/_fastpath.so" in " ".join(stages()["final"][1])


def test_the_final_stage_has_only_the_meeting_place_of_imagebuild() -> None:
    (copy,) = [line for line in stages()["final"][1] if "imagebuild/errors.py" in line]
    have = {Path(word) for word in copy.split()[1:-1]}
    meeting_place = needed("imagebuild.imagescli") | needed("imagebuild.inuse")
    assert have == meeting_place | {Path("imagebuild/__init__.py")}


def test_slices_and_ids_of_stages_before(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "name: amd64\nrelease: bookworm\nkernel: {package: linux-image-cloud-amd64}\n"
    )
    container.slice_all(tmp_path / "recipe.yaml", tmp_path / "slices")
    names = sorted(path.name for path in (tmp_path / "slices").iterdir())
    assert names == sorted(stage.NAME for stage in STAGES)


def test_bake_publishes_and_names_the_image(tmp_path: Path) -> None:
    product = tmp_path / "work/final/product"
    product.mkdir(parents=True)
    make_image(product, "one").rename(product / "image")
    manifest = (product / "image" / MANIFEST_NAME).read_bytes()
    reference = container.bake(tmp_path / "work", tmp_path / "baked")
    image = Store(tmp_path / "baked/store").get("amd64")
    assert reference == f"amd64@{image.digest}"
    assert (tmp_path / "baked/image").read_text() == f"{reference}\n"
    assert (image.path / MANIFEST_NAME).read_bytes() == manifest
    assert sorted(path.name for path in (tmp_path / "baked/store").iterdir()) == ["images"]


def test_a_bad_slice_is_one_line_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(container, "SLICED", tmp_path)
    assert container.main(["basesystem"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert "cannot read the packed recipe" in error
    assert len(error.splitlines()) == 1


def test_a_stage_whose_predecessor_has_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "name: amd64\nrelease: bookworm\nkernel: {package: linux-image-cloud-amd64}\n"
    )
    container.slice_all(tmp_path / "recipe.yaml", tmp_path / "slices")
    monkeypatch.setattr(container, "SLICED", tmp_path / "slices")
    monkeypatch.setattr(container, "WORK", tmp_path / "work")
    monkeypatch.setattr(container, "check_tools", lambda tools: None)
    assert container.main(["final"]) == 1
    assert "stage ltsp-base has not run" in capsys.readouterr().err


def test_downloads_do_not_stay_in_the_layer(tmp_path: Path) -> None:
    archives = tmp_path / "root/var/cache/apt/archives"
    (archives / "partial").mkdir(parents=True)
    (archives / "a.deb").write_text("a")
    (tmp_path / "cache/apt/views").mkdir(parents=True)
    (tmp_path / "basesystem").mkdir()
    (tmp_path / "basesystem/stage.json").write_text(json.dumps({"id": "1"}))
    container._drop_downloads(tmp_path)
    assert list(archives.iterdir()) == []
    assert list((tmp_path / "cache").iterdir()) == []
    assert container._stage_id(tmp_path, "basesystem") == "1"
