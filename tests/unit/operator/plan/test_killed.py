"""An operator that is killed between any two writes, and one that starts anew, ends where an undisturbed one ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.operator.plan.world import World

MAX_STEPS = 60


def three() -> World:
    world = World()
    world.group("mx", 3)
    world.settle()
    return world


def four_and_two() -> World:
    world = World()
    world.group("mx", 4)
    world.group("in", 2)
    world.settle()
    return world


def template(world: World) -> None:
    for group in world.groups.values():
        group.revision = "r2"


def drain_and_template(world: World) -> None:
    template(world)
    world.scale_mailserver("mx", 2)


def grow(world: World) -> None:
    world.groups["mx"].size *= 2


def create(world: World) -> None:
    world.group("mx", 3)


STORIES: dict[str, tuple[Callable[[], World], Callable[[World], None]]] = {
    "scale up": (three, lambda w: w.scale_mailserver("mx", 5)),
    "scale down": (four_and_two, lambda w: w.scale_mailserver("mx", 2)),
    "scale down refused": (three, lambda w: w.scale_mailserver("mx", 1)),
    "scale statefulset down": (three, lambda w: w.scale_statefulset("mx", 2)),
    "scale statefulset down refused": (three, lambda w: w.scale_statefulset("mx", 0)),
    "scale statefulset up": (three, lambda w: w.scale_statefulset("mx", 5)),
    "rolling restart": (three, template),
    "drain and rolling restart": (four_and_two, drain_and_template),
    "rebuild": (three, lambda w: w.wipe("mx-1")),
    "growth": (three, grow),
    "first creation": (World, create),
}


def restarted(world: World) -> None:
    """The operator starts anew: it has heard of nobody."""
    world.since = world.clock


@pytest.mark.parametrize("story", STORIES)
def test_killed_once_after_any_write(story: str) -> None:
    make, act = STORIES[story]
    undisturbed = make()
    act(undisturbed)
    undisturbed.settle()
    kills = 0
    for step in range(MAX_STEPS):
        for writes in range(20):
            world = make()
            act(world)
            for _ in range(step):
                world.step()
            due = len(world.writes(world.decide()))
            if writes >= due:
                break
            world.step(writes)
            restarted(world)
            kills += 1
            world.settle()
            assert world.state() == undisturbed.state(), f"killed in step {step} after {writes} of {due} writes"
        else:
            raise AssertionError("too many writes")
        if step > 3 and due == 0 and world.state() == undisturbed.state():
            break
    assert kills >= 2


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(STORIES)), st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=20))
def test_killed_again_and_again(story: str, kills: list[tuple[int, bool]]) -> None:
    """Also when StatefulSets change while they are looked at, so that they are not applied."""
    make, act = STORIES[story]
    undisturbed = make()
    act(undisturbed)
    undisturbed.settle()
    world = make()
    act(world)
    for writes, outdated in kills:
        world.step(writes, world.groups if outdated else ())
        restarted(world)
    world.settle()
    assert world.state() == undisturbed.state()
