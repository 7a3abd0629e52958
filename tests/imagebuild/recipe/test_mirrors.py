"""Other repositories in the place of a recipe's."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuild.errors import BuildError
from imagebuild.recipe.ingredients import Mirrors, Recipe, Repository
from imagebuild.recipe.mirrors import (
    Elsewhere,
    gather_mirrors,
    load_mirrors,
    load_recipe_with,
    parse_option,
    take_from_elsewhere,
)
from imagebuild.recipe.yamlnode import RecipeError

FINGERPRINT = "DE15B14486CD377B9E876E1A234654DA9A296436"
REPOSITORIES = f"""\
repositories:
  - name: kubernetes
    uri: https://pkgs.example/deb
    suite: /
    key: https://pkgs.example/Release.key
    key_fingerprint: {FINGERPRINT}
    pin: {{kubelet: "1.37"}}
  - {{name: docker, uri: "https://d.example", suite: trixie, components: [stable], key: d.gpg}}
"""


@pytest.fixture
def recipe(recipe_of: Callable[..., Recipe]) -> Recipe:
    return recipe_of(REPOSITORIES)


def make_repository(directory: Path, suite: str = "stable", components: str = "main") -> Path:
    """As `bootfarm rack packages` leaves one, as far as it is looked at."""
    place = directory / "dists" / suite
    place.mkdir(parents=True)
    (place / "Release").write_text(f"Origin: x\nSuite: {suite}\nComponents: {components}\n")
    (place / "InRelease").write_text("-----BEGIN PGP SIGNED MESSAGE-----\n")
    return directory


def replaced(recipe: Recipe, *options: str) -> tuple[Repository, ...]:
    return take_from_elsewhere(recipe, gather_mirrors(None, options, "debian")).repositories


def test_a_mirror_keeps_suite_key_and_pins(recipe: Recipe) -> None:
    [kubernetes, docker] = replaced(recipe, "kubernetes=http://mirror.example/k8s/")
    before = recipe.repositories[0]
    assert kubernetes == dataclasses.replace(
        before, uri="http://mirror.example/k8s", missing_hint=kubernetes.missing_hint
    )
    assert docker == recipe.repositories[1]


def test_an_own_repository_has_its_own_key_and_shape(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_repository(tmp_path / "rack/apt")
    monkeypatch.chdir(tmp_path)
    [kubernetes, docker] = replaced(
        recipe,
        "kubernetes=file:rack/apt,key=rack/key.gpg",
        f"docker=https://own.example/deb,key=https://own.example/k,fingerprint={'A' * 40}"
        ",suite=own,components=main+extra",
    )
    assert kubernetes.uri == f"file:{tmp_path}/rack/apt"
    assert kubernetes.directory == tmp_path / "rack/apt"
    assert (kubernetes.suite, kubernetes.components) == ("stable", ("main",))
    assert kubernetes.key == str(tmp_path / "rack/key.gpg")
    # The recipe's fingerprint is of the recipe's key.
    assert kubernetes.key_fingerprint == ""
    assert kubernetes.pin == {"kubelet": "1.37"}
    assert (docker.suite, docker.components) == ("own", ("main", "extra"))
    assert docker.key_fingerprint == "A" * 40


@pytest.mark.parametrize(
    ("files", "name", "shape"),
    [
        # the recipe's own suite, where it is there
        (["dists/trixie/Release", "dists/sid/Release"], "docker", ("trixie", ("stable",))),
        (["Release", "dists/x/Release"], "kubernetes", ("/", ())),
        # else the only one that is there
        (["dists/own/InRelease"], "docker", ("own", ("stable",))),
        (["InRelease"], "docker", ("/", ())),
        (["dists/own/InRelease"], "kubernetes", ("own", ("main",))),
        # else apt says that the recipe's is missing
        (["dists/a/Release", "dists/b/Release"], "docker", ("trixie", ("stable",))),
        ([], "kubernetes", ("/", ())),
    ],
)
def test_the_shape_of_a_repository_on_this_machine_is_found_out(
    recipe: Recipe, tmp_path: Path, files: list[str], name: str, shape: tuple[str, tuple[str, ...]]
) -> None:
    for file in files:
        (tmp_path / "r" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "r" / file).write_text("Origin: nobody\n")
    found = {item.name: item for item in replaced(recipe, f"{name}=file:{tmp_path}/r,key=/k")}
    assert (found[name].suite, found[name].components) == shape


def test_a_suite_that_is_said_is_not_looked_for(recipe: Recipe, tmp_path: Path) -> None:
    make_repository(tmp_path)
    [kubernetes, _] = replaced(recipe, f"kubernetes=file:{tmp_path},suite=./,key=/k")
    assert (kubernetes.suite, kubernetes.components) == ("./", ())


BAD_OPTIONS = [
    # (option, message, hint)
    ("kubernetes", "--repository 'kubernetes': expected NAME=URI", "NAME=URI"),
    ("=http://x", "--repository '=http://x': expected NAME=URI", "NAME=URI"),
    ("kubernetes=ftp://x", "--repository kubernetes: uri: 'ftp://x'", "http:"),
    ("kubernetes=", "--repository kubernetes: uri: '' is not valid", "http:"),
    ("kubernetes=http://x,kye=y", "--repository kubernetes: 'kye=y' is none", "did you mean 'key'"),
    ("kubernetes=http://x,key", "--repository kubernetes: 'key' is none", ""),
    (
        "kubernetes=http://x,key=https://x/k",
        "--repository kubernetes: key: a key from the network needs key_fingerprint",
        "gpg",
    ),
    ("kubernetes=http://x,fingerprint=" + "A" * 40, "key_fingerprint: needs key beside it", ""),
    ("kubernetes=http://x,fingerprint=abc,key=k", "key_fingerprint: 'abc'", "40 capital"),
    ("kubernetes=http://x,suite=own", "--repository kubernetes: components: missing", "main"),
    ("kubernetes=http://x,components=main", "components: a flat repository has none", ""),
    ("kubernets=http://x", "has no repository named 'kubernets'", "did you mean 'kubernetes'"),
    ("zzz=http://x", "has no repository named 'zzz'", "its repositories: kubernetes, docker"),
    ("K8S/=http://x", "'K8S/' is not valid here", "as in the recipe"),
]


@pytest.mark.parametrize(("option", "message", "hint"), BAD_OPTIONS)
def test_a_bad_option_says_what_is_wrong(
    recipe: Recipe, option: str, message: str, hint: str
) -> None:
    with pytest.raises(BuildError) as caught:
        replaced(recipe, option)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


def test_the_same_name_twice(recipe: Recipe) -> None:
    with pytest.raises(BuildError, match="--repository docker: given twice"):
        replaced(recipe, "docker=http://a", "docker=http://b")


def test_a_recipe_without_repositories(recipe_of: Callable[..., Recipe]) -> None:
    with pytest.raises(BuildError) as caught:
        replaced(recipe_of(), "docker=http://a")
    assert caught.value.hint == "it has no repositories"


def test_the_least_option() -> None:
    item = parse_option("a=http://x/y?z=1")
    assert (item.name, item.uri, item.key, item.where) == (
        "a",
        "http://x/y?z=1",
        "",
        "--repository a",
    )


MIRRORS = f"""\
mirrors: {{archive: "http://m.example/debian/", security: "http://m.example/security"}}
repositories:
  kubernetes:
    uri: https://m.example/k8s
  docker:
    uri: file:own
    suite: ./
    key: own.gpg
    key_fingerprint: {FINGERPRINT}
