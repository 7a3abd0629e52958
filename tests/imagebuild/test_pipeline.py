"""The pipeline with stages of our own; the real ones are in test_build_integration.py."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imagebuild import pipeline
from imagebuild.errors import BuildError
from imagebuild.pipeline import Event, Options
from imagebuild.recipe.ingredients import Recipe
from imagebuild.stage import Inputs, StageContext, stage_id, tree_files
from imagebuild.store.images import Store
from imagebuild.store.manifest import MANIFEST_NAME, FileEntry, Manifest

RecipeOf = Callable[..., Recipe]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

NAMES = ("ltsp-base", "basesystem", "builder", "ltsp-image", "final")


class FakeStage:
    """Appends its name to `trace` of the root that it is given."""

    TOOLS: Mapping[str, str] = {"sh": "dash"}

    def __init__(self, name: str) -> None:
        self.NAME = name
        self.value: Any = 0
        self.fail: BaseException | None = None
        self.runs = 0

    def inputs(self, recipe: Recipe, apt: object) -> Inputs:
        return Inputs([self.value, recipe.name])

    def run(self, context: StageContext) -> None:
        self.runs += 1
        assert list(context.product.iterdir()) == []
        if context.root.is_dir():
            with (context.root / "trace").open("a") as stream:
                stream.write(f"{self.NAME}\n")
            (context.product / "trace").write_text((context.root / "trace").read_text())
        if self.fail is not None:
            raise self.fail
        if self.NAME == "final":
            image = context.product / "image"
            image.mkdir()
            text = (context.products["ltsp-image"] / "trace").read_text()
            (image / "rootfs.squashfs").write_text(text)
            files = {"rootfs.squashfs": FileEntry.of(image / "rootfs.squashfs")}
            manifest = Manifest("amd64", "debian", "x", "amd64", "", files=files)
            (image / MANIFEST_NAME).write_bytes(manifest.to_bytes())


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeStage]:
    made = {name: FakeStage(name) for name in NAMES}
    monkeypatch.setattr(pipeline, "STAGES", tuple(made.values()))
    monkeypatch.setattr(
        pipeline, "AptView", lambda *_: SimpleNamespace(update=lambda: None, pins=())
    )
    monkeypatch.setattr(pipeline, "can_isolate", lambda: True)
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


class Builder:
    def __init__(self, recipe: Recipe, store: Store, cache: Path) -> None:
        self.recipe, self.store, self.cache = recipe, store, cache
        self.events: list[Event] = []

    def build(self, **options: Any) -> Any:
        self.events.clear()
        chosen = Options(self.cache, self.events.append, **options)
        return pipeline.build(self.recipe, self.store, chosen, ["current"])

    def kinds(self) -> dict[str, list[str]]:
        kinds: dict[str, list[str]] = {}
        for event in self.events:
            kinds.setdefault(event.stage, []).append(event.kind)
        return kinds


@pytest.fixture
def builder(recipe_of: RecipeOf, store: Store, tmp_path: Path) -> Builder:
    return Builder(recipe_of(), store, tmp_path / "cache")


Stages = dict[str, FakeStage]


def test_each_stage_gets_the_root_that_it_should(stages: Stages, builder: Builder) -> None:
    image = builder.build()
    assert (image.path / "rootfs.squashfs").read_text() == "basesystem\nltsp-image\n"
    assert image.tags == ("current",)
    assert builder.kinds()["basesystem"] == ["start", "done"]
    assert builder.kinds()["builder"] == ["start", "step", "done"]
    assert not (builder.cache / "work").exists()


def test_a_second_build_runs_nothing(stages: Stages, builder: Builder) -> None:
    first = builder.build()
    second = builder.build()
    assert second.digest == first.digest
    assert [stage.runs for stage in stages.values()] == [1] * 5
    assert all(builder.kinds()[name] == ["cached"] for name in NAMES)


@pytest.mark.parametrize("changed", NAMES)
def test_a_change_rebuilds_from_there(stages: Stages, builder: Builder, changed: str) -> None:
    builder.build()
    stages[changed].value = "changed"
    builder.build()
    expected = [1 if NAMES.index(name) < NAMES.index(changed) else 2 for name in NAMES]
    assert [stage.runs for stage in stages.values()] == expected
    # And back again: the old ones are still there.
    stages[changed].value = 0
    builder.build()
    assert [stage.runs for stage in stages.values()] == expected


def test_fresh_runs_everything(stages: Stages, builder: Builder) -> None:
    builder.build()
    builder.build(fresh=True)
    assert [stage.runs for stage in stages.values()] == [2] * 5


@pytest.mark.parametrize("failing", NAMES)
@pytest.mark.parametrize("error", [BuildError("no"), KeyboardInterrupt(), RuntimeError("bug")])
def test_a_failure_leaves_nothing_and_the_next_build_resumes(
    stages: Stages, builder: Builder, store: Store, failing: str, error: BaseException
) -> None:
    stages[failing].fail = error
    with pytest.raises(type(error)):
        builder.build()
    assert store.images() == []
    assert not (builder.cache / "work").exists()
    stages[failing].fail = None
    image = builder.build()
    assert (image.path / "rootfs.squashfs").read_text() == "basesystem\nltsp-image\n"
    expected = [2 if name == failing else 1 for name in NAMES]
    assert [stage.runs for stage in stages.values()] == expected


def test_what_a_killed_build_left_is_removed(stages: Stages, builder: Builder) -> None:
    left = builder.cache / "work/tmpx/basesystem/root"
    left.mkdir(parents=True)
    (builder.cache / "stages/halfid").mkdir(parents=True)
    builder.build()
    assert not left.exists()


def test_only_the_stages_asked_for(stages: Stages, builder: Builder) -> None:
    directories = pipeline.run_stages(builder.recipe, Options(builder.cache), "basesystem")
    assert list(directories) == ["ltsp-base", "basesystem"]
    assert (directories["basesystem"] / "root/trace").read_text() == "basesystem\n"
    assert [stage.runs for stage in stages.values()] == [1, 1, 0, 0, 0]


def test_old_stages_are_pruned_but_not_ours(stages: Stages, builder: Builder) -> None:
    for number in range(8):
        stages["basesystem"].value = number
        builder.build()
    kept = list((builder.cache / "stages").glob("*/root"))
    assert len(kept) == pipeline.KEPT
    builder.build()
    assert stages["basesystem"].runs == 8


def test_missing_tools_before_any_work(stages: Stages, builder: Builder) -> None:
    stages["final"].TOOLS = {"no-such-tool": "no-such-package"}
    with pytest.raises(BuildError, match="no-such-tool"):
        builder.build()
    assert [stage.runs for stage in stages.values()] == [0] * 5


def test_the_id_depends_on_order_values_and_bytes_and_modes(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("1")
    base = stage_id("", "a", Inputs({"k": 1}, [("x", file)]))
    assert base == stage_id("", "a", Inputs({"k": 1}, [("x", file)]))
    file.write_text("2")
    changed = stage_id("", "a", Inputs({"k": 1}, [("x", file)]))
    file.chmod(0o755)
    mode = stage_id("", "a", Inputs({"k": 1}, [("x", file)]))
    others = {
        stage_id("p", "a", Inputs({"k": 1}, [("x", file)])),
        stage_id("", "b", Inputs({"k": 1}, [("x", file)])),
        stage_id("", "a", Inputs({"k": 2}, [("x", file)])),
        stage_id("", "a", Inputs({"k": 1}, [("y", file)])),
    }
    assert len({base, changed, mode, *others}) == 7


def test_the_id_does_not_depend_on_where_a_tree_lies(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place / "sub").mkdir(parents=True)
        (tmp_path / place / "sub/file").write_text("x")
        (tmp_path / place / "link").symlink_to("sub/file")
    ids = {
        stage_id("", "a", Inputs({}, tree_files(tmp_path / place, "tree")))
        for place in ("one", "two")
    }
    assert len(ids) == 1
    assert [label for label, _ in tree_files(tmp_path / "one", "tree")] == ["tree/sub/file"]


def test_a_tree_with_a_mount_is_never_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    line = f"36 35 0:5 / {tree}/dev rw - devtmpfs dev rw\n"
    real = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self: line if self.name == "mountinfo" else real(self)
    )
    with pytest.raises(BuildError, match="is mounted"):
        pipeline.remove_tree(tree)
    assert tree.exists()
