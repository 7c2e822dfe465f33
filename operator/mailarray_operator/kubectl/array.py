"""A MailCluster with its MailServers and pods, as the Kubernetes API tells: typed, and tolerant of what is missing.

A status may be empty (the operator has not looked yet) or of another version; so everything missing has a value here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from mailarray_operator.api import names
from mailarray_operator.kubectl.kubectl import Kubectl, NotFound

KINDS = f"mailclusters.{names.GROUP},mailservers.{names.GROUP}"


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a status."""

    type: str
    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ServerRow:
    """One server, as its MailServer's status tells."""

    group: str
    name: str
    phase: str
    progress: int | None
    time_left: str  # as the operator tells it, such as 25m; "" when nobody knows
    zone: str
    node: str
    volume: str
    mirrors: tuple[str, ...]
    message: str
    broken: Mapping[str, str] = field(default_factory=dict)  # of its several volumes, by name: why


@dataclass(frozen=True, slots=True)
class Resource:
    """What a MailCluster and a MailServer have in common."""

    namespace: str
    name: str
    spec: Mapping[str, Any]
    status: Mapping[str, Any]
    conditions: tuple[Condition, ...]
    behind: bool  # the operator has not looked at the newest spec yet

    def condition(self, type_: str) -> Condition | None:
        """The condition of that type."""
        return next((c for c in self.conditions if c.type == type_), None)


@dataclass(frozen=True, slots=True)
class Group(Resource):
    """A MailServer."""

    servers: tuple[ServerRow, ...] = ()

    @property
    def wanted(self) -> int:
        """Servers that are asked for."""
        value = self.spec.get("replicas", 1)
        return value if isinstance(value, int) else 1

    def ordinal(self, server: str) -> int | None:
        """The number of a server of this group, or None when the name is not one of this group's."""
        text = server.removeprefix(f"{self.name}-")
        return int(text) if text != server and text.isascii() and text.isdigit() else None


@dataclass(frozen=True, slots=True)
class Cluster(Resource):
    """A MailCluster."""

    groups: tuple[Group, ...] = ()

    @property
    def servers(self) -> list[ServerRow]:
        """Of all groups."""
        return [server for group in self.groups for server in group.servers]


@dataclass(frozen=True, slots=True)
class Pod:
    """A server's pod."""

    name: str
    node: str
    ready: bool
    askable: bool  # its container `catalog` runs, and it is not on its way out
    problem: str  # why it is not ready, as Kubernetes says; "" when it does not
    volumes: int = 1  # of its server

    def volume_names(self) -> list[str]:
        """As the mirroring table and their own statuses have them; the first has the server's name."""
        return [self.name, *(f"{self.name}.{number}" for number in range(1, self.volumes))]


@dataclass(frozen=True, slots=True)
class Everything:
    """All that is in the namespace, or in all of them."""

    clusters: tuple[Cluster, ...]
    orphans: tuple[Group, ...] = field(default=())  # MailServers whose MailCluster is not there


def fetch(kubectl: Kubectl, *, all_namespaces: bool = False) -> Everything:
    """Every MailCluster with its MailServers, by name."""
    items = kubectl.get(KINDS, *(["--all-namespaces"] if all_namespaces else [])).get("items") or []
    groups = sorted((_group(i) for i in items if i.get("kind") == "MailServer"), key=lambda g: (g.namespace, g.name))
    clusters: list[Cluster] = []
    taken: set[tuple[str, str]] = set()
    for item in items:
        if item.get("kind") == "MailCluster":
            meta = item["metadata"]
            own = tuple(
                g for g in groups if g.namespace == meta.get("namespace", "") and _cluster_of(g) == meta["name"]
            )
            taken.update((g.namespace, g.name) for g in own)
            clusters.append(Cluster(**_common(item), groups=own))
    clusters.sort(key=lambda c: (c.namespace, c.name))
    return Everything(tuple(clusters), tuple(g for g in groups if (g.namespace, g.name) not in taken))


def choose(everything: Everything, target_cluster: str | None) -> Cluster:
    """The one that is meant. Raises ClickException with a sentence."""
    known = [cluster.name for cluster in everything.clusters]
    if target_cluster is not None:
        for cluster in everything.clusters:
            if cluster.name == target_cluster:
                return cluster
        here = f"there is {listed(known)}" if known else "there is none"
        raise click.ClickException(f"no MailCluster {target_cluster} in this namespace; {here}; name another with -n")
    if not known:
        raise click.ClickException(
            "no MailCluster in this namespace; name another with -n, or look everywhere with "
            "`kubectl mailarray status -A`"
        )
    if len(known) > 1:
        raise click.ClickException(f"several MailClusters are here ({listed(known)}); name one with --cluster")
    return everything.clusters[0]


