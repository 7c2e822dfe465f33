"""Servers with several volumes: one row of the table for each, and one word for all of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from mailarray.contract.server_names import host_of
from mailarray_operator.plan import rolling, servers, volumes
from mailarray_operator.plan.observation import ServerReport, VolumeReport
from tests.unit.operator.plan.world import World


def settled(replicas: int = 3, count: int = 2) -> World:
    world = World()
    world.group("mx", replicas).volumes = count
    world.settle()
    return world


def phases(world: World) -> dict[str, str]:
    return {entry["name"]: entry["phase"] for entry in world.groups["mx"].status["servers"]}


def entry(world: World, name: str) -> dict[str, Any]:
    return next(dict(one) for one in world.groups["mx"].status["servers"] if one["name"] == name)


def test_each_volume_has_a_row_and_no_mirror_on_its_own_server() -> None:
    world = settled()
    table = world.table
    assert table is not None
    assert [server.name for server in table.servers] == ["mx-0", "mx-0.1", "mx-1", "mx-1.1", "mx-2", "mx-2.1"]
    further = table.server("mx-1.1")
    assert further is not None
    assert further.sidecar == "mx-1.example-servers.mail.svc.cluster.local:2621"
    assert further.writer == "mx-1.example-servers.mail.svc.cluster.local:2601"
    assert (further.zone, further.node) == ("b", "node-mx-1")
    for name, row in table.rows.items():
        assert {host_of(mirror) for group in row for mirror in group} == {"mx-0", "mx-1", "mx-2"} - {host_of(name)}
    assert phases(world) == {"mx-0": "Serving", "mx-1": "Serving", "mx-2": "Serving"}
    assert world.cluster_status["mirroring"]["servers"] == 3
    assert entry(world, "mx-0")["volume"] == "volume of claim-1,volume of claim-1 for mx-0.1"
    assert len(world.claims) == 6
    assert world.decide().table == table  # nothing new, nothing changes


def test_a_drain_ends_when_all_volumes_are_empty() -> None:
    world = settled()
    world.full_of_mail.add("mx-2.1")
    world.scale_mailserver("mx", 2)
    for _ in range(20):
        world.step()
    assert world.table is not None
    assert {server.name for server in world.table.servers if server.draining} == {"mx-2", "mx-2.1"}
    assert world.groups["mx"].replicas == 3
    assert entry(world, "mx-2")["phase"] == "Draining"
    world.full_of_mail.clear()
    world.settle()
    assert world.groups["mx"].replicas == 2
    assert {host_of(server.name) for server in world.table.servers} == {"mx-0", "mx-1"}


def test_a_volume_that_does_not_answer_has_not_been_emptied() -> None:
    world = settled()
    world.broken_volumes.add("mx-2.1")
    world.scale_mailserver("mx", 2)
    for _ in range(20):
        world.step()
    assert world.groups["mx"].replicas == 3


def test_a_broken_disk_is_told_and_its_server_is_not_lost() -> None:
    world = settled()
    before = world.table
    world.broken_volumes.add("mx-1")  # the first one: the others are heard all the same
    for _ in range(5):
        world.tick(30.0)
        world.step()
    shown = entry(world, "mx-1")
    assert shown["phase"] == "Serving"
    assert shown["message"].startswith("its volume mx-1 is broken (it does not answer), and its other volumes serve; ")
    assert "`kubectl delete pvc/volume-mx-1 pod/mx-1`" in shown["message"]
    assert shown["volume"] == "volume of claim-3,volume of claim-3 for mx-1.1"
    assert world.table == before
    world.broken_volumes.clear()
    world.settle()
    assert phases(world)["mx-1"] == "Serving"


def test_nothing_restarts_until_every_volume_is_in_sync() -> None:
    world = settled()
    world.alone.add("mx-0.1")
    world.groups["mx"].revision = "r2"
    for _ in range(5):
        world.step()
    assert world.restarts == []
    world.alone.clear()
    world.settle()
    assert sorted(world.restarts) == ["mx-0", "mx-1", "mx-2"]


def test_mirrors_on_one_server_are_one_mirror() -> None:
    world = World(copies=3)
    world.group("mx", 3).volumes = 2
    world.settle()
    observation = world.observe()
    said = dict(observation.reports)
    report = said["mx-0"]
    assert report.writer is not None
    near = [{"server": name, "state": "InSync"} for name in ("mx-1", "mx-1.1")]
    said["mx-0"] = dataclasses.replace(report, writer={**report.writer, "mirrors": near})
    group = observation.groups["mx"]
    before = entry(world, "mx-0")
    good = servers.look_at(observation, group, "mx-0", 0, before, 2)
    bad = servers.look_at(dataclasses.replace(observation, reports=said), group, "mx-0", 0, before, 2)
    assert rolling.in_sync(good, True) and not rolling.in_sync(bad, True)


def test_all_claims_grow() -> None:
    world = settled(2)
    world.groups["mx"].size *= 2
    grown = sorted(growth.claim for growth in world.decide().growths)
    assert grown == ["volume-1-mx-0", "volume-1-mx-1", "volume-mx-0", "volume-mx-1"]


def test_a_full_volume_is_in_nobodys_row_and_the_others_of_its_server_stay() -> None:
    world = settled()
    observation = world.observe()
    report = observation.reports["mx-1"]
    (further,) = report.further
    full = VolumeReport({**(further.sidecar or {}), "full": True}, further.writer)
    said = {**observation.reports, "mx-1": dataclasses.replace(report, further=(full,))}
    world.observe = lambda not_evictable="": dataclasses.replace(observation, reports=said)  # type: ignore[method-assign]
    table = world.decide().table
    assert table is not None
    mirrors = {mirror for row in table.rows.values() for group in row for mirror in group}
    assert mirrors == {"mx-0", "mx-0.1", "mx-1", "mx-2", "mx-2.1"}


def test_words_are_put_together_carefully() -> None:
    done, under_way = {"done": True, "bytes_total": 5}, {"done": False, "bytes_total": 7, "bytes_left": 3}
    one: dict[str, Any] = {"volume": "aa", "table_generation": 4, "drain": done, "rebuild": None, "under_replicated": 1}
    two: dict[str, Any] = {"volume": "bb", "table_generation": 3, "drain": done, "rebuild": under_way}
    both = volumes.sidecars([one, two])
    assert both is not None
    assert (both["volume"], both["table_generation"], both["drain"]["done"]) == ("aa,bb", 3, True)
    assert (both["rebuild"]["done"], both["rebuild"]["bytes_left"], both["under_replicated"]) == (False, 3, 1)
    half = volumes.sidecars([None, two])
    assert half is not None
    assert (half["volume"], half["table_generation"], half["drain"]["done"]) == ("", -1, False)
    waiting = volumes.sidecars([one, {**two, "drain": None}])
    assert waiting is not None and waiting["drain"]["done"] is False
    assert volumes.sidecars([None, None]) is None and volumes.sidecars([one]) is one
    said = volumes.writers("mx-0", [{"at_rest": True, "refusing": None}, {"at_rest": False, "refusing": "full"}])
    assert said is not None and (said["at_rest"], said["refusing"]) == (False, "mx-0.1: full")
    assert ServerReport(0.0, one, None).volumes == (VolumeReport(one, None),)
