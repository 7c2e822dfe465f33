"""Every mistake of the table is refused by a real API server, with the sentence expected; what is no mistake is taken.

`test_conditions` has an operator besides, which watches all namespaces of the control plane.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.bad_resources import Manifest, Row, merged, rows
from tests.e2e.cluster import Cluster
from tests.support.operator_process import RunningOperator

ROOT = Path(__file__).parents[2]
CACHED = Path("~/.cache/mailarray-box/bin/kubectl").expanduser()
CONDITION_SECONDS = 20.0
ROWS = rows()


class Kubectl:
    """kubectl with one kubeconfig, in one namespace."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        program = str(CACHED) if CACHED.exists() else shutil.which("kubectl")
        assert program, "kubectl is neither in ~/.cache/mailarray-box/bin nor on the path"
        self._command = [program, "--kubeconfig", str(kubeconfig), "--namespace", namespace]

    def __call__(self, *arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [*self._command, *map(str, arguments)]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30, check=False)

    def must(self, *arguments: str | Path, stdin: str | None = None) -> str:
        done = self(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def apply(self, manifest: Manifest) -> subprocess.CompletedProcess[str]:
        return self("apply", "-f", "-", stdin=json.dumps(manifest))


@pytest.fixture(scope="module")
def crds(control_plane: Cluster) -> Path:
    """The CRDs are there and served; gives the kubeconfig."""
    kubectl = Kubectl(control_plane.kubeconfig, "default")
    kubectl.must("apply", "--server-side", "--force-conflicts", "-f", ROOT / "crds")
    kubectl.must("wait", "--for=condition=Established", "--timeout=20s", "-f", ROOT / "crds")
    return control_plane.kubeconfig


@pytest.fixture(scope="module")
def running_operator(crds: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningOperator]:
    """An operator on the control plane."""
    operator = RunningOperator(crds, tmp_path_factory.mktemp("operator"), "--operator-namespace=default")
    try:
        operator.wait_ready()
        yield operator
    finally:
        assert operator.stop() == 0, operator.log.read_text()[-4000:]


@pytest.fixture
def kubectl(crds: Path) -> Iterator[Kubectl]:
    """In a namespace of its own."""
    namespace = f"bad-{uuid.uuid4().hex[:8]}"
    outside = Kubectl(crds, "default")
    outside.must("create", "namespace", namespace)
    yield Kubectl(crds, namespace)
    outside.must("delete", "namespace", namespace, "--wait=false")


def of(where: str) -> list[Any]:
    return [pytest.param(row, id=row.name.replace(" ", "-")) for row in ROWS if row.where == where]


def test_the_table_is_long_enough() -> None:
    assert len(of("refused")) >= 22
    assert len(of("condition")) >= 8
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_the_good_ones_are_good(kubectl: Kubectl) -> None:
    table = yaml.safe_load((Path(__file__).parent / "bad_resources" / "table.yaml").read_text())
    for manifest in table["good"].values():
        done = kubectl.apply(manifest)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("row", of("refused"))
def test_refused(kubectl: Kubectl, row: Row) -> None:
    for manifest in row.before:
        kubectl.must("apply", "-f", "-", stdin=json.dumps(manifest))
    done = attempt(kubectl, row)
    assert done.returncode != 0, "it was taken"
    assert row.sentence in done.stderr


@pytest.mark.parametrize("row", of("accepted"))
def test_accepted(kubectl: Kubectl, row: Row) -> None:
    for manifest in row.before:
        kubectl.must("apply", "-f", "-", stdin=json.dumps(manifest))
    done = attempt(kubectl, row)
    assert done.returncode == 0, done.stderr


def attempt(kubectl: Kubectl, row: Row) -> subprocess.CompletedProcess[str]:
    if row.scale is not None:
        (server,) = row.before
        return kubectl("scale", f"mailserver/{server['metadata']['name']}", f"--replicas={row.scale}")
    (manifest,) = row.after
    return kubectl.apply(manifest)


@pytest.mark.parametrize("row", of("condition"))
def test_no_schema_refuses_what_a_condition_is_for(kubectl: Kubectl, row: Row) -> None:
    for manifest in (*row.before, *row.after):
        done = kubectl.apply(manifest)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("row", of("condition"))
@pytest.mark.usefixtures("running_operator")
def test_conditions(kubectl: Kubectl, row: Row) -> None:
    for manifest in row.before:
        kubectl.must("apply", "-f", "-", stdin=json.dumps(manifest))
    if row.before:  # what is changed afterwards has been seen before
        kind, name = row.on
        found_condition(kubectl, kind, name, lambda status: "observedGeneration" in status)
    for manifest in row.after:
        kubectl.must("apply", "-f", "-", stdin=json.dumps(manifest))
    kind, name = row.on

    def there(status: dict[str, Any]) -> bool:
        return any(
            (c["type"], c["status"], c["reason"]) == row.condition and row.sentence in c["message"]
            for c in status.get("conditions", ())
        )

    found_condition(kubectl, kind, name, there)


def found_condition(kubectl: Kubectl, kind: str, name: str, there: Any) -> None:
    deadline = time.monotonic() + CONDITION_SECONDS
    while True:
        status = json.loads(kubectl.must("get", kind, name, "-o", "json")).get("status", {})
        if there(status):
            return
        assert time.monotonic() < deadline, f"{kind} {name} has only {json.dumps(status, indent=1)}"
        time.sleep(0.2)


@pytest.mark.parametrize("domains", [200, 500])
def test_as_many_domains_as_are_allowed(kubectl: Kubectl, domains: int) -> None:
    """Rules that pass the estimate of their cost may still be stopped by their real one."""
    named = [f"a-rather-long-name-of-a-domain-{i}.mail.example" for i in range(domains)]
    listed = [{"name": n, "postmaster": f"ops@{named[-1 - i]}"} for i, n in enumerate(named)]
    table = yaml.safe_load((Path(__file__).parent / "bad_resources" / "table.yaml").read_text())
    done = kubectl.apply(merged(table["good"]["MailCluster"], {"spec": {"domains": listed}}))
    assert done.returncode == 0, done.stderr


def test_scale_subresource(kubectl: Kubectl) -> None:
    """Autoscalers read status and selector through it."""
    table = yaml.safe_load((Path(__file__).parent / "bad_resources" / "table.yaml").read_text())
    kubectl.must("apply", "-f", "-", stdin=json.dumps(table["good"]["MailServer"]))
    status = {"replicas": 1, "selector": "mailarray.io/server-group=example-a"}
    kubectl.must(
        "patch", "mailserver/example-a", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status})
    )
    scale = json.loads(kubectl.must("get", "mailserver/example-a", "--subresource=scale", "-o", "json"))
    assert scale["spec"] == {"replicas": 1}
    assert scale["status"] == status
