"""One volume of several is broken: what is said, what goes on without it, and who waits for it until when."""

from __future__ import annotations

from typing import Any

import pytest

from mailarray_operator.plan import broken
from mailarray_operator.plan.observation import Pod, VolumeReport
from tests.unit.operator.plan.world import World

WHY = "the volume /var/lib/mailarray/volume-1 cannot be used: Input/output error"


def settled(replicas: int = 3, count: int = 2) -> World:
    world = World()
    world.group("mx", replicas).volumes = count
    world.settle()
    world.events.clear()
    return world


def break_volume(world: World, volume: str, why: str = WHY) -> None:
    world.broken_volumes.add(volume)
    world.crashing_volumes[volume] = why
    steps(world, 4)


def mend(world: World, volume: str) -> None:
    world.broken_volumes.discard(volume)
    world.crashing_volumes.pop(volume, None)


def steps(world: World, count: int, seconds: float = 2.0) -> None:
    for _ in range(count):
        world.tick(seconds)
        world.step()


def entry(world: World, name: str) -> dict[str, Any]:
    return next(dict(one) for one in world.groups["mx"].status["servers"] if one["name"] == name)


def condition(status: dict[str, Any], type_: str) -> dict[str, Any]:
    return next(dict(c) for c in status["conditions"] if c["type"] == type_)


def progressing(world: World) -> str:
    return str(condition(world.cluster_status, "Progressing")["message"])


