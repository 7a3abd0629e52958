"""A stage's id holds every file that the stage runs, and the Dockerfile copies the same."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imagebuild.chroot import configure
from imagebuild.pipeline import STAGES, stage_ids
from imagebuild.recipe.ingredients import (
    AddedFile,
    Build,
    Console,
    ContainerRuntime,
    Initramfs,
    Kubernetes,
    Mirrors,
    PatchSeries,
    Recipe,
    Repository,
    Services,
    Squashfs,
)
from imagebuild.recipe.packing import SLICES
from imagebuild.stage import Stage
from imagebuild.stages import builder, final, ltsp_base
from tests.imagebuild.anyapt import AnyApt
from tests.imagebuild.closure import closure
from tests.imagebuild.dockerfile import copied_before_runs

HOUSE = Path(__file__).parents[3]
NAMES = [stage.NAME for stage in STAGES]
RUNNER = {"imagebuild/container.py", "imagebuild/recipe/packing.py"}
"""What runs the stages in a container, where `bootfarm build` has pipeline.py."""
PUBLISHER = {f"imagebuild/store/{name}.py" for name in ("disk", "images", "moves", "signatures")}
"""What puts the image into a store there, after the last stage."""


@pytest.mark.parametrize("stage", STAGES, ids=NAMES)
def test_code_is_what_the_stage_imports(stage: Stage) -> None:
    assert len(set(stage.CODE)) == len(stage.CODE)
    assert set(stage.CODE) == closure(f"imagebuild.stages.{stage.NAME.replace('-', '_')}")


@pytest.mark.parametrize("stage", STAGES, ids=NAMES)
def test_the_dockerfile_copies_the_code_of_a_stage_and_no_other(stage: Stage) -> None:
    have = {
        name
        for name in copied_before_runs()[stage.NAME]
        if name.startswith("imagebuild/") and not name.startswith("imagebuild/rootfs")
    }
    so_far = STAGES[: NAMES.index(stage.NAME) + 1]
    beside = RUNNER | (PUBLISHER if stage.NAME == "final" else set())
    assert have == {name for one in so_far for name in one.CODE} | beside


class Copy:
    """A checkout of the builder that a test may edit, and the ids of its stages."""

    def __init__(self, house: Path, recipe: Recipe) -> None:
        self.house = house
        self.recipe = recipe
        self.before: dict[str, str] = {}

    def ids(self, **changes: Any) -> dict[str, str]:
        recipe = dataclasses.replace(self.recipe, **changes)
        return stage_ids(recipe, AnyApt(recipe))

    def rerun(self, name: str) -> list[str]:
        """The stages that run again after an edit of that file."""
        self.before = self.before or self.ids()
        path = self.house / name
        kept = path.read_bytes()
        path.write_bytes(kept + b"\n")
        after = self.ids()
        path.write_bytes(kept)
        return [stage for stage in NAMES if self.before[stage] != after[stage]]


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe_of: Callable[..., Recipe]) -> Copy:
    house = tmp_path / "house"
    shutil.copytree(
        HOUSE / "imagebuild",
        house / "imagebuild",
        symlinks=True,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for platform in ("i386-pc", "x86_64-efi"):
        (house / "grub" / platform).mkdir(parents=True)
        (house / "grub" / platform / "tftp.mod").write_text("module")
        (house / "grub" / platform / "lzma_decompress.img").write_text("part of the core")
    (house / "ipxe").mkdir()
    for name in ("undionly.kpxe", "snponly.efi"):
        (house / "ipxe" / name).write_text("loader")
    monkeypatch.setattr("imagebuild.stage.HOUSE", house)
    monkeypatch.setattr(configure, "ROOTFS", house / "imagebuild/rootfs")
    monkeypatch.setattr(configure, "LINKS", house / "imagebuild/rootfs.links")
    monkeypatch.setattr(builder, "NBDROOT_SOURCES", house / "imagebuild/rootfs/usr/src/bootfarm")
    monkeypatch.setattr(ltsp_base, "GRUB", house / "grub")
    monkeypatch.setattr(final, "IPXE", house / "ipxe")
    return Copy(house, recipe_of())


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("imagebuild/run.py", "ltsp-base"),
        ("grub/x86_64-efi/tftp.mod", "ltsp-base"),
        ("grub/i386-pc/lzma_decompress.img", "ltsp-base"),
        ("imagebuild/chroot/apt.py", "basesystem"),
        ("imagebuild/chroot/patches.py", "basesystem"),
        ("imagebuild/chroot/kernel.py", "builder"),
        ("imagebuild/rootfs/usr/src/bootfarm/nbdroot.c", "builder"),
        ("imagebuild/rootfs/usr/src/bootfarm/verity/verityroot.c", "builder"),
        ("imagebuild/chroot/configure.py", "ltsp-image"),
        ("imagebuild/store/verity.py", "ltsp-image"),
        ("imagebuild/rootfs/usr/sbin/init-ltsp", "ltsp-image"),
        ("imagebuild/store/manifest.py", "final"),
        ("ipxe/snponly.efi", "final"),
    ],
)
def test_an_edit_runs_what_uses_the_file_and_all_after_it(
    copy: Copy, name: str, first: str
) -> None:
    assert copy.rerun(name) == NAMES[NAMES.index(first) :]


def list_files() -> Iterator[str]:
    for path in sorted((HOUSE / "imagebuild").rglob("*")):
        if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts:
            yield str(path.relative_to(HOUSE))


def test_docker_build_reruns_what_bootfarm_build_reruns(copy: Copy) -> None:
    copied = copied_before_runs()
    reruns = {}
    for name in list_files():
        stale = [any(name in copied[stage] for stage in NAMES[: n + 1]) for n in range(len(NAMES))]
        in_docker = [stage for stage, again in zip(NAMES, stale, strict=True) if again]
        here = copy.rerun(name)
        if name in RUNNER | PUBLISHER:
            assert here == [], name
        else:
            assert here == in_docker, name
        reruns[name] = here
    for name in ("pipeline.py", "cli.py", "recipe/read.py", "docker/engine.py", "store/cli.py"):
        assert reruns[f"imagebuild/{name}"] == []


OTHER: dict[str, Any] = {
    "name": "other",
    "distribution": "ubuntu",
    "release": "trixie",
    "architecture": "arm64",
    "mirrors": Mirrors("http://other", "http://other-security"),
    "components": ("main", "contrib"),
    "packages": ("vim",),
    "repositories": (Repository("k8s", "http://k8s", "/", (), key=__file__),),
    "kernel_package": "linux-image-amd64",
    "builds": (Build("tool", commands=("make",)),),
    "container_runtime": ContainerRuntime("docker", ("docker.io",)),
    "kubernetes": Kubernetes("1.31", "k8s", ("kubelet",)),
    "cmdline": ("quiet",),
    "services": Services(mask=("ssh.service",)),
    "files": (AddedFile("/etc/motd", "hello", "", 0o644, "root:root"),),
    "patches": (PatchSeries(Path(__file__).parent, "/"),),
    "initramfs": Initramfs(modules=("mlx5_core",)),
    "lts_defaults": {"TIMEZONE": "UTC"},
    "console": Console(password_hash="$y$"),
    "skip_maintainer_scripts": {"udev": ("postinst",)},
    "squashfs": Squashfs(level=3),
    "verity": True,
}


@pytest.mark.parametrize("name", OTHER)
def test_every_field_that_a_stage_reads_is_in_its_id(copy: Copy, name: str) -> None:
    before = copy.ids()
    after = copy.ids(**{name: OTHER[name]})
    for stage in NAMES:
        if name in SLICES[stage]:
            assert before[stage] != after[stage], f"{stage} reads {name}: it belongs to its id"


def test_every_field_of_a_recipe_is_tried_above() -> None:
    assert set(OTHER) == {field.name for field in dataclasses.fields(Recipe)} - {"file"}


@pytest.mark.parametrize("stage", STAGES, ids=NAMES)
def test_values_are_json_of_named_values(copy: Copy, stage: Stage) -> None:
    """No `repr`: a renamed class changes nothing, and what an id is made of can be read."""
    recipe = dataclasses.replace(copy.recipe, **OTHER)
    values = stage.inputs(recipe, AnyApt(recipe)).values
    assert isinstance(values, dict)
    text = json.dumps(values)
    for kind in ("Services(", "Squashfs(", "Kubernetes(", "object at 0x", "PosixPath("):
        assert kind not in text
    for builds in values.get("builds", ()):
        assert builds["name"] == "tool"
    for file in values.get("files", ()):
        assert file["path"] == "/etc/motd"
