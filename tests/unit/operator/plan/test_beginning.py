"""Servers with several volumes are made only when every process of the array knows names like `mx-0.1`; and no server
that would leave out volumes of an earlier one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.operator.plan.world import World


def ready(world: World, group: str) -> dict[str, Any]:
    return next(dict(c) for c in world.groups[group].status["conditions"] if c["type"] == "Ready")


def upgraded_with_several() -> World:
    """An array of an older version, and a MailServer with two volumes that comes with the upgrade."""
    world = World()
    world.old_revisions["r1"] = None
    world.group("old", 3)
    world.settle()
    world.group("disks", 2).volumes = 2
    return world


@pytest.mark.parametrize("said", [None, "0.0.9", "unknown"])
def test_nothing_of_it_starts_before_all_others_know(said: str | None) -> None:
    world = upgraded_with_several()
    world.old_revisions["r1"] = said
    for _ in range(10):
        world.step()
    assert world.table is not None and {server.group for server in world.table.servers} == {"old"}
    assert not any(name.startswith("disks-") for name in [*world.pods, *world.claims])
    condition = ready(world, "disks")
    assert (condition["status"], condition["reason"]) == ("False", "OlderServers")
    assert "old-0, old-1, old-2 have not said so yet" in condition["message"]
    assert next(c for c in world.cluster_status["conditions"] if c["type"] == "Ready")["reason"] == "OlderServers"
    assert [e.kind for e in world.events if e.reason == "OlderServers"] == ["MailCluster", "MailServer"]

    world.groups["old"].revision = "r2"
    named = False
    for _ in range(100):
        world.step()
        begun = any(name.startswith("disks-") for name in [*world.pods, *world.claims])
        assert not begun or all(pod.revision == "r2" for name, pod in world.pods.items() if name.startswith("old-"))
        named = named or begun
    assert named
    world.settle()
    assert ready(world, "disks")["status"] == "True"
    assert {server.name for server in world.table.servers if server.group == "disks"} >= {"disks-0", "disks-0.1"}


def test_a_server_that_does_not_answer_knows_nothing() -> None:
    world = World()
    world.group("old", 3)
    world.settle()
    world.group("disks", 2).volumes = 2
    world.broken_volumes.add("old-2")
    for _ in range(10):
        world.step()
    assert "old-2 has not said so yet" in ready(world, "disks")["message"]
    world.broken_volumes.clear()
    world.settle()
    assert ready(world, "disks")["status"] == "True"


def test_what_runs_is_left_alone() -> None:
    """Somebody goes back to an older image."""
    world = World()
    world.group("disks", 3).volumes = 2
    world.settle()
    before = world.table
    world.old_revisions["r1"] = None
    for _ in range(10):
        world.step()
    assert world.table == before and world.groups["disks"].replicas == 3
    assert ready(world, "disks")["status"] == "True"


def test_an_array_begins_with_several_volumes_at_once() -> None:
    world = World()
    world.group("disks", 3).volumes = 2
    world.step()
    assert world.groups["disks"].replicas == 3


def test_a_mail_server_that_is_made_again_with_fewer_volumes_does_not_begin() -> None:
    world = World()
    world.group("other", 2)
    world.group("disks", 2).volumes = 3
    world.settle()
    world.delete("disks")
    world.settle()
    world.group("disks", 2).volumes = 1
    for _ in range(5):
        world.step()
    condition = ready(world, "disks")
    assert (condition["status"], condition["reason"]) == ("False", "VolumesLeftOut")
    assert condition["message"] == (
        "the claims volume-1-disks-0, volume-2-disks-0, volume-1-disks-1 and 1 more of an earlier MailServer disks may "
        "hold mail, and spec.storage.volumes is 1 now; make it again with volumes: 3, or, if its servers were drained, "
        "delete the claims"
    )
    assert not any(name.startswith("disks-") for name in world.pods)
    assert world.table is not None and "disks" not in {server.group for server in world.table.servers}
    world.groups["disks"].volumes = 3
    world.settle()
    assert ready(world, "disks")["status"] == "True"
