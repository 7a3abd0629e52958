"""charts/bootfarm says what k8s/ says: line by line here, rendered by helm in test_helm.py."""

import copy
import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

HOUSE = Path(__file__).parents[2]
CHART = HOUSE / "charts/bootfarm"
BASE = HOUSE / "k8s/base"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())

# Template -> what it is made of, and the lines of that which values may change.
MADE_OF = {
    "serviceaccount.yaml": (["base/serviceaccount.yaml"], []),
    "role.yaml": (["base/role.yaml"], []),
    "rolebinding.yaml": (["base/rolebinding.yaml"], []),
    "namespace.yaml": (["base/namespace.yaml"], ["name: bootfarm"]),
    "volume.yaml": (["base/volume.yaml"], ["storage: 20Gi"]),
    "join.yaml": (
        [f"join/{name}.yaml" for name in ("clusterrole", "clusterrolebinding")]
        + ["join/role.yaml", "join/rolebinding.yaml"],
        ["namespace: bootfarm", "namespace: bootfarm"],
    ),
    "workload.yaml": (
        ["base/deployment.yaml"],
        [
            "kind: Deployment",
            'bootfarm/server: "true"',
            "image: registry.example.org/bootfarm:latest",
            *("requests:", "cpu: 500m", "memory: 256Mi", "limits:"),
            *("# Images are read through the page cache, which counts here and",),
            *("# is given back when memory is short.", "memory: 2Gi"),
            *['command: ["bootfarm", "healthcheck", "--config", "/etc/bootfarm/farm.yaml"]'] * 2,
            "claimName: bootfarm",
        ],
    ),
}
# Lines of a template that no manifest has as they stand.
OWN = {
    "join.yaml": [
        "# The rights for joining by certificate: power over every node (docs/security.md).",
        *["---"] * 3,
    ],
    "workload.yaml": [
        *("updateStrategy:", "type: RollingUpdate", "rollingUpdate:", "maxUnavailable: 1"),
        *("imagePullSecrets:", "hostPath:", "type: Directory"),
    ],
}


def count_lines(*texts: str) -> Counter[str]:
    """The lines that no value changes, without indentation."""
    lines = (line.strip() for text in texts for line in text.splitlines())
    return Counter(line for line in lines if line and "{{" not in line)


@pytest.mark.parametrize("name", MADE_OF)
def test_a_template_has_the_lines_of_the_manifests_that_it_is_made_of(name: str) -> None:
    sources, changed = MADE_OF[name]
    template = count_lines((CHART / "templates" / name).read_text())
    manifests = count_lines(*((HOUSE / "k8s" / source).read_text() for source in sources))
    assert manifests - template == Counter(changed), "k8s/ has it, the chart not"
    assert template - manifests == Counter(OWN.get(name, [])), "the chart has it, k8s/ not"


def test_nothing_is_left_out() -> None:
    made_of = {source for sources, _ in MADE_OF.values() for source in sources}
    for room in ("base", "join"):
        resources = yaml.safe_load((HOUSE / "k8s" / room / "kustomization.yaml").read_text())
        assert {f"{room}/{name}" for name in resources["resources"]} <= made_of
    templates = {path.name for path in (CHART / "templates").glob("*.yaml")}
    assert templates == {*MADE_OF, "configmap.yaml"}


def test_the_files_of_the_configmap_are_those_of_k8s() -> None:
    assert VALUES["config"]["ltsConf"] == (BASE / "lts.conf").read_text()
    assert VALUES["config"]["farm"] == (BASE / "farm.yaml").read_text()


def test_values_are_what_k8s_base_has() -> None:
    deployment = yaml.safe_load((BASE / "deployment.yaml").read_text())
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    image = VALUES["image"]
    assert f"{image['repository']}:{image['tag']}" == container["image"]
    assert VALUES["resources"] == container["resources"]
    assert VALUES["nodeSelector"] == spec["nodeSelector"]
    assert VALUES["kind"] == deployment["kind"]
    claim = yaml.safe_load((BASE / "volume.yaml").read_text())
    assert VALUES["persistence"]["size"] == claim["spec"]["resources"]["requests"]["storage"]


def test_the_chart_has_bootfarms_version() -> None:
    version = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)


def list_keys(values: Any, schema: dict[str, Any], path: str = "") -> set[str]:
    """Keys that one has and the other has not, but for mappings of the user's own keys."""
    if not isinstance(values, dict) or "properties" not in schema:
        return set()
    known = schema["properties"]
    different = {f"{path}{key}" for key in values.keys() ^ known.keys()}
    for key in values.keys() & known.keys():
        different |= list_keys(values[key], known[key], f"{path}{key}.")
    return different


def test_the_schema_has_each_value_and_no_other() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(VALUES, SCHEMA)
    assert list_keys(VALUES, SCHEMA) == {"global"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("images", {"tag": "1"}),
        ("image.tagg", "1"),
        ("image.repository", "registry.example.org/bootfarm@sha256"),
        ("image.tag", 1.27),
        ("image.digest", "0123"),
        ("kind", "StatefulSet"),
        ("nodeSelector", {}),
        ("nodeSelector", {"bootfarm/server": True}),
        ("persistence.size", "20 GB"),
        ("persistence.hostPath", "relative"),
        ("join.rights", "true"),
        ("config.farm", {"store": "/var/lib/bootfarm/store"}),
        ("tolerations", [{"key": "a", "effect": "Never"}]),
    ],
)
def test_the_schema_refuses(path: str, value: Any) -> None:
    values = copy.deepcopy(VALUES)
    *folders, last = path.split(".")
    place = values
    for folder in folders:
        place = place[folder]
    place[last] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, SCHEMA)
