import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from imagebuild import container
from imagebuild.pipeline import STAGES
from imagebuild.recipe.packing import unpack_recipe
from imagebuild.store.images import Store
from imagebuild.store.manifest import MANIFEST_NAME
from tests.imagebuild.closure import closure
from tests.imagebuild.dockerfile import DOCKERFILE, expand, instructions, stages
from tests.imagebuild.store.test_images import make_image

HOUSE = Path(__file__).parents[2]
HELPERS = ("recipe", "fastpath", "settings", "server")
"""Stages beside the article's five; the last one is an end of its own, too."""


def test_the_articles_five_stages_in_order() -> None:
    found = stages()
    own = [name for name in found if name not in HELPERS]
    assert own == [stage.NAME for stage in STAGES]
    assert {name: parent for name, (parent, _) in found.items()} == {
        "ltsp-base": "${BASE_IMAGE}",
        "recipe": "ltsp-base",
        "fastpath": "ltsp-base",
        "settings": "ltsp-base",
        "server": "settings",
        "basesystem": "ltsp-base",
        "builder": "basesystem",
        "ltsp-image": "basesystem",
        "final": "settings",
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


def test_server_and_examples_enter_in_no_stage_that_builds() -> None:
    for name, (_, lines) in stages().items():
        for line in lines:
            if name == "fastpath" and line == "COPY server/fastpath /farm/fastpath":
                continue
            if line.startswith("COPY ") and name not in ("final", "recipe", "server"):
                assert "server" not in line.replace("${", "")
                assert "netboot-config" not in line
                assert not line.startswith("COPY . ")


def test_the_container_says_what_it_is_by_ocis_names_and_last() -> None:
    """Last: what comes behind a version is made anew with each release."""
    lines = stages()["final"][1]
    (label,) = [line for line in lines if line.startswith("LABEL ")]
    assert lines[-3:] == ["ARG BASE_IMAGE", "ARG VERSION=", label]
    prefix = "org.opencontainers.image."
    found = dict(word.partition("=")[::2] for word in shlex.split(label)[1:])
    assert {name.removeprefix(prefix): value for name, value in found.items()} == {
        "title": "bootfarm",
        "description": "Boots bare machines over the network; brings their image",
        "version": "${VERSION}",
        "base.name": "${BASE_IMAGE}",
    }
    assert all(name.startswith(prefix) for name in found)


def test_the_fast_path_is_compiled_as_make_install_compiles_it() -> None:
    (module,) = tomllib.loads((HOUSE / "pyproject.toml").read_text())["tool"]["setuptools"][
        "ext-modules"
    ]
    sources = sorted(str(path.relative_to(HOUSE)) for path in HOUSE.glob("server/fastpath/*.c"))
    assert sorted(module["sources"]) == sources
    script = (HOUSE / "container/compile-fastpath").read_text()
    assert f"gcc {' '.join(module['extra-compile-args'])} " in script
    assert "COPY --from=fastpath /farm/_fastpath.so" in " ".join(stages()["server"][1])


def test_the_server_has_only_the_meeting_place_of_imagebuild() -> None:
    words = [word for line in stages()["server"][1] for word in line.split()[1:-1]]
    copied = expand(word for word in words if word.startswith("imagebuild/"))
    used = (
        "store.cli",
        "store.bundlecli",
        "store.inuse",
        "architecture",
        "wholefile",
        "yamlloader",
    )
    meeting_place = {file for name in used for file in closure(f"imagebuild.{name}")}
    assert copied == meeting_place | {"imagebuild/__init__.py"}


def test_the_final_stage_is_the_server_beside_the_node_image() -> None:
    """The image first: it stays as it was, when only the server is another."""
    final, server = stages()["final"][1], stages()["server"][1]
    taken = [line for line in final if line.startswith("COPY ")]
    assert taken[0] == "COPY --from=ltsp-image /farm/baked /usr/share/bootfarm"
    assert final[: len(taken)] == taken
    assert [line.split()[0] for line in stages()["settings"][1]] == [
        *("ENV", "USER", "WORKDIR", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"),
    ]
    places = [line.split()[-1].rstrip("/") for line in server if line.startswith("COPY ")]
    tops = [line.removeprefix("COPY --from=server ").split() for line in taken[1:]]
    assert all(source == target for source, target in tops)
    for place in places:
        assert any(f"{place}/".startswith(f"{top}/") for top, _ in tops), place
    settings = [line for line in server if not line.startswith("COPY ")]
    assert settings[:-1] == final[len(taken) : -1]
    shown = "Boots bare machines over the network; their images lie elsewhere"
    assert settings[-1] == final[-1].replace(
        "Boots bare machines over the network; brings their image", shown
    )


def test_the_server_alone_needs_no_recipe_and_no_stage_after_it() -> None:
    """The classic builder makes every stage before its target."""
    assert list(stages())[: list(stages()).index("server") + 1] == [
        *("ltsp-base", "fastpath", "settings", "server"),
    ]


def test_slices_and_ids_of_stages_before(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "name: amd64\nrelease: bookworm\nkernel: {package: linux-image-cloud-amd64}\n"
    )
    container.slice_all(tmp_path / "recipe.yaml", tmp_path / "slices")
    names = sorted(path.name for path in (tmp_path / "slices").iterdir())
    assert names == sorted(stage.NAME for stage in STAGES)


def test_slices_have_other_repositories_where_they_are_given(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "name: amd64\nrelease: bookworm\nkernel: {package: linux-image-cloud-amd64}\n"
        "repositories: [{name: own, uri: 'http://a', suite: ./, key: 'https://a/k',"
        f" key_sha256: '{'0' * 64}'}}]\n"
    )
    (tmp_path / "mirrors.yaml").write_text("repositories: {own: {uri: 'http://b'}}\n")
    words = ["slice", str(tmp_path / "recipe.yaml")]
    assert container.main([*words, str(tmp_path / "one"), "--repositories", "own=http://c"]) == 0
    mirrors = ["--repositories", "", "--mirrors", str(tmp_path / "mirrors.yaml")]
    assert container.main([*words, str(tmp_path / "two"), *mirrors]) == 0
    uris = [
        unpack_recipe(tmp_path / place / "ltsp-image").repositories[0].uri
        for place in ("one", "two")
    ]
    assert uris == ["http://c", "http://b"]


def test_a_repository_that_the_recipe_has_not_ends_the_docker_build(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "name: amd64\nrelease: bookworm\nkernel: {package: linux-image-cloud-amd64}\n"
    )
    words = ["slice", str(tmp_path / "recipe.yaml"), str(tmp_path / "slices")]
    assert container.main([*words, "--repositories", "own=http://c"]) == 1
    assert "has no repository named 'own'" in capsys.readouterr().err


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
