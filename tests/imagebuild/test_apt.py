import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuild.apt import (
    CANONICAL,
    AptView,
    Pin,
    machine_mirrors,
    machine_proxies,
    matches_version,
    render_distribution,
    render_pins,
    render_repository,
)
from imagebuild.errors import BuildError
from imagebuild.recipe.ingredients import Mirrors, Recipe, Repository
from imagebuild.run import Answer

RecipeOf = Callable[..., Recipe]


@pytest.mark.parametrize(
    ("version", "prefix", "matches"),
    [
        ("1.20.2-0", "1.20.2", True),
        ("1.20.2", "1.20.2", True),
        ("1.20.21-0", "1.20.2", False),
        ("1.20.2-0", "1.2", False),
        ("1.20.2-0", "1.20", True),
        ("1.20.2-0", "1.20.", True),
        ("5:24.0.7-1~debian", "24.0", True),
        ("5:24.0.7-1~debian", "5:24.0", True),
        ("1.37.0-1.1", "1.37.0-1", True),
        ("1.37.0-1.1", "1.37.1", False),
    ],
)
def test_version_prefixes(version: str, prefix: str, matches: bool) -> None:
    assert matches_version(version, prefix) is matches


def test_sources_have_updates_and_security(recipe_of: RecipeOf) -> None:
    recipe = recipe_of("components: [main, non-free-firmware]\n")
    assert render_distribution(recipe, Mirrors("http://a", "http://s")) == (
        "Types: deb\nURIs: http://a\nSuites: bookworm bookworm-updates\n"
        "Components: main non-free-firmware\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n"
        "Types: deb\nURIs: http://s\nSuites: bookworm-security\n"
        "Components: main non-free-firmware\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )


def test_sid_has_neither(recipe_of: RecipeOf) -> None:
    recipe = recipe_of(least="name: a\nrelease: sid\nkernel: {package: linux-image-amd64}\n")
    text = render_distribution(recipe, CANONICAL["debian"])
    assert "Suites: sid\n" in text
    assert "security" not in text


def test_repositories_with_components_and_flat() -> None:
    flat = Repository("k", "https://x/deb", "/", (), "k.gpg")
    assert render_repository(flat, flat.uri, "/k.asc") == (
        "Types: deb\nURIs: https://x/deb\nSuites: /\nSigned-By: /k.asc\n"
    )
    local = Repository("k", "file:/repo", "stable", ("main",), "k.gpg")
    assert local.directory == Path("/repo")
    assert render_repository(local, local.uri, "/k.gpg") == (
        "Types: deb\nURIs: file:/repo/\nSuites: stable\nComponents: main\nSigned-By: /k.gpg\n"
    )


def test_pins_are_exact_and_sorted() -> None:
    assert render_pins([Pin("b", "2"), Pin("a", "1:1")]) == (
        "Package: a\nPin: version 1:1\nPin-Priority: 1001\n\n"
        "Package: b\nPin: version 2\nPin-Priority: 1001\n"
    )


def fake_output(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("imagebuild.apt.ask", lambda argv: Answer(0, text, ""))


def test_the_machines_own_mirrors_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_output(
        monkeypatch,
        "http://mirror.example/pub/debian/\nhttps://download.docker.com/linux/debian2/\n"
        "http://mirror.example/pub/debian-security/\nfile:/srv/debian/\n",
    )
    assert machine_mirrors("debian") == Mirrors(
        "http://mirror.example/pub/debian", "http://mirror.example/pub/debian-security"
    )


def test_a_machine_without_any_gets_the_canonical_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_output(monkeypatch, "")
    assert machine_mirrors("debian") == CANONICAL["debian"]


def test_only_proxies_are_taken_from_the_machines_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_output(
        monkeypatch,
        'APT::Architecture "amd64";\nAcquire::http::Proxy "http://p:3128";\n'
        'Acquire::https::Proxy::x.example "DIRECT";\nAcquire::http::Timeout "3";\n',
    )
    assert machine_proxies() == (
        'Acquire::http::Proxy "http://p:3128";',
        'Acquire::https::Proxy::x.example "DIRECT";',
    )


REPOSITORY = """\
repositories:
  - {name: k, uri: "file:repo", suite: /, key: key.gpg, missing_hint: "run make-repo"%s}
"""


def test_a_local_repository_that_is_missing_says_how_to_make_it(
    recipe_of: RecipeOf, tmp_path: Path
) -> None:
    view = AptView(recipe_of(REPOSITORY % ""), tmp_path / "cache")
    with pytest.raises(BuildError, match=f"repositories.k: no directory {tmp_path}/repo") as caught:
        view.update()
    assert caught.value.hint == "run make-repo"


def test_a_missing_key(recipe_of: RecipeOf, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    with pytest.raises(BuildError, match=r"repositories\.k\.key: cannot read .*key\.gpg"):
        AptView(recipe_of(REPOSITORY % ""), tmp_path / "cache").update()


def test_another_key_than_the_recipes(recipe_of: RecipeOf, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "key.gpg").write_bytes(b"key")
    actual = hashlib.sha256(b"key").hexdigest()
    recipe = recipe_of(REPOSITORY % f", key_sha256: '{'0' * 64}'")
    with pytest.raises(BuildError, match=f"its SHA-256 is {actual}, not 000"):
        AptView(recipe, tmp_path / "cache").update()


def test_another_fingerprint_than_the_recipes(recipe_of: RecipeOf, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    keyring = Path("/usr/share/keyrings/debian-archive-bookworm-stable.gpg")
    (tmp_path / "key.gpg").write_bytes(keyring.read_bytes())
    recipe = recipe_of(REPOSITORY % f", key_fingerprint: '{'A' * 40}'")
    with pytest.raises(BuildError, match=r"its fingerprint is [0-9A-F]{40}, not AAAA"):
        AptView(recipe, tmp_path / "cache").update()


def test_a_key_file_that_is_none(recipe_of: RecipeOf, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "key.gpg").write_bytes(b"<html>")
    recipe = recipe_of(REPOSITORY % f", key_fingerprint: '{'A' * 40}'")
    with pytest.raises(BuildError, match="not an OpenPGP key"):
        AptView(recipe, tmp_path / "cache").update()
