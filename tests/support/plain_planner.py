"""A planner without judgement, for tests of what surrounds planning: replicas as asked, a ring, Ready when pods are.

A `kubectl scale` of a StatefulSet is a wish, as for the real one; nothing drains, nothing rolls.
"""

from __future__ import annotations

from datetime import datetime

from mailarray.contract.mirroring_table import MirroringTable, Server
from mailarray_operator.api import names
from mailarray_operator.api.configuration import Configuration
from mailarray_operator.plan import own_secrets
from mailarray_operator.plan.decisions import Decisions, GroupDecision
from mailarray_operator.plan.observation import Group, Observation

CANDIDATES = 8


def decide(observation: Observation, configuration: Configuration, now: datetime) -> Decisions:
    """See the module."""
    cluster = observation.cluster
    groups = {name: _group(group) for name, group in observation.groups.items() if group.spec is not None}
    status = None
    if cluster is not None:
        ready = sum(pod.ready for group in observation.groups.values() for pod in group.pods.values())
        desired = sum(decision.replicas for decision in groups.values())
        status = {
            "observedGeneration": cluster.resource.generation,
            "servers": {"desired": desired, "ready": ready},
            "conditions": [_condition("Ready", ready == desired, cluster.resource.generation)],
        }
    spec = None if cluster is None else cluster.spec
    return Decisions(
        new_secrets=() if spec is None else own_secrets.to_be_made(observation, spec),
        table=_table(observation, groups),
        groups=groups,
        cluster_status=status,
        render=cluster is not None and cluster.spec is not None and not cluster.spec.paused,
    )


def _group(group: Group) -> GroupDecision:
    assert group.spec is not None
    there = group.stateful_set
    wish = there.replicas if there is not None and there.recorded not in (None, there.replicas) else None
    replicas = group.spec.replicas if wish is None else wish
    ready = sum(pod.ready for pod in group.pods.values())
    status = {
        "observedGeneration": group.resource.generation,
        "replicas": len(group.pods),
        "selector": f"{names.LABEL_GROUP}={group.resource.name}",
        "conditions": [_condition("Ready", ready == replicas, group.resource.generation)],
    }
    return GroupDecision(
        replicas=replicas, drain="", status=status,
        wish=None if wish == group.spec.replicas else wish,
    )  # fmt: skip


def _condition(type: str, holds: bool, generation: int) -> dict[str, object]:
    return {
        "type": type,
        "status": "True" if holds else "False",
        "reason": "Counted",
        "message": "pods were counted",
        "observedGeneration": generation,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }


def _table(observation: Observation, groups: dict[str, GroupDecision]) -> MirroringTable | None:
    servers = tuple(
        Server(
            name=(server := names.server(group, ordinal)),
            sidecar=f"{server}:{names.PORT_SIDECAR}",
            writer=f"{server}:{names.PORT_WRITER}",
        )
        for group, decision in sorted(groups.items())
        for ordinal in range(decision.replicas)
    )
    if not servers:
        return observation.table
    around = [server.name for server in servers] * 2
    rows: dict[str, tuple[tuple[str, ...], ...]] = {
        server.name: (tuple(n for n in around[i + 1 : i + 1 + CANDIDATES] if n != server.name),)
        for i, server in enumerate(servers)
    }
    before = observation.table
    if before is not None and (before.servers, before.rows) == (servers, rows):
        return before
    return MirroringTable(before.generation + 1 if before else 1, servers, rows)
