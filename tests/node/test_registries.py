"""REGISTRY_MIRRORS, and the recipe's, as containerd and Docker read them."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest

from .conftest import Node

CERTS = "etc/containerd/certs.d"


def prepare(node: Node, runtime: str, baked: str = "") -> None:
    more = f"registry_mirrors={baked}\n" if baked else ""
    node.write("usr/share/bootfarm/runtime", f"name={runtime}\n{more}")
    if runtime == "docker":
        node.write("etc/docker/daemon.json", '{"exec-opts": ["native.cgroupdriver=systemd"]}\n')


def hosts(node: Node, registry: str) -> Any:
    return tomllib.loads(node.read(f"{CERTS}/{registry}/hosts.toml"))


def daemon(node: Node) -> Any:
    return json.loads(node.read("etc/docker/daemon.json"))


def test_containerd_has_a_file_for_each_registry(node: Node) -> None:
    prepare(node, "containerd")
    node.flat(
        REGISTRY_MIRRORS="docker.io=https://mirror.example registry.k8s.io=http://10.9.0.1:5000"
        " docker.io=https://second.example/"
    )
    assert node.apply("registries").stderr == ""
    can = {"capabilities": ["pull", "resolve"]}
    assert hosts(node, "docker.io") == {
        "host": {"https://mirror.example": can, "https://second.example": can}
    }
    assert next(iter(hosts(node, "docker.io")["host"])) == "https://mirror.example"
    assert hosts(node, "registry.k8s.io") == {"host": {"http://10.9.0.1:5000": can}}


def test_a_registry_that_speaks_plain_http_is_asked_so_to_the_end(node: Node) -> None:
    prepare(node, "containerd")
    node.flat(REGISTRY_MIRRORS="10.9.0.1:5000=http://10.9.0.1:5000")
    node.apply("registries")
    assert hosts(node, "10.9.0.1:5000") == {
        "server": "http://10.9.0.1:5000",
        "host": {"http://10.9.0.1:5000": {"capabilities": ["pull", "resolve"]}},
    }


def test_every_other_registry_a_path_and_a_ca(node: Node) -> None:
    prepare(node, "containerd")
    node.write("etc/ssl/own.crt", "PEM")
    (node.root / "1").write_text("a file that * must not become")
    node.flat(REGISTRY_MIRRORS="*=https://m.example:8443/v2/all,ca=/etc/ssl/own.crt")
    assert node.apply("registries").stderr == ""
    assert hosts(node, "_default") == {
        "host": {
            "https://m.example:8443/v2/all": {
                "capabilities": ["pull", "resolve"],
                "ca": "/etc/ssl/own.crt",
                "override_path": True,
            }
        }
    }


def test_the_nodes_replace_the_recipes_and_empty_ones_are_none(node: Node) -> None:
    prepare(node, "containerd", "docker.io=https://baked.example")
    node.flat(TIMEZONE="UTC")
    node.apply("registries")
    assert list(hosts(node, "docker.io")["host"]) == ["https://baked.example"]
    (node.root / CERTS / "docker.io/hosts.toml").unlink()
    node.flat(REGISTRY_MIRRORS="docker.io=https://own.example")
    node.apply("registries")
    assert list(hosts(node, "docker.io")["host"]) == ["https://own.example"]
    (node.root / CERTS / "docker.io/hosts.toml").unlink()
    node.flat(REGISTRY_MIRRORS="")
    node.apply("registries")
    assert not (node.root / CERTS / "docker.io/hosts.toml").exists()


def test_docker_has_them_beside_what_the_image_says(node: Node) -> None:
    prepare(node, "docker")
    node.write("etc/ssl/own.crt", "PEM")
    node.flat(
        REGISTRY_MIRRORS="docker.io=https://a.example,ca=/etc/ssl/own.crt docker.io=http://b:5000"
        " 10.9.0.1:5000=http://10.9.0.1:5000 b:5000=http://b:5000"
    )
    assert node.apply("registries").stderr == ""
    assert daemon(node) == {
        "exec-opts": ["native.cgroupdriver=systemd"],
        "registry-mirrors": ["https://a.example", "http://b:5000"],
        "insecure-registries": ["b:5000", "10.9.0.1:5000"],
    }
    assert node.read("etc/docker/certs.d/a.example/ca.crt") == "PEM"
    assert not (node.root / CERTS).exists()


def test_docker_says_what_it_cannot_mirror(node: Node) -> None:
    prepare(node, "docker")
    node.flat(
        REGISTRY_MIRRORS="registry.k8s.io=http://10.9.0.1:5000 docker.io=https://a.example/v2/x"
    )
    said = node.apply("registries").stderr.splitlines()
    assert said == [
        "trouble: REGISTRY_MIRRORS: registry.k8s.io: Docker mirrors docker.io only; name images"
        " as 10.9.0.1:5000/…, or take an image with containerd",
        "trouble: REGISTRY_MIRRORS: https://a.example/v2/x: Docker takes no mirror with a path",
    ]
    assert daemon(node) == {"exec-opts": ["native.cgroupdriver=systemd"]}


@pytest.mark.parametrize("text", [None, "", "{}\n", "{ }", '{\n  "debug": true\n}\n'])
def test_whatever_daemon_json_was(node: Node, text: str | None) -> None:
    prepare(node, "docker")
    (node.root / "etc/docker/daemon.json").unlink()
    if text is not None:
        node.write("etc/docker/daemon.json", text)
    node.flat(REGISTRY_MIRRORS="docker.io=http://a.example")
    assert node.apply("registries").stderr == ""
    before = json.loads(text) if text and text.strip() else {}
    assert daemon(node) == {
        **before,
        "registry-mirrors": ["http://a.example"],
        "insecure-registries": ["a.example"],
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"registry-mirrors": ["https://x"]}', "has registry-mirrors already"),
        ("[]", "is no JSON object"),
    ],
)
def test_a_daemon_json_that_is_left_alone(node: Node, text: str, says: str) -> None:
    prepare(node, "docker")
    node.write("etc/docker/daemon.json", text)
    node.flat(REGISTRY_MIRRORS="docker.io=https://a.example")
    assert says in node.apply("registries").stderr
    assert node.read("etc/docker/daemon.json") == text


@pytest.mark.parametrize(
    "word",
    [
        "docker.io",
        "docker.io=",
        "docker.io=mirror.example",
        "docker.io=ftp://mirror.example",
        "=https://mirror.example",
        "../../x=https://mirror.example",
        'docker.io=https://a"b',
        "docker.io=https://user:pass@mirror.example",
        "docker.io=https://m.example,ca=relative.crt",
        "docker.io=https://m.example,ca=/none.crt",
        "docker.io=https://m.example,insecure",
    ],
)
def test_a_bad_one_is_told_and_stops_no_other(node: Node, word: str) -> None:
    prepare(node, "containerd")
    node.flat(REGISTRY_MIRRORS=f"{word} quay.io=https://good.example")
    said = node.apply("registries").stderr
    assert said.startswith(f"trouble: REGISTRY_MIRRORS: '{word}': ")
    assert sorted(path.name for path in (node.root / CERTS).iterdir()) == ["quay.io"]


def test_an_image_without_a_runtime(node: Node) -> None:
    node.flat(REGISTRY_MIRRORS="docker.io=https://a.example")
    assert "the image has no container runtime" in node.apply("registries").stderr
    node.flat(TIMEZONE="UTC")
    assert node.apply("registries").stderr == ""
