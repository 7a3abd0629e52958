"""k8s/: as written, as rendered, by schema, and before a real API server."""

import re
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from server.farm.config import SERVICES, parse_config
from server.farm.flags import parse_services
from server.join.rights import NEEDED
from server.ltsconf import LtsConf
from tests.kustomize import render

HOUSE = Path(__file__).parents[2]
K8S = HOUSE / "k8s"
OVERLAYS = {
    "base": K8S / "base",
    "daemonset": K8S / "overlays/daemonset",
    "two-containers": K8S / "overlays/two-containers",
}
IMAGE = "registry.example.org/bootfarm:latest"
CONFIG_MOUNTS = {
    "base": "/etc/bootfarm",
    "daemonset": "/etc/bootfarm",
    "two-containers": "/var/lib/tftpboot/ltsp/amd64/config",
}
UID = 10069


def newest_version() -> str:
    """The newest Kubernetes whose schemas the package has, as `1.37.0`."""
    package = Path(str(kubernetes_validate.__file__)).parent / "kubernetes-json-schema"
    versions = {path.name.split("-")[0].removeprefix("v") for path in package.iterdir()}
    return max(versions, key=lambda text: tuple(int(part) for part in text.split(".")))


def check_schema(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, newest_version(), strict=True)


def base_documents() -> list[dict[str, Any]]:
    kustomization = yaml.safe_load((K8S / "base/kustomization.yaml").read_text())
    return [
        yaml.safe_load((K8S / "base" / name).read_text()) for name in kustomization["resources"]
    ]


def workload(documents: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [d for d in documents if d["kind"] in ("Deployment", "DaemonSet")]
    return found


def pod(documents: list[dict[str, Any]]) -> dict[str, Any]:
    spec = workload(documents)["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


@pytest.mark.parametrize("document", base_documents(), ids=lambda document: document["kind"])
def test_base_is_what_the_newest_schema_wants(document: dict[str, Any]) -> None:
    check_schema(document)


def test_the_schema_check_can_fail() -> None:
    document = workload(base_documents())
    document["spec"]["template"]["spec"]["hostNetwrk"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        check_schema(document)


def test_configmap_files_are_what_the_server_reads() -> None:
    kustomization = yaml.safe_load((K8S / "base/kustomization.yaml").read_text())
    (generator,) = kustomization["configMapGenerator"]
    assert generator["name"] == "ltsp-config"
    assert generator["files"] == ["lts.conf", "farm.yaml"]
    assert kustomization["generatorOptions"] == {"disableNameSuffixHash": True}
    LtsConf.load(K8S / "base/lts.conf")
    data = yaml.safe_load((K8S / "base/farm.yaml").read_text())
    config = parse_config(data, "farm.yaml", Path("/etc/bootfarm"))
    assert config.lts_conf == Path("/etc/bootfarm/lts.conf")
    assert (config.store, config.state) == (
        Path("/var/lib/bootfarm/store"),
        Path("/var/lib/bootfarm/state"),
    )


@pytest.fixture(scope="module", params=sorted(OVERLAYS))
def rendered(request: pytest.FixtureRequest) -> tuple[str, list[dict[str, Any]]]:
    """An overlay's name and its documents."""
    return request.param, list(yaml.safe_load_all(render(OVERLAYS[request.param])))


Rendered = tuple[str, list[dict[str, Any]]]


@pytest.mark.integration
def test_rendered_is_what_the_newest_schema_wants(rendered: Rendered) -> None:
    for document in rendered[1]:
        check_schema(document)
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == "bootfarm"


@pytest.mark.integration
def test_every_container_runs_without_root(rendered: Rendered) -> None:
    spec = pod(rendered[1])
    assert spec["hostNetwork"] is True
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == UID
    for container in spec["containers"]:
        assert container["image"] == IMAGE
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}
        assert "privileged" not in security


@pytest.mark.integration
def test_services_and_probes_cover_everything_once(rendered: Rendered) -> None:
    name, documents = rendered
    mount = CONFIG_MOUNTS[name]
    served: list[str] = []
    for container in pod(documents)["containers"]:
        words = container["args"]
        assert words[:3] == ["serve", "--config", f"{mount}/farm.yaml"]
        index = words.index("--services") if "--services" in words else None
        services = words[index + 1] if index is not None else ",".join(SERVICES)
        served += parse_services(services)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            command = container[probe]["exec"]["command"]
            assert command[:2] == ["bootfarm", "healthcheck"]
            assert f"{mount}/farm.yaml" in " ".join(command)
            assert ("--live" in command) == (probe == "livenessProbe")
            if index is not None:
                assert f"--services={services}" in command
        (config,) = [m for m in container["volumeMounts"] if m["name"] == "config"]
        assert config["mountPath"] == mount
        assert "subPath" not in config  # an edit would never arrive
    assert sorted(served) == sorted(SERVICES)


@pytest.mark.integration
def test_nothing_is_permitted_that_is_not_used(rendered: Rendered) -> None:
    """tests/server/kubernetes/test_refusals.py shows that exactly these are used."""
    kinds = [document["kind"] for document in rendered[1]]
    assert "ClusterRole" not in kinds
    assert "ClusterRoleBinding" not in kinds
    (role,) = [document for document in rendered[1] if document["kind"] == "Role"]
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": ["ltsp-config"],
            "verbs": ["get"],
        },
    ]
    (binding,) = [document for document in rendered[1] if document["kind"] == "RoleBinding"]
    subject = {"kind": "ServiceAccount", "name": "bootfarm", "namespace": "bootfarm"}
    assert binding["subjects"] == [subject]
    assert pod(rendered[1])["serviceAccountName"] == "bootfarm"


