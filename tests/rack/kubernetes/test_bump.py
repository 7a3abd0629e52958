from pathlib import Path

import pytest

from rack.errors import RackError
from rack.kubernetes.bump import Release, bump, move_recipe, render_go_mod
from rack.kubernetes.families import KUBERNETES, MODULES

UPSTREAM = """\
module k8s.io/kubernetes

go 1.27.0

godebug default=go1.27

require (
\tgithub.com/blang/semver/v4 v4.0.0
\tk8s.io/api v0.0.0
\tk8s.io/kubectl v0.0.0
\tk8s.io/utils v0.0.0-20260626114624-be93311217bd
)
"""
NEW = Release("1.38.1", UPSTREAM, "3.11")


def test_go_mod_names_each_staging_repository_of_the_release() -> None:
    assert render_go_mod(NEW, "tool k8s.io/kubernetes/cmd/kubelet\n") == (
        "module bootfarm/kubernetes\n\ngo 1.27.0\n\ngodebug default=go1.27\n\n"
        "require k8s.io/kubernetes v1.38.1\n\n"
        "replace (\n\tk8s.io/api => k8s.io/api v0.38.1\n"
        "\tk8s.io/kubectl => k8s.io/kubectl v0.38.1\n)\n\n"
        "tool k8s.io/kubernetes/cmd/kubelet\n"
    )
    with pytest.raises(RackError, match="no staging repository"):
        render_go_mod(Release("1.38.1", "module x\n", "3.11"), "")


def test_recipes_of_the_present_kubernetes_move_and_others_stay() -> None:
    recipe = (
        "sandbox: registry.k8s.io/pause:3.10.2\n"
        "uri: https://pkgs.k8s.io/core:/stable:/v1.37/deb\n"
        'kubernetes:\n  version: "1.37"\n'
    )
    assert move_recipe(recipe, "1.37.2", NEW) == (
        "sandbox: registry.k8s.io/pause:3.11\n"
        "uri: https://pkgs.k8s.io/core:/stable:/v1.38/deb\n"
        'kubernetes:\n  version: "1.38"\n'
    )
    exact = 'kubernetes:\n  version: "1.37.2"\n'
    assert move_recipe(exact, "1.37.2", NEW) == 'kubernetes:\n  version: "1.38.1"\n'
    old = 'pause:3.2\nkubernetes:\n  version: "1.20.2"\n'
    assert move_recipe(old, "1.37.2", NEW) == old


def test_what_is_no_version_is_refused_before_anything_is_fetched() -> None:
    with pytest.raises(RackError, match=r"'1\.38' is no version") as told:
        bump("1.38", Path("/nowhere"))
    assert "VERSION=" in told.value.hint


@pytest.mark.integration
def test_a_bump_to_the_present_version_changes_no_pin(tmp_path: Path) -> None:
    modules = tmp_path / "rack" / "kubernetes" / "modules" / "kubernetes"
    modules.mkdir(parents=True)
    (tmp_path / "recipes").mkdir()
    for name in ("go.mod", "go.sum"):
        (modules / name).write_bytes((MODULES / "kubernetes" / name).read_bytes())
    assert bump(KUBERNETES.version, tmp_path) == []