"""


def test_a_mirrors_file(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "site/mirrors.yaml"
    path.parent.mkdir()
    path.write_text(MIRRORS)
    result = take_from_elsewhere(recipe, load_mirrors(path, "debian"))
    assert result.mirrors == Mirrors("http://m.example/debian", "http://m.example/security")
    assert result.repositories[0].uri == "https://m.example/k8s"
    assert result.repositories[0].key_fingerprint == FINGERPRINT
    # Relative to the file that they are written in.
    assert result.repositories[1].uri == f"file:{tmp_path}/site/own"
    assert result.repositories[1].key == f"{tmp_path}/site/own.gpg"


def test_an_option_goes_over_the_file(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "mirrors.yaml"
    path.write_text(MIRRORS)
    found = gather_mirrors(path, ["kubernetes=http://other.example"], "debian")
    result = take_from_elsewhere(recipe, found)
    assert [item.uri for item in result.repositories] == [
        "http://other.example",
        f"file:{tmp_path}/own",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("repositories: {zzz: {uri: 'http://x'}}\n", "mirrors.yaml: repositories.zzz: "),
        ("repositories: {docker: {key: k}}\n", "mirrors.yaml:1: repositories.docker.uri: missing"),
        ("repositories: {docker: {url: 'http://x'}}\n", "repositories.docker.url: unknown key"),
        ("repositories: []\n", "mirrors.yaml:1: repositories: expected a mapping"),
        ("mirrors: {archive: 'http://x'}\n", "mirrors.security: missing"),
        ("docker: x\n", "mirrors.yaml:1: docker: unknown key"),
        ("repositories: {docker: {uri: 'http://x', key_sha256: '%s'}}\n" % ("0" * 64), "needs key"),
    ],
)
def test_a_bad_mirrors_file(recipe: Recipe, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mirrors.yaml"
    path.write_text(text)
    with pytest.raises(BuildError) as caught:
        take_from_elsewhere(recipe, load_mirrors(path, "debian"))
    assert message in caught.value.message


def test_no_mirrors_file(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: No such file"):
        load_recipe_with(recipe.file, tmp_path / "none.yaml", ())


def test_nothing_from_elsewhere(recipe: Recipe) -> None:
    assert take_from_elsewhere(recipe, Elsewhere()) == recipe
    assert load_recipe_with(recipe.file, None, ()) == recipe


def test_production_is_built_from_the_racks_packages(tmp_path: Path) -> None:
    production = Path(__file__).parents[3] / "recipes/production.yaml"
    make_repository(tmp_path)
    words = [f"{name}=file:{tmp_path},key={tmp_path}/key.gpg" for name in ("kubernetes", "docker")]
    result = load_recipe_with(production, None, words)
    assert [(item.uri, item.suite, item.components) for item in result.repositories] == [
        (f"file:{tmp_path}", "stable", ("main",))
    ] * 2
