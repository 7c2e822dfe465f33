"""A change of one pod leads to one decision over everything, so a large cluster must be decided quickly."""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime
from typing import Any

from mailarray.contract.resources.common import NameRef
from mailarray.contract.resources.mailserver import MailServerSpec
from mailarray_operator.plan import decide
from mailarray_operator.plan.observation import Claim, Group, Observation, Pod, Resource, ServerReport, StatefulSet
from tests.unit.operator.plan.world import CONFIGURATION, World

GROUPS, SERVERS = 500, 3
BOUND = 1.0  # seconds of the processor; a tenth of it is taken
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def large() -> Observation:
    spec = MailServerSpec(NameRef("example"), SERVERS)
    groups: dict[str, Group] = {}
    reports: dict[str, ServerReport] = {}
    for g in range(GROUPS):
        name = f"example-{g:03}"
        pods: dict[str, Pod] = {}
        claims: dict[str, Claim] = {}
        for i in range(SERVERS):
            server = f"{name}-{i}"
            pods[server] = Pod(server, server, f"node-{g % 100}-{i}", f"zone-{i}", "", True, False, "r1")
            claims[server] = Claim(f"volume-{server}", server, 10 << 30, 10 << 30)
            sidecar = {"volume": server, "table_generation": 1, "drain": None, "rebuild": None, "under_replicated": 0}
            links = [{"server": f"m-{m}", "state": "InSync", "in_use": m == 0} for m in range(8)]
            writer = {"refusing": None, "copies": {"wanted": 2, "now": 2}, "mirrors": links}
            reports[server] = ServerReport(1.0, sidecar, writer, server)
        groups[name] = Group(Resource(name, name, 1, {}), spec, StatefulSet(SERVERS, SERVERS, "r1"), pods, claims)
    empty = World().observe()
    return dataclasses.replace(empty, groups=groups, reports=reports, clock=2.0)


def settled(observation: Observation) -> Observation:
    """As it is observed after its decisions were carried out."""
    decisions = decide(observation, CONFIGURATION, NOW)
    assert decisions.cluster_status is not None and observation.cluster is not None
    groups: dict[str, Group] = {}
    for name, group in observation.groups.items():
        status: Any = decisions.groups[name].status
        groups[name] = dataclasses.replace(group, resource=dataclasses.replace(group.resource, status=status))
    resource = dataclasses.replace(observation.cluster.resource, status=decisions.cluster_status)
    cluster = dataclasses.replace(observation.cluster, resource=resource)
    return dataclasses.replace(observation, cluster=cluster, groups=groups, table=decisions.table)


def test_500_groups_of_3_servers_are_decided_in_time() -> None:
    observation = settled(large())
    best = min(_seconds(observation) for _ in range(3))
    print(f"{best * 1000:.0f} ms for {GROUPS} groups of {SERVERS} servers")
    assert best < BOUND
    again = decide(observation, CONFIGURATION, datetime(2031, 1, 1, tzinfo=UTC))
    assert all(again.groups[name].status == group.resource.status for name, group in observation.groups.items())
    assert not again.events


def test_what_has_not_changed_is_not_decided_again() -> None:
    observation = settled(large())
    before = decide(observation, CONFIGURATION, NOW)
    name, server = "example-007", "example-007-1"
    report = observation.reports[server]
    rebuilds = {**(report.sidecar or {}), "rebuild": {"done": False, "bytes_total": 100, "bytes_left": 50}}
    reports = {**observation.reports, server: dataclasses.replace(report, sidecar=rebuilds)}
    changed = decide(dataclasses.replace(observation, reports=reports), CONFIGURATION, NOW)
    assert changed.groups[name].status["servers"][1]["phase"] == "Rebuilding"
    assert changed.cluster_status != before.cluster_status
    others = observation.groups.keys() - {name}
    assert all(changed.groups[other] is before.groups[other] for other in others)
    spec = dataclasses.replace(observation.groups[name], spec=MailServerSpec(NameRef("example"), SERVERS + 1))
    grown = dataclasses.replace(observation, groups={**observation.groups, name: spec})
    assert decide(grown, CONFIGURATION, NOW).groups[name].replicas == SERVERS + 1
    assert decide(observation, CONFIGURATION, NOW) == before


def test_a_new_table_for_1500_servers_is_made_in_time() -> None:
    observation = settled(large())
    name = "example-499"
    group = observation.groups[name]
    pod = dataclasses.replace(group.pods[f"{name}-2"], node="another")
    moved = dataclasses.replace(group, pods={**group.pods, f"{name}-2": pod})
    changed = dataclasses.replace(observation, groups={**observation.groups, name: moved})
    took = _seconds(changed)
    print(f"{took * 1000:.0f} ms with a new table")
    assert took < BOUND


def _seconds(observation: Observation) -> float:
    began = time.process_time()
    decide(observation, CONFIGURATION, NOW)
    return time.process_time() - began
