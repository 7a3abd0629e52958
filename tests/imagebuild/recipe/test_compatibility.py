"""Pairs of kubelet and runtime that work, and those that never will."""

import dataclasses
from collections.abc import Callable

import pytest

from imagebuild.recipe import compatibility
from imagebuild.recipe.compatibility import Versions, expected_versions, find_refusal
from imagebuild.recipe.ingredients import Recipe
from imagebuild.recipe.read import RecipeError

REPOSITORIES = """\
repositories:
  - {name: kubernetes, uri: "https://example.org/deb", suite: /, key: key.gpg}
"""
TRIXIE = "name: a\nrelease: trixie\nkernel: {package: linux-image-cloud-amd64}\n" + REPOSITORIES


def kubernetes(version: str, more: str = "") -> str:
    return f"kubernetes: {{version: '{version}', repository: kubernetes{more}}}\n"


DOCKER = "container_runtime: {name: docker, package: docker.io, packages: [cri-dockerd]}\n"
CONTAINERD = "container_runtime: {name: containerd, package: containerd.io}\n"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("1.7.24~ds1-6+deb13u1", (1, 7)),
        ("2.4.2-0bootfarm1", (2, 4)),
        ("5:27.5.1-1~debian.13~trixie", (27, 5)),
        ("1.37.2-1.1", (1, 37)),
        ("v2.0.0", (2, 0)),
        ("", None),
        ("git20200101", None),
    ],
)
def test_versions_of_debian(text: str, version: tuple[int, int] | None) -> None:
    assert compatibility.parse_version(text) == version


def test_whoever_brings_containerd() -> None:
    packages = {"kubelet": "1.37.2-1.1", "containerd.io": "2.2.1-1~debian.13~trixie"}
    assert compatibility.packaged_versions(packages) == Versions((1, 37), (2, 2))
    assert compatibility.packaged_versions({"containerd": "1.6.20~ds1-1+deb12u2"}) == Versions(
        None, (1, 6)
    )


def test_debian_13s_containerd_serves_the_last_kubelet_that_takes_it(
    recipe_of: Callable[..., Recipe],
) -> None:
    recipe = recipe_of(kubernetes("1.37.2") + "container_runtime: {name: containerd}\n", TRIXIE)
    assert expected_versions(recipe) == Versions((1, 37), (1, 7))
    assert find_refusal(recipe, expected_versions(recipe)) is None


def test_debian_13s_containerd_is_refused_from_1_38_on(recipe_of: Callable[..., Recipe]) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_of(kubernetes("1.38") + "container_runtime: {name: containerd}\n", TRIXIE)
    assert "container_runtime: kubelet 1.38 cannot use containerd 1.7" in caught.value.message
    assert "containerd.io" in caught.value.hint


def test_a_pinned_containerd_counts_instead_of_the_releases(
    recipe_of: Callable[..., Recipe],
) -> None:
    other = '  - {name: own, uri: "https://x", suite: /, key: k, pin: {containerd: "2"}}\n'
    recipe = recipe_of(
        kubernetes("1.38") + "container_runtime: {name: containerd}\n", TRIXIE + other
    )
    assert expected_versions(recipe).containerd == (2, 0)


def test_what_apt_resolves_decides_where_the_recipe_does_not(
    recipe_of: Callable[..., Recipe],
) -> None:
    recipe = recipe_of(kubernetes("1.38") + CONTAINERD, TRIXIE)
    assert find_refusal(recipe, Versions((1, 38), (2, 4))) is None
    refusal = find_refusal(recipe, Versions((1, 38), (1, 7)))
    assert refusal is not None
    assert refusal.key == "container_runtime"


@pytest.mark.parametrize(
    ("kubelet", "containerd", "works"),
    [((1, 20), (1, 6), True), ((1, 22), (2, 0), False), ((1, 23), (2, 0), True)],
)
def test_containerd_2_speaks_to_no_kubelet_before_1_23(
    recipe_of: Callable[..., Recipe],
    kubelet: tuple[int, int],
    containerd: tuple[int, int],
    works: bool,
) -> None:
    recipe = recipe_of(kubernetes("1.20") + CONTAINERD, TRIXIE)
    assert (find_refusal(recipe, Versions(kubelet, containerd)) is None) is works


def test_docker_wants_cri_dockerd_from_1_24_on_and_not_before(
    recipe_of: Callable[..., Recipe],
) -> None:
    recipe_of(kubernetes("1.24") + DOCKER, TRIXIE)
    with pytest.raises(RecipeError) as caught:
        recipe_of(kubernetes("1.24") + "container_runtime: {name: docker}\n", TRIXIE)
    assert "container_runtime.name: kubelet 1.24 cannot use docker" in caught.value.message
    assert "cri-dockerd" in caught.value.hint
    with pytest.raises(RecipeError, match=r"container_runtime\.packages: kubelet 1\.23 has its"):
        recipe_of(kubernetes("1.23") + DOCKER, TRIXIE)


def test_docker_asks_nothing_of_its_containerd(recipe_of: Callable[..., Recipe]) -> None:
    recipe = recipe_of(kubernetes("1.40") + DOCKER, TRIXIE)
    assert find_refusal(recipe, Versions((1, 40), (1, 7))) is None


def test_another_cgroup_driver_than_the_runtimes(recipe_of: Callable[..., Recipe]) -> None:
    with pytest.raises(RecipeError, match=r"kubernetes\.kubelet\.cgroupDriver: 'cgroupfs'"):
        recipe_of(kubernetes("1.37", ", kubelet: {cgroupDriver: cgroupfs}") + CONTAINERD, TRIXIE)


def test_cgroup_v1_and_a_kubelet_that_does_not_start_on_it(
    recipe_of: Callable[..., Recipe],
) -> None:
    cmdline = "cmdline: [systemd.unified_cgroup_hierarchy=0]\n"
    recipe_of(kubernetes("1.34") + CONTAINERD + cmdline, TRIXIE)
    recipe_of(kubernetes("1.37", ", kubelet: {failCgroupV1: false}") + CONTAINERD + cmdline, TRIXIE)
    with pytest.raises(RecipeError, match=r"cmdline: systemd\.unified.*kubelet 1\.37"):
        recipe_of(kubernetes("1.37") + CONTAINERD + cmdline, TRIXIE)


def test_a_slice_without_kubernetes_is_never_refused(recipe_of: Callable[..., Recipe]) -> None:
    recipe = recipe_of(kubernetes("1.37") + CONTAINERD, TRIXIE)
    bare = dataclasses.replace(recipe, kubernetes=None)
    assert find_refusal(bare, Versions((1, 38), (1, 7))) is None
