"""The chart: rendered as written down, refusing values that nothing reads, asking for no more rights than it lists.

`UPDATE_GOLDEN=1` writes the golden files anew; read the difference before it is committed. Without Helm, on the path or
in the cache of the cluster in a box, what needs it is skipped, and `make e2e` runs it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mailarray_operator.api import names

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "mailarray"
HERE = Path(__file__).parent
VALUES = sorted(p.stem for p in (HERE / "values").glob("*.yaml"))
CACHED = Path("~/.cache/mailarray-box/bin/helm").expanduser()
HELM = shutil.which("helm") or (str(CACHED) if CACHED.exists() else "")
needs_helm = pytest.mark.skipif(not HELM, reason="Helm is neither on the path nor in ~/.cache/mailarray-box/bin")
Manifest = dict[str, Any]


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HELM, *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False)


def render(values: str, *more: str) -> str:
    done = helm("template", "array", CHART, "-n", "mail", "-f", HERE / "values" / f"{values}.yaml", *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def manifests(values: str, *more: str) -> list[Manifest]:
    return [d for d in yaml.safe_load_all(render(values, *more)) if d]


def of_kind(found: list[Manifest], kind: str) -> list[Manifest]:
    return [m for m in found if m["kind"] == kind]


@needs_helm
@pytest.mark.parametrize("values", VALUES)
def test_lint_finds_nothing(values: str) -> None:
    done = helm("lint", CHART, "--strict", "-f", HERE / "values" / f"{values}.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_helm
@pytest.mark.parametrize("values", VALUES)
def test_rendered_as_written_down(values: str) -> None:
    found = [m for m in manifests(values) if m["kind"] != "CustomResourceDefinition"]
    for configmap in of_kind(found, "ConfigMap"):  # the dashboard has a test of its own
        configmap["data"] = {k: f"{len(json.loads(v)['panels'])} panels" for k, v in configmap["data"].items()}
    text = yaml.safe_dump_all(found, sort_keys=False, width=120)
    golden = HERE / "golden" / f"{values}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text(), f"see {golden}; UPDATE_GOLDEN=1 writes it anew"


@needs_helm
@pytest.mark.parametrize("values", VALUES)
def test_the_operators_lease_goes_with_the_release_and_what_it_says_is_not_the_charts(values: str) -> None:
    found = manifests(values)
    (lease,) = of_kind(found, "Lease")
    (operator,) = of_kind(found, "Deployment")
    arguments = operator["spec"]["template"]["spec"]["containers"][0]["args"]
    assert f"--lease-name={lease['metadata']['name']}" in arguments
    assert "spec" not in lease, "Helm would set the holder back with every upgrade"


def test_crds_are_the_source_kept_for_ever() -> None:
    spec = importlib.util.spec_from_file_location("copy_crds", ROOT / "charts" / "copy_crds.py")
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    sources = {p.name: copy.template(p.read_text()) for p in (ROOT / "crds").glob("*.yaml")}
    templates = {p.name: p.read_text() for p in (CHART / "templates" / "crds").glob("*.yaml")}
    assert sources == templates, "run python3 charts/copy_crds.py"


@needs_helm
def test_crds_are_rendered_and_kept() -> None:
    rendered = {m["metadata"]["name"]: m for m in of_kind(manifests("default"), "CustomResourceDefinition")}
    for path in (ROOT / "crds").glob("*.yaml"):
        source = yaml.safe_load(path.read_text())
        crd = rendered.pop(source["metadata"]["name"])
        assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert crd == source
    assert not rendered
    assert not of_kind(manifests("cluster-wide"), "CustomResourceDefinition"), "crds.install: false"


def test_schema_is_strict_and_fits_the_values() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.validate(values, schema)
    same_keys(schema, values, "values")


def same_keys(schema: Manifest, values: Any, path: str) -> None:
    assert schema.get("description"), f"{path} is not described"
    if schema.get("type") != "object" or "properties" not in schema:
        return
    assert schema.get("additionalProperties") is False, f"{path} lets anything in"
    known = set(schema["properties"]) - {"global", "claims"}
    assert known == set(values), f"{path}: schema and values.yaml name different keys"
    for key in known:
        same_keys(schema["properties"][key], values[key], f"{path}.{key}")


@needs_helm
@pytest.mark.parametrize(
    "wrong",
    [
        "operator.replica=2",
        "operator.replicas=3",
        "images.operator.repository=",
        "watchNamespaces={Mail}",
        "test.address=al",
    ],
)
def test_wrong_values_are_refused(wrong: str) -> None:
    done = helm("template", "array", CHART, "--set", wrong)
    assert done.returncode != 0
    assert wrong.split("=")[0].split(".")[-1].rstrip("s") in done.stderr


@needs_helm
@pytest.mark.parametrize("values", VALUES)
def test_every_container_is_restricted(values: str) -> None:
    found = manifests(values)
    pods = [m["spec"]["template"]["spec"] for m in of_kind(found, "Deployment")] + [
        m["spec"] for m in of_kind(found, "Pod")
    ]
    assert len(pods) == 2
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@needs_helm
def test_rights_are_no_more_than_these() -> None:
    found = manifests("default")
    (nodes,) = of_kind(found, "ClusterRole")
    assert [rule["resources"] for rule in nodes["rules"]] == [["nodes"], ["storageclasses"]]
    assert all(rule["verbs"] == ["get", "list", "watch"] for rule in nodes["rules"])
    for role in of_kind(found, "Role"):
        assert role["metadata"]["namespace"] == "mail"
        for rule in role["rules"]:
            assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]
            if {"persistentvolumeclaims", "statefulsets"} & set(rule["resources"]):
                assert "delete" not in rule["verbs"], "they hold the mail"
            if {"mailclusters", "mirrorpairs"} & set(rule["resources"]):
                assert set(rule["verbs"]) == {"get", "list", "watch"}, "they are the user's own"
            if "secrets" in rule["resources"]:
                assert not {"patch", "update", "delete"} & set(rule["verbs"]), "they are made once"
    assert not of_kind(manifests("cluster-wide"), "ClusterRoleBinding")[1:], "readNodes: false leaves one"
    everything = of_kind(manifests("everything"), "Role")
    assert {m["metadata"]["namespace"] for m in everything} == {"mail", "post"}


@needs_helm
def test_hooks_leave_nothing() -> None:
    for values in VALUES:
        for manifest in manifests(values):
            annotations = manifest["metadata"].get("annotations") or {}
            if "helm.sh/hook" in annotations:
                assert annotations["helm.sh/hook"] == "test"
                policy = annotations["helm.sh/hook-delete-policy"].split(",")
                assert {"before-hook-creation", "hook-succeeded", "hook-failed"} == set(policy)


def test_every_metric_of_dashboard_and_alerts_exists() -> None:
    known = set()
    for path in (p for top in ("dataplane", "operator") for p in (ROOT / top).rglob("*.py")):
        for kind, name in re.findall(r"(Counter|Gauge|Histogram)\(\s*\"(mailarray_[a-z_0-9]+)\"", path.read_text()):
            bare = name.removesuffix("_total")
            known |= {"Counter": {f"{bare}_total"}, "Gauge": {name}, "Histogram": {f"{name}_bucket"}}[kind]
    dashboard = json.loads((CHART / "dashboards" / "mailarray.json").read_text())
    queries = [t["expr"] for p in dashboard["panels"] for t in p["targets"]]
    alerts = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    queries += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    assert len(queries) > 20
    used = {name for query in queries for name in re.findall(r"\bmailarray_[a-z_0-9]+", query)}
    assert used <= known, f"nothing has these metrics: {sorted(used - known)}"


@needs_helm
def test_metrics_of_further_volumes_are_scraped_where_there_are_some() -> None:
    named = "monitoring.podMonitors.clusters[0].name=example,monitoring.podMonitors.clusters[0].namespace=mail"
    for more, expected in (("", 3), (",monitoring.podMonitors.clusters[0].volumes=3", 7)):
        (monitor,) = [m for m in manifests("default", "--set", named + more) if m["kind"] == "PodMonitor"]
        ports = [endpoint["portNumber"] for endpoint in monitor["spec"]["podMetricsEndpoints"]]
        assert len(ports) == expected
    assert ports == [2510, 2520, 2530, *(port(n) for n in (1, 2) for port in (names.writer_port, names.sidecar_port))]


def test_what_an_alert_sends_people_to_is_there() -> None:
    operations = (ROOT / "docs" / "operations.md").read_text()
    headings = {line.lstrip("# ") for line in operations.splitlines() if line.startswith("#")}
    alerts = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    named = set()
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "description"} == rule["annotations"].keys(), rule["alert"]
        named |= set(re.findall(r'See "([^"]+)" in docs/operations.md', rule["annotations"]["description"]))
    assert len(named) > 5 and named <= headings, f"no such section: {sorted(named - headings)}"


@pytest.mark.parametrize(
    ("alert", "quiet", "fires"),
    [  # what the metrics say, and whether the alert's expression is true of it: by hand, for those without arithmetic
        ("MailarrayDamageNotMended", {"mailarray_segments_damaged": 0}, {"mailarray_segments_damaged": 1}),
        (
            "MailarrayScrubLate",
            {"mailarray_scrub_oldest_seconds": 1.9e6, "mailarray_scrub_interval_seconds": 1e6},
            {"mailarray_scrub_oldest_seconds": 2.1e6, "mailarray_scrub_interval_seconds": 1e6},
        ),
        ("MailarraySecondDeliveriesWait", {"mailarray_duplicates_owed": 0}, {"mailarray_duplicates_owed": 1}),
        (
            "MailarrayVolumeBroken",
            {"mailarray_operator_volumes_broken": 0},
            {"mailarray_operator_volumes_broken": 1},
        ),
        ("MailarrayOneZone", {"mailarray_segments_in_one_zone": 0}, {"mailarray_segments_in_one_zone": 3}),
    ],
)
def test_an_alert_fires_by_its_figures(alert: str, quiet: dict[str, float], fires: dict[str, float]) -> None:
    alerts = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    (rule,) = [rule for group in alerts["groups"] for rule in group["rules"] if rule["alert"] == alert]

    def holds(figures: dict[str, float]) -> bool:
        """Of figures that stand still: any time's least and largest are themselves, and a sum is over one server."""
        plain = re.sub(r"(?:sum by \(namespace\) |(?:min|max)_over_time)\((\w+)(?:\[\w+\])?\)", r"\1", rule["expr"])
        return bool(eval(plain, {"__builtins__": {}}, dict(figures)))  # of our own file

    assert not holds(quiet) and holds(fires)