def chosen(kubectl: Kubectl) -> Cluster:
    """Fetch and choose."""
    return choose(fetch(kubectl), kubectl.target.cluster)


def pods(kubectl: Kubectl, cluster: str) -> dict[str, Pod]:
    """The server pods of a cluster, by name."""
    selector = f"{names.LABEL_CLUSTER}={cluster},{names.LABEL_COMPONENT}={names.SERVER}"
    items = kubectl.get("pods", "-l", selector).get("items") or []
    return {pod.name: pod for pod in sorted((_pod(item) for item in items), key=lambda p: natural(p.name))}


def some_to_ask(kubectl: Kubectl, cluster: str) -> list[Pod]:
    """Pods that commands can run in, ready ones first; at least one. Raises ClickException with a sentence."""
    every = pods(kubectl, cluster)
    askable = [pod for pod in sorted(every.values(), key=lambda p: not p.ready) if pod.askable]
    if askable:
        return askable
    if not every:
        raise click.ClickException(
            f"{cluster} has no server pods to ask; look with `kubectl mailarray servers`, and at the operator's log"
        )
    first = next(iter(every.values()))
    why = f" ({first.name}: {first.problem})" if first.problem else ""
    raise click.ClickException(f"no server of {cluster} runs that could be asked{why}; look with `kubectl get pods`")


def mirroring_table(kubectl: Kubectl, cluster: str) -> Mapping[str, Any] | None:
    """The ConfigMap's table, as the operator wrote it last; None before the first one."""
    import json

    try:
        found = kubectl.get("configmap", names.mirroring_table(cluster))
    except NotFound:
        return None
    try:
        table = json.loads((found.get("data") or {}).get(names.FILE_TABLE, ""))
    except ValueError:
        raise click.ClickException(
            f"the ConfigMap {names.mirroring_table(cluster)} holds no mirroring table; look at the operator's "
            "log, which says why it does not write it anew"
        ) from None
    return table if isinstance(table, dict) else None


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def natural(name: str) -> tuple[str, int]:
    """So that mail-10 comes after mail-9."""
    head, _, tail = name.rpartition("-")
    return (head, int(tail)) if tail.isascii() and tail.isdigit() else (name, -1)


def _cluster_of(group: Group) -> str:
    return str((group.spec.get("clusterRef") or {}).get("name", ""))


def _common(item: Mapping[str, Any]) -> dict[str, Any]:
    meta, status = item["metadata"], item.get("status") or {}
    return {
        "namespace": meta.get("namespace", ""),
        "name": meta["name"],
        "spec": item.get("spec") or {},
        "status": status,
        "conditions": tuple(
            Condition(c.get("type", ""), c.get("status", ""), c.get("reason", ""), c.get("message", ""))
            for c in status.get("conditions") or []
        ),
        "behind": status.get("observedGeneration", 0) < meta.get("generation", 0),
    }


def _group(item: Mapping[str, Any]) -> Group:
    common = _common(item)
    rows = [
        ServerRow(
            group=common["name"],
            name=row.get("name", ""),
            phase=row.get("phase", ""),
            progress=row.get("progress"),
            time_left=row.get("timeLeft", ""),
            zone=row.get("zone", ""),
            node=row.get("node", ""),
            volume=row.get("volume", ""),
            mirrors=tuple(row.get("mirrors") or ()),
            message=row.get("message", ""),
            broken={str(b.get("name")): str(b.get("reason", "")) for b in row.get("brokenVolumes") or ()},
        )
        for row in common["status"].get("servers") or []
    ]
    return Group(**common, servers=tuple(sorted(rows, key=lambda row: natural(row.name))))


def _pod(item: Mapping[str, Any]) -> Pod:
    status = item.get("status") or {}
    containers = status.get("containerStatuses") or []
    running = any(c.get("name") == names.CONTAINER_CATALOG and "running" in (c.get("state") or {}) for c in containers)
    leaving = "deletionTimestamp" in item["metadata"]
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or [])
    return Pod(
        name=item["metadata"]["name"],
        node=(item.get("spec") or {}).get("nodeName", ""),
        ready=ready and not leaving,
        askable=running and not leaving,
        problem="is being deleted" if leaving else _problem(status, containers),
        volumes=max(1, sum(str(c.get("name")).startswith(names.CONTAINER_CATALOG) for c in containers)),
    )


def _problem(status: Mapping[str, Any], containers: Sequence[Mapping[str, Any]]) -> str:
    for container in containers:
        state = container.get("state") or {}
        waiting = state.get("waiting") or state.get("terminated")
        if waiting:
            detail = f": {waiting['message']}" if waiting.get("message") else ""
            return f"container {container.get('name')} is in {waiting.get('reason', 'an unknown state')}{detail}"
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"cannot be placed on a node: {condition.get('message', '')}".rstrip(": ")
    return ""