@pytest.mark.integration
def test_a_secret_is_mounted_where_farm_yaml_looks_for_it(rendered: Rendered) -> None:
    data = yaml.safe_load((K8S / "base/farm.yaml").read_text())
    (volume,) = [v for v in pod(rendered[1])["volumes"] if v["name"] == "secrets"]
    assert volume["secret"]["optional"] is True
    for container in pod(rendered[1])["containers"]:
        (mount,) = [m for m in container["volumeMounts"] if m["name"] == "secrets"]
        assert (mount["mountPath"], mount["readOnly"]) == (data["secrets"], True)


@pytest.mark.integration
def test_a_token_is_mounted_where_farm_yaml_would_look_for_it(rendered: Rendered) -> None:
    (line,) = re.findall(r"^# token_file: (.*)$", (K8S / "base/farm.yaml").read_text(), re.M)
    (volume,) = [v for v in pod(rendered[1])["volumes"] if v["name"] == "token"]
    assert volume["secret"] == {
        **{"secretName": "bootfarm-token", "optional": True},
        "defaultMode": 0o440,
    }
    for container in pod(rendered[1])["containers"]:
        (mount,) = [m for m in container["volumeMounts"] if m["name"] == "token"]
        assert (f"{mount['mountPath']}/token", mount["readOnly"]) == (line, True)


@pytest.mark.integration
def test_containers_share_what_the_server_remembers(rendered: Rendered) -> None:
    for container in pod(rendered[1])["containers"]:
        assert "--state" not in container["args"]
        (mount,) = [m for m in container["volumeMounts"] if m["name"] == "data"]
        assert mount["mountPath"] == "/var/lib/bootfarm"


@pytest.mark.integration
def test_daemonset_runs_on_labelled_nodes_from_their_own_disk() -> None:
    documents = list(yaml.safe_load_all(render(OVERLAYS["daemonset"])))
    assert workload(documents)["kind"] == "DaemonSet"
    assert pod(documents)["nodeSelector"] == {"bootfarm/server": "true"}
    (data,) = [volume for volume in pod(documents)["volumes"] if volume["name"] == "data"]
    assert data["hostPath"] == {"path": "/var/lib/bootfarm", "type": "Directory"}
    assert "PersistentVolumeClaim" not in {document["kind"] for document in documents}


