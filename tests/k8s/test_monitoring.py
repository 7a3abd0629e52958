"""k8s/monitoring: against what the server says, and before Prometheus' own promtool."""

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.promql import Selector, find_groups, find_selectors
from tests.kustomize import render
from tests.peers import run_in, unpack
from tests.server.metrics.scrape import Scrape, scrape
from tests.server.metrics.test_metrics import busy_metrics

HOUSE = Path(__file__).parents[2]
MONITORING = HOUSE / "k8s/monitoring"
VARIABLES = {"$__rate_interval": "5m", "$instance": ".+"}
# What Prometheus itself adds.
ADDED_METRICS = {"up"}
ADDED_LABELS = {"instance", "job", "le"}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return found


def dashboard_queries() -> dict[str, str]:
    """Each query with the dashboard's variables filled in."""
    queries = {}
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"]
            for variable, value in VARIABLES.items():
                query = query.replace(variable, value)
            assert "$" not in query, f"{panel['title']}: a variable that nobody filled in"
            queries[f"{panel['title']} {target['refId']}"] = query
    return queries


QUERIES = {**{rule["alert"]: rule["expr"] for rule in rules()}, **dashboard_queries()}


@cache
def metrics(tmp: Path) -> Scrape:
    return scrape(busy_metrics(tmp))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Scrape:
    """`/metrics` of a server in which everything has happened."""
    return metrics(tmp_path_factory.mktemp("store"))


def labels_of(seen: Scrape, metric: str) -> list[dict[str, str]]:
    return [dict(labels) for name, labels in seen.samples if name == metric]


def complain(selector: Selector, seen: Scrape) -> str:
    """What is wrong with a selector, or ""."""
    if selector.metric in ADDED_METRICS:
        return ""
    series = labels_of(seen, selector.metric)
    if not series:
        return f"/metrics has no {selector.metric}"
    for label, operator, value in selector.matchers:
        if label in ADDED_LABELS:
            continue
        there = {labels[label] for labels in series if label in labels}
        if not there:
            return f"{selector.metric} has no label {label}"
        if operator == "=" and value not in there:
            return f'{selector.metric} has no {label}="{value}"'
        if operator in ("=~", "!~"):
            for word in value.split("|"):
                if not any(re.fullmatch(word, other) for other in there):
                    return f"{selector.metric}: {word!r} fits no {label}"
    return ""


@pytest.mark.parametrize("title", QUERIES)
def test_queries_name_only_what_metrics_has(title: str, seen: Scrape) -> None:
    selectors = find_selectors(QUERIES[title])
    assert selectors
    for selector in selectors:
        assert not complain(selector, seen)
    there = set(ADDED_LABELS)
    for selector in selectors:
        for labels in labels_of(seen, selector.metric):
            there |= set(labels)
    assert find_groups(QUERIES[title]) <= there


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sum(bootfarm_nodez)", "has no bootfarm_nodez"),
        ("rate(bootfarm_events[5m]) > 0", "has no bootfarm_events"),
        ('bootfarm_nodes{fase="join"}', "no label fase"),
        ('1 - sum by (x) (bootfarm_nodes{phase="jion"})', 'no phase="jion"'),
        ('bootfarm_nodes{phase=~"join|redy"}', "'redy' fits no phase"),
    ],
)
def test_the_check_of_queries_can_fail(query: str, said: str, seen: Scrape) -> None:
    (selector,) = find_selectors(query)
    assert said in complain(selector, seen)


def test_selectors_and_groups() -> None:
    query = 'sum by (a, b) (rate(x_total{y="{z}", w=~"q|"}[5m])) / on (c) up > 0 or absent(v)'
    assert find_selectors(query) == [
        Selector("x_total", (("y", "=", "{z}"), ("w", "=~", "q|"))),
        Selector("up"),
        Selector("v"),
    ]
    assert find_groups(query) == {"a", "b", "c"}


