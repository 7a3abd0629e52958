"""charts/bootfarm by helm itself, beside what kustomize makes of k8s/, object by object.

`make test-helm` compiles helm first; without it these tests have nothing to run.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm import find_helm, run_helm
from tests.k8s.test_chart import CHART, HOUSE
from tests.k8s.test_manifests import IMAGE, check_schema
from tests.kustomize import render

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

DIGEST = "sha256:" + "0123456789abcdef" * 4
TOLERATION = {"key": "rack", "operator": "Equal", "value": "1", "effect": "NoSchedule"}
RESOURCES = {"requests": {"cpu": "1"}, "limits": {"memory": "8Gi"}}
FARM = "store: /var/lib/bootfarm/store\n# {{ no template }}: 'quoted' \"too\"\n"
LTS = '[default]\nKEEP_SYSTEM_SERVICES = "ssh"\n\n[node-*]\nIMAGE = amd64:canary\n'


def patch(kind: str, *operations: tuple[str, str, Any]) -> dict[str, Any]:
    """A kustomization's patch: (op, path, value) each."""
    steps = [{"op": op, "path": path, "value": value} for op, path, value in operations]
    return {"target": {"kind": kind, "name": "bootfarm"}, "patch": json.dumps(steps)}


POD = "/spec/template/spec"
DELETED_CLAIM = {
    "patch": json.dumps(
        {
            "$patch": "delete",
            **{"apiVersion": "v1", "kind": "PersistentVolumeClaim"},
            "metadata": {"name": "bootfarm"},
        }
    )
}
# Values of the chart, and the kustomization over k8s/ that says the same.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as it stands": ({}, {}),
    "tag": (
        {"image": {"repository": "registry:5000/farm", "tag": "1.2"}},
        {"images": [{"name": IMAGE[:-7], "newName": "registry:5000/farm", "newTag": "1.2"}]},
    ),
    "digest": (
        {"image": {"digest": DIGEST, "pullPolicy": "Never"}},
        {
            "images": [{"name": IMAGE[:-7], "digest": DIGEST}],
            "patches": [
                patch("Deployment", ("add", f"{POD}/containers/0/imagePullPolicy", "Never"))
            ],
        },
    ),
    "daemonset": ({"kind": "DaemonSet"}, {"resources": ["overlays/daemonset"]}),
    "join": ({"join": {"rights": True}}, {"resources": ["base", "join"]}),
    "pod": (
        {
            "nodeSelector": {"bootfarm/server": None, "rack": "one"},
            "tolerations": [TOLERATION],
            "podAnnotations": {"example.org/a": "b"},
            "imagePullSecrets": [{"name": "registry"}],
            "resources": {"requests": {"memory": None, "cpu": "1"}, "limits": {"memory": "8Gi"}},
        },
        {
            "patches": [
                patch(
                    "Deployment",
                    ("replace", f"{POD}/nodeSelector", {"rack": "one"}),
                    ("add", f"{POD}/tolerations/-", TOLERATION),
                    ("add", "/spec/template/metadata/annotations/example.org~1a", "b"),
                    ("add", f"{POD}/imagePullSecrets", [{"name": "registry"}]),
                    ("replace", f"{POD}/containers/0/resources", RESOURCES),
                )
            ]
        },
    ),
    "volume": (
        {"persistence": {"size": "1Ti", "storageClass": "fast"}},
        {
            "patches": [
                patch(
                    "PersistentVolumeClaim",
                    ("add", "/spec/storageClassName", "fast"),
                    ("replace", "/spec/resources/requests/storage", "1Ti"),
                )
            ]
        },
    ),
    "claim": (
        {"persistence": {"existingClaim": "mine"}},
        {
            "patches": [
                DELETED_CLAIM,
                patch(
                    "Deployment",
                    ("replace", f"{POD}/volumes/3/persistentVolumeClaim/claimName", "mine"),
                ),
            ]
        },
    ),
    "config": (
        {"config": {"farm": FARM, "ltsConf": LTS}},
        {
            "configMapGenerator": [
                {
                    **{"name": "ltsp-config", "behavior": "replace", "namespace": "bootfarm"},
                    "files": ["farm.yaml", "lts.conf"],
                }
            ],
            "generatorOptions": {"disableNameSuffixHash": True},
        },
    ),
}