def test_the_first_machines_unit_runs_it_with_the_same_limits_and_mounts() -> None:
    """What tests/e2e/test_container.py boots a machine from."""
    text = (K8S / "first-machine/bootfarm.service").read_text()
    (command,) = re.findall(r"^ExecStart=((?:.*\\\n)*.*)$", text, re.M)
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["/usr/bin/docker", "run"]
    joined = " ".join(words)
    for limit in (
        *("--network host", f"--user {UID}:{UID}", "--cap-drop ALL"),
        *("--cap-add NET_BIND_SERVICE", "--read-only", "--volume bootfarm-data:/var/lib/bootfarm"),
        *("--memory 2g", "--pids-limit 512"),
    ):
        assert limit in joined
    assert "--privileged" not in joined
    data = yaml.safe_load((K8S / "base/farm.yaml").read_text())
    assert "--volume /etc/bootfarm:/etc/bootfarm:ro" in joined
    assert f"--volume {data['secrets']}:{data['secrets']}:ro" in joined


def test_the_rights_for_certificates_are_these_and_of_this_account() -> None:
    """tests/server/join/test_real_cluster.py shows that an API server allows no more."""
    kustomization = yaml.safe_load((K8S / "join/kustomization.yaml").read_text())
    assert "namespace" not in kustomization
    documents = [
        yaml.safe_load((K8S / "join" / one).read_text()) for one in kustomization["resources"]
    ]
    for document in documents:
        check_schema(document)
    rules = {d["kind"]: d["rules"] for d in documents if "rules" in d}
    rights = {
        (verb, rule["apiGroups"][0], resource, *rule.get("resourceNames", ()))
        for kind in ("ClusterRole", "Role")
        for rule in rules[kind]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    needed = {
        (
            *(right.verb, right.group, f"{right.resource}/{right.subresource}".rstrip("/")),
            *((right.name,) if right.name else ()),
        )
        for right in NEEDED
    }
    assert rights == needed
    (role,) = [d for d in documents if d["kind"] == "Role"]
    assert role["metadata"]["namespace"] == "kube-node-lease"
    subject = {"kind": "ServiceAccount", "name": "bootfarm", "namespace": "bootfarm"}
    bindings = [d for d in documents if "roleRef" in d]
    assert [d["subjects"] for d in bindings] == [[subject]] * 2
    assert {d["roleRef"]["name"] for d in bindings} == {
        d["metadata"]["name"] for d in documents if "rules" in d
    }


@pytest.mark.integration
def test_the_rights_for_certificates_as_rendered() -> None:
    documents = list(yaml.safe_load_all(render(K8S / "join")))
    places = {d["kind"]: d["metadata"].get("namespace") for d in documents}
    assert places == {
        **{"ClusterRole": None, "ClusterRoleBinding": None},
        **{"Role": "kube-node-lease", "RoleBinding": "kube-node-lease"},
    }


def test_the_rights_for_rollouts_are_of_this_account_and_in_these_namespaces() -> None:
    """tests/server/conduct/test_real_cluster.py shows that an API server allows no more."""
    kustomization = yaml.safe_load((K8S / "rollout/kustomization.yaml").read_text())
    assert "namespace" not in kustomization
    documents = [
        yaml.safe_load((K8S / "rollout" / one).read_text()) for one in kustomization["resources"]
    ]
    for document in documents:
        check_schema(document)
    roles = {
        (d["kind"], d["metadata"]["name"], d["metadata"].get("namespace"))
        for d in documents
        if "rules" in d
    }
    assert roles == {
        ("ClusterRole", "bootfarm:rollout", None),
        ("Role", "bootfarm:rollout", "bootfarm"),
        ("Role", "bootfarm:rollout-events", "default"),
    }
    bindings = [d for d in documents if "roleRef" in d]
    subject = {"kind": "ServiceAccount", "name": "bootfarm", "namespace": "bootfarm"}
    assert [d["subjects"] for d in bindings] == [[subject]] * 3
    bound = {
        (d["roleRef"]["kind"], d["roleRef"]["name"], d["metadata"].get("namespace"))
        for d in bindings
    }
    assert bound == roles
    verbs = {verb for d in documents for rule in d.get("rules", ()) for verb in rule["verbs"]}
    assert verbs == {"create", "get", "list", "patch", "update"}
