import dataclasses
import json
from pathlib import Path

import pytest

from imagebuild.errors import BuildError
from imagebuild.pipeline import STAGES
from imagebuild.recipe.ingredients import Recipe
from imagebuild.recipe.packing import PACKED, SLICES, pack_recipe, slice_recipe, unpack_recipe
from imagebuild.recipe.read import load_recipe
from tests.imagebuild.anyapt import AnyApt

RECIPE = """
name: amd64
release: bookworm
packages: [openssh-server]
kernel: {package: linux-image-cloud-amd64}
repositories:
  - name: local
    uri: file:apt
    suite: stable
    components: [main]
    key: key.gpg
  - name: remote
    uri: https://pkgs.example.org/deb
    suite: ./
    key: https://pkgs.example.org/key
    key_sha256: {sha}
container_runtime:
  name: docker
  options: ["--iptables=false"]
  mirrors: {docker.io: {url: "https://mirror.example", ca: one}}
kubernetes: {version: "1.20.2", repository: local}
builds:
  - name: tool
    file: tool.c
    sha256: {sha}
    commands: ["gcc -o /usr/bin/tool tool.c"]
    outputs: [/usr/bin/tool]
files:
  - {path: /etc/motd, content: "@/hello: file:@/nobody"}
  - {path: /opt/one, source: one, mode: "0755"}
  - {path: /opt/all/, source: "*.tar"}
patches:
  - {series: fixes, directory: /usr/share}
cmdline: [console=ttyS0]
lts_defaults: {LTSP_NBD_TO_RAM: "true"}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A recipe that uses local files of every kind, some of them through links."""
    house = tmp_path / "house"
    for path, text in {
        "elsewhere/dists/stable/Release": "release",
        "elsewhere/pool/a.deb": "deb",
        "key.gpg": "key",
        "tool.c": "int main;",
        "one": "one",
        "a.tar": "a",
        "b.tar": "b",
        "fixes/series": "0001.patch\n",
        "fixes/0001.patch": "--- a\n+++ b\n",
    }.items():
        (house / path).parent.mkdir(parents=True, exist_ok=True)
        (house / path).write_text(text)
    (house / "apt").symlink_to("elsewhere")
    (house / "recipe.yaml").write_text(RECIPE.replace("{sha}", "a" * 64))
    return load_recipe(house / "recipe.yaml")


def test_unpacked_is_what_was_packed_but_for_places(recipe: Recipe, tmp_path: Path) -> None:
    pack_recipe(recipe, tmp_path / "packed")
    moved = (tmp_path / "packed").rename(tmp_path / "moved")
    again = unpack_recipe(moved)
    local = moved.resolve() / "local"
    assert recipe.container_runtime is not None
    assert again == dataclasses.replace(
        recipe,
        file=Path("recipe.yaml"),
        repositories=(
            dataclasses.replace(
                recipe.repositories[0],
                uri=f"file:{local}/repositories/local/apt",
                key=f"{local}/repositories/local/key.gpg",
            ),
            recipe.repositories[1],
        ),
        container_runtime=dataclasses.replace(
            recipe.container_runtime,
            mirrors=(
                dataclasses.replace(
                    recipe.container_runtime.mirrors[0], ca=f"{local}/registry-ca/0.crt"
                ),
            ),
        ),
        builds=(dataclasses.replace(recipe.builds[0], file=local / "builds/tool/tool.c"),),
        files=(
            recipe.files[0],
            dataclasses.replace(recipe.files[1], source=f"{local}/files/1/one"),
            dataclasses.replace(recipe.files[2], source=f"{local}/files/2/*.tar"),
        ),
        patches=(dataclasses.replace(recipe.patches[0], series=local / "patches/0"),),
    )
    assert (local / "repositories/local/apt/dists/stable/Release").read_text() == "release"
    assert sorted(path.name for path in (local / "files/2").iterdir()) == ["a.tar", "b.tar"]
    assert (local / "registry-ca/0.crt").read_text() == "one"
    assert (local / "patches/0/0001.patch").read_text() == "--- a\n+++ b\n"


def test_packed_again_is_the_same(recipe: Recipe, tmp_path: Path) -> None:
    pack_recipe(recipe, tmp_path / "one")
    pack_recipe(unpack_recipe(tmp_path / "one"), tmp_path / "two")
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*"))
    assert files == sorted(p.relative_to(tmp_path / "two") for p in (tmp_path / "two").rglob("*"))
    for file in files:
        if (tmp_path / "one" / file).is_file():
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_stage_depends_on_its_slice_as_on_the_whole(recipe: Recipe) -> None:
    for stage in STAGES:
        sliced = slice_recipe(recipe, stage.NAME)
        whole = stage.inputs(recipe, AnyApt(recipe))
        part = stage.inputs(sliced, AnyApt(sliced))
        assert json.dumps(whole.values, sort_keys=True) == json.dumps(part.values, sort_keys=True)
        assert list(whole.files) == list(part.files)


def test_every_stage_has_a_slice_in_order() -> None:
    assert list(SLICES) == [stage.NAME for stage in STAGES]


def test_later_ingredients_do_not_reach_earlier_stages(recipe: Recipe, tmp_path: Path) -> None:
    """Another kubelet, file or kernel parameter reruns no bootstrap."""
    changed = dataclasses.replace(
        recipe,
        kubernetes=None,
        container_runtime=None,
        repositories=(),
        files=(),
        cmdline=("quiet",),
        builds=(),
        name="other",
    )
    for stage in ("ltsp-base", "basesystem"):
        pack_recipe(slice_recipe(recipe, stage), tmp_path / f"{stage}-1")
        pack_recipe(slice_recipe(changed, stage), tmp_path / f"{stage}-2")
        one, two = ((tmp_path / f"{stage}-{n}" / PACKED).read_bytes() for n in (1, 2))
        assert one == two


def test_a_local_repository_that_is_not_there(recipe: Recipe, tmp_path: Path) -> None:
    missing = dataclasses.replace(
        recipe.repositories[0], uri=f"file:{tmp_path}/none", missing_hint="make it"
    )
    with pytest.raises(BuildError, match=r"repositories\.local: no directory .*/none") as caught:
        pack_recipe(dataclasses.replace(recipe, repositories=(missing,)), tmp_path / "packed")
    assert caught.value.hint == "make it"


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "not a packed recipe"), ('{"format": 2}', "another version"), ("[]", "another version")],
)
def test_what_is_no_packed_recipe(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / PACKED).write_text(text)
    with pytest.raises(BuildError, match=says):
        unpack_recipe(tmp_path)
    with pytest.raises(BuildError, match="cannot read"):
        unpack_recipe(tmp_path / "nowhere")
