"""NODE_LABELS and NODE_TAINTS as the linter sees them: what it lets pass, kubelet takes."""

import pytest

from server.ltsconf.files import read_nothing
from server.ltsconf.lint import lint
from server.ltsconf.scan import Included


def find(key: str, value: str) -> list[tuple[str, str, str]]:
    text = f'[default]\n{key} = "{value}"\n'
    problems = lint(Included("main", "lts.conf", text.encode()), read_nothing)
    return [(one.severity, one.code, one.message) for one in problems]


@pytest.mark.parametrize(
    "value",
    [
        "rack=r1",
        "rack=r1 unit=17, example.org/pool=gpu_a.b-c",
        "empty=",
        "topology.kubernetes.io/zone=west node.kubernetes.io/own=1 a.node.kubernetes.io/b=2",
        "kubernetes.io.example.org/x=1 mykubernetes.io/y=1",
        "",
        "NONE",
    ],
)
def test_labels_that_are_right_pass(value: str) -> None:
    assert find("NODE_LABELS", value) == []


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("rack", "'rack' is no label"),
        ("=r1", "is no label"),
        ("Example.org/pool=a", "is no label"),
        ("a/b/c=d", "is no label"),
        (f"{'a' * 64}=x", "is no label"),
        (f"{'a.' * 127}b/c=x", "is no label"),
        ("rack=r1/2", "has no value that a label may have"),
        (f"rack={'a' * 64}", "has no value that a label may have"),
        ("rack=-a", "has no value that a label may have"),
        ("node-role.kubernetes.io/worker=", "a node may not set on itself"),
        ("node-restriction.kubernetes.io/a=b", "a node may not set on itself"),
        ("x.k8s.io/a=b", "a node may not set on itself"),
        ("kubernetes.io/role=x", "a node may not set on itself"),
    ],
)
def test_labels_that_are_wrong(value: str, says: str) -> None:
    ((severity, code, message),) = find("NODE_LABELS", f"good=1 {value}")
    assert (severity, code) == ("error", "bad-value")
    assert message.startswith("NODE_LABELS: ")
    assert says in message


def test_a_label_that_stands_twice() -> None:
    found = find("NODE_LABELS", "rack=r1 rack=r2")
    assert found == [("warning", "bad-value", "NODE_LABELS: 'rack' stands twice")]


@pytest.mark.parametrize(
    "value",
    [
        "dedicated=gpu:NoSchedule",
        "maintenance:NoExecute example.org/x=y:PreferNoSchedule",
        "dedicated=gpu:NoSchedule dedicated=gpu:NoExecute",
        "node-role.kubernetes.io/control-plane:NoSchedule",
        "",
    ],
)
def test_taints_that_are_right_pass(value: str) -> None:
    assert find("NODE_TAINTS", value) == []


@pytest.mark.parametrize(
    "value",
    [
        "dedicated=gpu",
        "dedicated=gpu:noschedule",
        ":NoSchedule",
        "a b:NoSchedule=c",
        "dedicated=g/u:NoSchedule",
        "dedicated=gpu:NoSchedule:NoExecute",
    ],
)
def test_taints_that_are_wrong(value: str) -> None:
    found = find("NODE_TAINTS", value)
    assert found
    assert {(severity, code) for severity, code, _ in found} == {("error", "bad-value")}
    assert all("is no taint" in message for _, _, message in found)


def test_a_taint_with_two_values_for_one_effect() -> None:
    found = find("NODE_TAINTS", "dedicated=a:NoSchedule dedicated=b:NoSchedule")
    assert found == [("warning", "bad-value", "NODE_TAINTS: 'dedicated:NoSchedule' stands twice")]