@pytest.fixture(scope="module")
def helm() -> Path:
    """Helm, where it was compiled."""
    program = find_helm()
    if program is None:
        pytest.skip("helm is not compiled here: make test-helm")
    return program


def by_name(text: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The objects of a stream by kind, namespace and name."""
    found = {}
    for one in yaml.safe_load_all(text):
        if one is not None:
            key = (one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"])
            assert key not in found
            found[key] = one
    return found


def template(helm: Path, tmp_path: Path, values: dict[str, Any], space: str) -> str:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    words = ("template", "bootfarm", CHART, "--namespace", space, "--values")
    done = run_helm(helm, *words, tmp_path / "values.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def kustomize(tmp_path: Path, kustomization: dict[str, Any]) -> str:
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    places = kustomization.get("resources", ["base"])
    resources = [os.path.relpath(HOUSE / "k8s" / place, overlay) for place in places]
    (overlay / "farm.yaml").write_text(FARM)
    (overlay / "lts.conf").write_text(LTS)
    text = yaml.safe_dump({**kustomization, "resources": resources})
    (overlay / "kustomization.yaml").write_text(text)
    return render(overlay)


@pytest.mark.parametrize("name", CASES)
def test_helm_and_kustomize_make_the_same_objects(helm: Path, tmp_path: Path, name: str) -> None:
    values, kustomization = CASES[name]
    ours = by_name(template(helm, tmp_path, {**values, "namespace": {"create": True}}, "bootfarm"))
    theirs = by_name(kustomize(tmp_path, kustomization))
    assert ours.keys() == theirs.keys()
    for key, one in ours.items():
        assert one == theirs[key], key
        check_schema(one)


def test_two_values_make_different_objects(helm: Path, tmp_path: Path) -> None:
    """The comparison can fail."""
    plain = by_name(template(helm, tmp_path, {}, "bootfarm"))
    other = by_name(template(helm, tmp_path, {"podAnnotations": {"a": "b"}}, "bootfarm"))
    assert plain.keys() == other.keys()
    assert plain != other
    assert ("Namespace", "", "bootfarm") not in plain


def test_it_goes_into_any_namespace(helm: Path, tmp_path: Path) -> None:
    values = {"namespace": {"create": True}, "join": {"rights": True}}
    text = template(helm, tmp_path, values, "elsewhere")
    for (kind, space, name), one in by_name(text).items():
        if kind == "Namespace":
            assert name == "elsewhere"
        elif kind in ("ClusterRole", "ClusterRoleBinding"):
            assert space == ""
        else:
            assert space == ("kube-node-lease" if name == "bootfarm:leases" else "elsewhere")
        for subject in one.get("subjects", []):
            assert subject["namespace"] == "elsewhere"


def test_a_configmap_of_ones_own_is_left_alone(helm: Path, tmp_path: Path) -> None:
    text = template(helm, tmp_path, {"config": {"create": False}}, "bootfarm")
    assert "ConfigMap" not in {kind for kind, _, _ in by_name(text)}


def test_helm_lints_it(helm: Path) -> None:
    done = run_helm(helm, "lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 chart(s) linted, 0 chart(s) failed" in done.stdout


@pytest.mark.parametrize(
    "word", ["image.tagg=1", "kind=StatefulSet", "persistence.size=much", "join.rights=maybe"]
)
def test_helm_refuses_what_the_schema_refuses(helm: Path, word: str) -> None:
    done = run_helm(helm, "template", "bootfarm", CHART, "--set", word)
    assert done.returncode != 0
    assert word.split("=")[0].split(".")[-1] in done.stderr
    assert "values don't meet the specifications of the schema" in done.stderr


def test_helm_packs_it(helm: Path, tmp_path: Path) -> None:
    done = run_helm(helm, "package", CHART, "--destination", tmp_path)
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("bootfarm-*.tgz")
    assert run_helm(helm, "lint", "--strict", package).returncode == 0
