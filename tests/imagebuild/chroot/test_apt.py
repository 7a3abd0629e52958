import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuild.apt import AptView, Pin
from imagebuild.chroot import apt as chrootapt
from imagebuild.errors import BuildError
from imagebuild.recipe.ingredients import Mirrors, Recipe
from imagebuild.stage import StageContext

RecipeOf = Callable[..., Recipe]

REPOSITORIES = """\
repositories:
  - {name: local, uri: "file:repo", suite: stable, components: [main], key: local.gpg}
  - {name: far, uri: "https://example.org/deb", suite: /, key: far.asc, pin: {tool: "1"}}
"""


class FakeView(AptView):
    def __init__(self, recipe: Recipe, cache: Path) -> None:
        super().__init__(recipe, cache)
        self.mirrors = Mirrors("http://mirror.here/debian", "http://mirror.here/security")
        self.proxies = ('Acquire::http::Proxy "http://proxy.here:3128";',)
        self.pins = (Pin("tool", "1.2-3"), Pin("kubelet", "1.20.2-0"))
        for repository in recipe.repositories:
            self._keys[repository.name] = Path(repository.key)


@pytest.fixture
def context(recipe_of: RecipeOf, tmp_path: Path) -> StageContext:
    root = tmp_path / "root"
    for directory in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "usr/sbin", "var/lib/apt"):
        (root / directory).mkdir(parents=True)
    (root / "etc/apt/sources.list").write_text("deb http://old x main\n")
    (tmp_path / "repo/dists").mkdir(parents=True)
    (tmp_path / "repo/dists/Release").write_text("x")
    (tmp_path / "local.gpg").write_text("local key")
    (tmp_path / "far.asc").write_text("far key")
    recipe = recipe_of(REPOSITORIES)
    view = FakeView(recipe, tmp_path / "cache")
    return StageContext(recipe, view, root, tmp_path / "product", {}, tmp_path / "cache")


def every_text(root: Path) -> str:
    return "\n".join(path.read_text() for path in root.rglob("*") if path.is_file())


def test_while_building(context: StageContext) -> None:
    chrootapt.prepare(context)
    chrootapt.add_repositories(context)
    root = context.root
    assert not (root / "etc/apt/sources.list").exists()
    assert "http://mirror.here/debian" in (
        (root / "etc/apt/sources.list.d/debian.sources").read_text()
    )
    assert "proxy.here" in (root / "etc/apt/apt.conf.d/99bootfarm-build").read_text()
    assert (root / "usr/sbin/policy-rc.d").read_text().endswith("exit 101\n")
    assert (root / "usr/sbin/policy-rc.d").stat().st_mode & 0o111
    local = (root / "etc/apt/sources.list.d/local.sources").read_text()
    assert "URIs: file:/var/lib/bootfarm/repositories/local/\n" in local
    assert "Signed-By: /etc/apt/keyrings/local.gpg\n" in local
    assert (root / "var/lib/bootfarm/repositories/local/dists/Release").is_file()
    assert "Pin: version 1.2-3\n" in (root / "etc/apt/preferences.d/bootfarm").read_text()
    # Twice is once: the next stage begins with a copy of this root.
    chrootapt.prepare(context)
    chrootapt.add_repositories(context)


def test_afterwards(context: StageContext) -> None:
    chrootapt.write_image_conf(context.root)
    chrootapt.prepare(context)
    chrootapt.add_repositories(context)
    (context.root / "var/lib/apt/lists").mkdir()
    (context.root / "var/lib/apt/lists/x_Packages").write_text("mirror.here")
    (context.root / "etc/apt/apt.conf.d/20auto-upgrades").write_text("on")
    chrootapt.finish(context)
    root = context.root
    text = every_text(root)
    assert "proxy.here" not in text
    assert "mirror.here" not in text
    assert "file:" not in text
    assert "local key" not in text
    assert "kubelet" not in text
    assert sorted(path.name for path in (root / "etc/apt/sources.list.d").iterdir()) == [
        "debian.sources",
        "far.sources",
    ]
    assert "http://deb.debian.org/debian\n" in text
    assert "Signed-By: /etc/apt/keyrings/far.asc\n" in text
    assert "Pin: version 1.2-3\n" in text
    assert [path.name for path in (root / "etc/apt/apt.conf.d").iterdir()] == ["01bootfarm"]
    assert not (root / "usr/sbin/policy-rc.d").exists()
    assert not (root / "var/lib/bootfarm/repositories").exists()
    assert list((root / "var/lib/apt/lists").iterdir()) == []


def test_a_recipes_own_mirrors_stay(context: StageContext) -> None:
    own = Mirrors("http://own.example/debian", "http://own.example/security")
    context = dataclasses.replace(context, recipe=dataclasses.replace(context.recipe, mirrors=own))
    chrootapt.finish(context)
    sources = (context.root / "etc/apt/sources.list.d/debian.sources").read_text()
    assert "URIs: http://own.example/debian\n" in sources


def test_installed_packages(tmp_path: Path) -> None:
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(
        "Package: a\nStatus: install ok installed\nVersion: 1:2-3\nDescription: x\n Version: 9\n\n"
        "Package: b\nStatus: deinstall ok config-files\nVersion: 1\n\n"
        "Package: c\nStatus: hold ok installed\nVersion: 4\n\n"
    )
    assert chrootapt.installed(tmp_path) == {"a": "1:2-3", "c": "4"}


def test_no_dpkg(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="cannot read"):
        chrootapt.installed(tmp_path)
