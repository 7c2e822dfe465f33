"""Cases of rendering: resources as a user writes them, in `resources/`, read and decided upon in the simplest way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mailarray.contract.mirroring_table import MirroringTable
from mailarray.contract.resources.mailcluster import MailClusterSpec
from mailarray.contract.resources.mailserver import MailServerSpec
from mailarray.contract.resources.reading import Document, Reader
from mailarray_operator.api.configuration import Configuration
from mailarray_operator.plan.decisions import Decisions, GroupDecision
from mailarray_operator.plan.observation import ClusterResource, Group, Observation, Resource

HERE = Path(__file__).parent
CASES = sorted(path.stem for path in (HERE / "resources").glob("*.yaml"))
CONFIGURATION = Configuration(
    dataplane_image="mailarray/dataplane:1.0",
    postgresql_image="mailarray/postgresql:1.0",
    operator_namespace="operator",
)


def case(name: str) -> tuple[Observation, Decisions]:
    """What is observed and decided: every group as its spec has it, an empty table, nothing there yet."""
    text = (HERE / "resources" / f"{name}.yaml").read_text(encoding="utf-8")
    return of_documents(list(yaml.safe_load_all(text)))


def of_documents(contents: list[dict[str, Any]]) -> tuple[Observation, Decisions]:
    """The same, of documents."""
    head, *rest = contents
    cluster = ClusterResource(_resource(head), _read(MailClusterSpec, head))
    groups = {d["metadata"]["name"]: Group(_resource(d), _read(MailServerSpec, d)) for d in rest}
    decisions = {
        name: GroupDecision(replicas=group.spec.replicas, drain="", status={})
        for name, group in groups.items()
        if group.spec is not None
    }
    observation = Observation(
        namespace=head["metadata"]["namespace"], name=head["metadata"]["name"], cluster=cluster, groups=groups
    )
    return observation, Decisions(table=MirroringTable(1, (), {}), groups=decisions, cluster_status={})


def _resource(content: dict[str, Any]) -> Resource:
    name = content["metadata"]["name"]
    return Resource(name=name, uid=f"uid-of-{name}", generation=1, status={})


def _read(kind: type[Any], content: dict[str, Any]) -> Any:
    return Reader(Document("test", 1, content)).read(kind, content["spec"], "spec")
