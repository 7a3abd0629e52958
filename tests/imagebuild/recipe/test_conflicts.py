"""What a recipe says twice, and what the build would take away again."""

from pathlib import Path

import pytest

from imagebuild.recipe.places import EMPTIED, REMOVED, find_loss
from imagebuild.recipe.read import load_recipe
from imagebuild.recipe.yamlnode import RecipeError

MINIMAL = "name: amd64\nrelease: bookworm\nkernel: {package: linux-image-amd64}\n"


def find_faults(directory: Path, text: str) -> str:
    """What is told of a recipe; "" where it is right."""
    (directory / "a.txt").write_text("a")
    path = directory / "r.yaml"
    path.write_text(MINIMAL + text)
    try:
        load_recipe(path)
    except RecipeError as error:
        return error.format_message()
    return ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "files:\n- {path: /etc/a, content: x}\n- {path: /etc//a, content: y}\n",
            "r.yaml:6: files[1].path: files[0] has a file at /etc/a, too",
        ),
        (
            "files:\n- {path: /etc/, source: '*.txt'}\n- {path: /etc/a.txt, content: y}\n",
            "files[1].path: files[0] has a file at /etc/a.txt, too",
        ),
        (
            "files:\n- {path: /etc/a/b, content: x}\n- {path: /etc/a, content: y}\n",
            "r.yaml:5: files[0].path: files[1] makes /etc/a a file, and not a directory",
        ),
        ("files: [{path: /run/a, content: x}]\n", "files[0].path: /run is emptied"),
        ("files: [{path: /etc/hosts, content: x}]\n", "the build writes /etc/hosts itself"),
        ("files: [{path: '/etc/a ', content: x}]\n", "begins or ends with a blank"),
        ('files: [{path: "/etc/a\\u00a0b", content: x}]\n', "that no eye sees"),
        (
            "services: {enable: [ssh], mask: [foo, ssh.service]}\n",
            "services.mask[1]: ssh.service stands in services.enable, too",
        ),
        (
            "services: {enable: [getty@tty1], disable: [getty@tty1.service]}\n",
            "services.disable[0]: getty@tty1.service stands in services.enable, too",
        ),
        ("cmdline: [quiet, '#x']\n", "cmdline[1]: iPXE takes it as its own"),
        ("cmdline: ['a=${net0/mac}']\n", "cmdline[0]: iPXE takes it as its own"),
        ("cmdline: ['a=b\\c']\n", "cmdline[0]: boot loaders change a backslash"),
        ("console: {ssh_keys: [ssh-ed25519 AAAA]}\n", "console.ssh_keys[0]: the key was cut"),
        ("console: {password_hash: $6$a}\n", "console.password_hash: behind the salt"),
    ],
)
def test_told(tmp_path: Path, text: str, told: str) -> None:
    assert told in find_faults(tmp_path, text)


def test_all_are_told_at_once(tmp_path: Path) -> None:
    text = "files: [{path: /run/a, content: x}, {path: /tmp/b, content: x}]\ncmdline: ['#x']\n"
    assert find_faults(tmp_path, text).startswith("3 faults\n")


@pytest.mark.parametrize(
    "text",
    [
        "files: [{path: /etc/a, content: x}, {path: /etc/ab, content: y}]\n",
        "files: [{path: /etc/a/b, content: x}, {path: /etc/a/c, content: y}]\n",
        "services: {enable: [ssh], mask: [ssh.socket]}\n",
        "cmdline: ['a#b', 'c;d', console=ttyS0, console=tty1]\n",
    ],
)
def test_right(tmp_path: Path, text: str) -> None:
    assert find_faults(tmp_path, text) == ""


def test_a_recipe_replaces_a_file_and_masks_a_unit_of_the_one_that_it_extends(
    tmp_path: Path,
) -> None:
    base = "files: [{path: /etc/a, content: x}]\nservices: {enable: [ssh]}\n"
    (tmp_path / "base.yaml").write_text(MINIMAL + base)
    path = tmp_path / "site.yaml"
    more = "files+: [{path: /etc/a, content: y}]\nservices: {mask: [ssh]}\n"
    path.write_text("extends: base.yaml\n" + more)
    recipe = load_recipe(path)
    assert [file.content for file in recipe.files] == ["x", "y"], "the last one stays"


@pytest.mark.parametrize(
    ("path", "is_lost"),
    [
        *((f"/{directory}/x/y", True) for directory in EMPTIED),
        *((f"/{pattern.replace('*', 'x')}", True) for pattern in REMOVED),
        ("/var/run/x", True),
        ("//etc/resolv.conf", True),
        ("/var/log/mine/a.log", False),
        ("/etc/tmp/x", False),
        ("/runner/x", False),
        ("/usr/share/bootfarm/images/a.tar", False),
    ],
)
def test_places_that_are_emptied(path: str, is_lost: bool) -> None:
    assert (find_loss(path) is not None) is is_lost