def test_the_volume_and_the_reason_are_named_once_and_the_server_counts() -> None:
    world = settled()
    break_volume(world, "mx-1.1")
    steps(world, 20)
    status = world.groups["mx"].status
    assert entry(world, "mx-1")["phase"] == "Serving" and status["readyReplicas"] == 3
    assert entry(world, "mx-1")["brokenVolumes"] == [{"name": "mx-1.1", "reason": WHY}]
    said = condition(status, "VolumesBroken")
    assert (said["status"], said["reason"]) == ("True", "VolumeBroken")
    assert said["message"] == (
        f"mx-1: its volume mx-1.1 is broken ({WHY}), and its other volumes serve; mend its disk, or replace it and "
        "`kubectl delete pvc/volume-1-mx-1 pod/mx-1`, or declare it lost with "
        "`mailarray volume lost volume of claim-3 for mx-1.1`"
    )
    assert condition(status, "Ready")["message"] == "3 servers serve, without the broken volume mx-1.1"
    assert condition(world.cluster_status, "Ready")["status"] == "True"
    degraded = condition(world.cluster_status, "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "VolumeBroken") and "mx-1.1" in degraded["message"]
    told = [(event.kind, event.reason) for event in world.events]
    assert sorted(told) == [("MailCluster", "VolumeBroken"), ("MailServer", "VolumeBroken")]

    world.since = world.clock  # another operator, that has heard nobody yet
    for server in world.servers.values():
        server.heard = world.clock - 1
    shown = entry(world, "mx-1")
    world.step()
    assert entry(world, "mx-1") == shown and len(world.events) == 2
    mend(world, "mx-1.1")
    world.settle()
    assert "brokenVolumes" not in entry(world, "mx-1") and "message" not in entry(world, "mx-1")
    assert condition(world.groups["mx"].status, "VolumesBroken")["status"] == "False"
    assert [event.reason for event in world.events[2:]] == ["VolumeReturned"]
    assert world.events[-1].message == "mx-1: its volume mx-1.1 works again"


def test_a_second_volume_that_breaks_is_told_too() -> None:
    world = settled(count=3)
    break_volume(world, "mx-1.1")
    break_volume(world, "mx-1.2", "another disk")
    assert [e.message[:40] for e in world.events if e.kind == "MailServer"] == [
        "mx-1: its volume mx-1.1 is broken (the v",
        "mx-1: its volume mx-1.2 is broken (anoth",
    ]
    assert entry(world, "mx-1")["phase"] == "Serving"
    assert condition(world.groups["mx"].status, "VolumesBroken")["message"].count("is broken") == 2


def test_a_disk_that_cannot_be_written_breaks_its_volume_although_its_processes_answer() -> None:
    world = settled()
    world.read_only.add("mx-2")
    steps(world, 2)
    assert entry(world, "mx-2")["phase"] == "Serving"
    assert entry(world, "mx-2")["brokenVolumes"] == [{"name": "mx-2", "reason": "Read-only file system"}]


def test_nothing_of_this_is_said_where_servers_have_one_volume() -> None:
    world = settled(count=1)
    world.broken_volumes.add("mx-1")
    world.crashing_volumes["mx-1"] = WHY
    steps(world, 20)
    assert entry(world, "mx-1")["phase"] == "Lost"
    assert "VolumesBroken" not in [c["type"] for c in world.groups["mx"].status["conditions"]]


def test_a_server_of_which_nothing_works_is_lost_and_none_of_its_volumes_is_broken() -> None:
    world = settled()
    for volume in ("mx-1", "mx-1.1"):
        break_volume(world, volume)
    steps(world, 20)
    assert entry(world, "mx-1")["phase"] == "Lost" and "brokenVolumes" not in entry(world, "mx-1")


def test_a_restart_waits_for_a_broken_volume_and_says_what_to_do() -> None:
    world = settled()
    break_volume(world, "mx-1.1")
    world.groups["mx"].revision = "r2"
    steps(world, 20)
    assert world.restarts == ["mx-1"]  # itself, first: the old template may be what breaks it
    assert progressing(world) == (
        f"1 of 3 servers restarted; waits for the broken volume mx-1.1 ({WHY}), whose mail has a copy less; mend its "
        "disk, or replace it and `kubectl delete pvc/volume-1-mx-1 pod/mx-1`, or declare it lost with "
        "`mailarray volume lost volume of claim-3 for mx-1.1`"
    )
    mend(world, "mx-1.1")
    world.settle()
    assert sorted(world.restarts) == ["mx-0", "mx-1", "mx-2"]


def test_a_restart_goes_on_when_the_volume_is_lost_and_all_its_mail_has_its_copies_again() -> None:
    world = settled()
    break_volume(world, "mx-1.1")
    world.declared_lost.add("volume of claim-3 for mx-1.1")
    world.short_of_copies["mx-2.1"] = 7
    world.groups["mx"].revision = "r2"
    steps(world, 20)
    assert world.restarts == ["mx-1"]
    assert "waits until the mail of the broken volume mx-1.1, which is declared lost" in progressing(world)
    world.short_of_copies.clear()
    world.not_evictable = {"mx-0", "mx-2"}  # the pod that stays unready has used up the budget
    world.settle()
    assert sorted(world.restarts) == ["mx-0", "mx-1", "mx-2"]
    assert entry(world, "mx-1")["message"].endswith("others hold all of its mail, and nothing waits for it")


def test_a_lost_volume_is_waited_for_as_long_as_somebody_has_not_said_that_all_copies_are_there() -> None:
    up: dict[str, Any] = {"lost": ["x"], "under_replicated": 0, "catalog": {"state": "up", "open": True}}
    silent = ("x", None)
    assert broken.losses([("a", up), ("b", up), silent]).repaired == {"x"}
    for other in (
        {**up, "lost": []},
        {key: value for key, value in up.items() if key != "lost"},  # an older version
        {**up, "under_replicated": 1},
        {**up, "catalog": {"state": "away", "open": False}},
        {**up, "catalog": {"state": "up", "open": False}},
        None,
    ):
        said = broken.losses([("a", up), ("b", other), silent])
        assert said.lost == {"x"} and not said.repaired, other
    assert broken.losses([("", None)]).repaired == frozenset()


def test_a_drain_waits_for_a_broken_volume_and_says_so() -> None:
    world = settled()
    break_volume(world, "mx-2.1")
    world.scale_mailserver("mx", 2)
    steps(world, 10)
    assert world.groups["mx"].replicas == 3
    shown = entry(world, "mx-2")
    assert shown["phase"] == "Draining"
    assert shown["message"].startswith("its other volumes are emptied; it waits for the broken volume mx-2.1 (")
    assert "waits for the broken volume mx-2.1" in condition(world.groups["mx"].status, "Draining")["message"]
    world.declared_lost.add("volume of claim-5 for mx-2.1")
    world.settle()
    assert world.groups["mx"].replicas == 2


def test_a_drain_of_another_server_goes_on_beside_a_broken_volume() -> None:
    world = settled()
    break_volume(world, "mx-0.1")
    world.scale_mailserver("mx", 2)
    world.settle()
    assert world.groups["mx"].replicas == 2


def test_a_volume_that_starts_is_not_broken_and_one_that_hangs_is_after_a_while() -> None:
    whole = VolumeReport({}, {}, 100.0)
    quiet = VolumeReport(None, None)
    pod = Pod("mx-0", "u", "n", "", "", False, False, "r1")
    started = Pod("mx-0", "u", "n", "", "", False, False, "r1", started=frozenset({"smtp-1", "catalog-1"}))
    assert broken.faults("mx-0", [whole, quiet], pod, 1000.0, 0.0) == {}
    assert broken.faults("mx-0", [whole, quiet], started, 1000.0, 0.0) == {1: "it does not answer"}
    assert broken.faults("mx-0", [whole, quiet], started, 10.0, 0.0) == {}  # the operator has just begun
    assert broken.faults("mx-0", [whole, VolumeReport(None, None, 990.0)], pod, 1000.0, 0.0) == {}
    assert broken.faults("mx-0", [whole, VolumeReport(None, None, 970.0)], pod, 1000.0, 0.0) != {}
    assert broken.faults("mx-0", [quiet, VolumeReport(None, None, 970.0)], pod, 1000.0, 0.0) == {}


@pytest.mark.parametrize("number", [0, 1])
def test_whichever_volume_is_broken(number: int) -> None:
    world = settled()
    break_volume(world, f"mx-1.{number}" if number else "mx-1")
    assert entry(world, "mx-1")["phase"] == "Serving"