def test_the_operator_has_the_same_rules() -> None:
    plain = yaml.safe_load((MONITORING / "rules.yaml").read_text())
    rule = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
    assert (rule["apiVersion"], rule["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert rule["spec"] == plain


def test_each_alert_has_a_runbook_that_is_there() -> None:
    headings = re.findall(r"^#+ (.*)$", (HOUSE / "docs/monitoring.md").read_text(), re.MULTILINE)
    for rule in rules():
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        file, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (HOUSE / file).is_file()
        assert anchor == rule["alert"].lower()
        assert rule["alert"] in headings


def test_each_alert_is_tested_for_silence_and_for_noise() -> None:
    tests = yaml.safe_load((MONITORING / "rules.test.yaml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in tests[0]["alert_rule_test"]} == names
    assert not any(case.get("exp_alerts") for case in tests[0]["alert_rule_test"])


def test_the_dashboard_is_whole() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another"
        taken |= cells
        if panel["type"] != "row":
            assert panel["targets"], panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}"


def test_the_pod_monitor_finds_the_pods() -> None:
    monitor = yaml.safe_load((MONITORING / "podmonitor.yaml").read_text())
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    deployment = yaml.safe_load((HOUSE / "k8s/base/deployment.yaml").read_text())
    template = deployment["spec"]["template"]
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= template["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    ports = {
        port["name"]: str(port["containerPort"])
        for container in template["spec"]["containers"]
        for port in container["ports"]
    }
    assert endpoint["port"] in ports
    annotations = template["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == ports[endpoint["port"]]
    assert annotations["prometheus.io/path"] == endpoint["path"] == "/metrics"


# promtool


@pytest.fixture(scope="module")
def prometheus() -> Path:
    """Debian's prometheus, unpacked."""
    return unpack("prometheus")


def promtool(
    root: Path, *arguments: str, files: dict[str, str] | None = None, text: bytes | None = None
) -> subprocess.CompletedProcess[str]:
    if text is None:
        return run_in(root, ["promtool", *arguments], files)
    done = subprocess.run(
        ["chroot", str(root), "promtool", *arguments], input=text, capture_output=True, timeout=60
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


@pytest.mark.integration
def test_promtool_runs_the_tests_of_the_rules(prometheus: Path) -> None:
    files = {
        f"/tmp/bootfarm/{name}": (MONITORING / name).read_text()
        for name in ("rules.yaml", "rules.test.yaml")
    }
    done = promtool(prometheus, "test", "rules", "/tmp/bootfarm/rules.test.yaml", files=files)
    assert done.returncode == 0, done.stdout + done.stderr
    text = files["/tmp/bootfarm/rules.yaml"]
    files["/tmp/bootfarm/rules.yaml"] = text.replace("bootfarm_images == 0", "bootfarm_images > 9")
    done = promtool(prometheus, "test", "rules", "/tmp/bootfarm/rules.test.yaml", files=files)
    assert done.returncode != 0, "it would find a rule that is wrong"


@pytest.mark.integration
def test_promtool_accepts_every_query(prometheus: Path) -> None:
    records = [
        {"record": f"bootfarm:query:{number}", "expr": query}
        for number, query in enumerate(QUERIES.values())
    ]
    whole = yaml.safe_dump({"groups": [{"name": "queries", "rules": records}]})
    plain = (MONITORING / "rules.yaml").read_text()
    files = {"/tmp/bootfarm/queries.yaml": whole, "/tmp/bootfarm/rules.yaml": plain}
    for path in files:
        done = promtool(prometheus, "check", "rules", path, files=files)
        assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules())} rules found" in done.stdout


@pytest.mark.integration
def test_promtool_reads_metrics(prometheus: Path, tmp_path: Path) -> None:
    text = busy_metrics(tmp_path).render()[0]
    done = promtool(prometheus, "check", "metrics", text=text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.integration
def test_kustomize_renders_it() -> None:
    documents = {document["kind"]: document for document in yaml.safe_load_all(render(MONITORING))}
    assert set(documents) == {"PodMonitor", "PrometheusRule", "ConfigMap"}
    assert {document["metadata"]["namespace"] for document in documents.values()} == {"bootfarm"}
    config = documents["ConfigMap"]
    assert config["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert json.loads(config["data"]["dashboard.json"]) == dashboard()
    assert {"groups": documents["PrometheusRule"]["spec"]["groups"]} == yaml.safe_load(
        (MONITORING / "rules.yaml").read_text()
    )
