"""A server that drains takes mail until DNS has forgotten it, and never longer than a limit."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mailarray_operator.plan.drain import State, parse
from mailarray_operator.plan.mx_status import leave_limit
from mailarray_operator.plan.observation import Mx
from tests.unit.operator.plan.world import World

TTL = 60


def mx(named: set[str], gone: Mapping[str, float] | None = None) -> Mx:
    return Mx({}, (), frozenset(named), gone or {}, TTL)


@pytest.fixture
def world() -> World:
    found = World()
    found.group("a", 3)
    found.settle()
    return found


def state_of(world: World) -> State | None:
    drain = parse(world.groups["a"].drain).get(2)
    return None if drain is None else drain.state


def run_until(world: World, state: State | None, limit: int = 1000) -> float:
    """Seconds until then."""
    began = world.clock
    for _ in range(limit):
        if state_of(world) is state:
            return world.clock - began
        world.step()
    raise AssertionError(f"still {state_of(world)}")


def test_whom_no_dns_names_drains_at_once(world: World) -> None:
    world.mx = mx(named=set())
    world.scale_mailserver("a", 2)
    world.step()
    assert state_of(world) is State.DRAINING


def test_it_takes_mail_until_dns_has_not_named_it_for_a_ttl(world: World) -> None:
    world.mx = mx(named={"a-0", "a-1", "a-2"})
    world.scale_mailserver("a", 2)
    for _ in range(10):
        world.step()
    assert state_of(world) is State.LEAVING
    assert world.phases()["a-2"] == "Draining"
    assert world.table is not None
    assert world.table.server("a-2").serving  # type: ignore[union-attr]  # takes mail
    gone_at = world.now().timestamp()
    world.mx = mx(named={"a-0", "a-1"}, gone={"a-2": gone_at})
    took = run_until(world, State.DRAINING)
    assert TTL - 2 <= took <= TTL + 2
    world.settle()
    assert "a-2" not in world.phases()


def test_a_dns_that_is_away_holds_it_up_for_the_limit_alone(world: World) -> None:
    world.mx = mx(named={"a-0", "a-1", "a-2"})  # nobody could be asked, and it may be named still
    world.scale_mailserver("a", 2)
    took = run_until(world, State.DRAINING)
    assert TTL < took <= leave_limit(TTL) + 3


def test_an_operator_that_has_just_begun_waits_too_when_there_was_a_plan(world: World) -> None:
    world.mx = None
    world.cluster_status = {**world.cluster_status, "mxPlan": {"strategy": "Load"}}
    world.scale_mailserver("a", 2)
    world.step()
    assert state_of(world) is State.LEAVING
    world.mx = mx(named=set())  # it looks, and nobody names it
    world.step()
    assert state_of(world) is State.DRAINING


def test_what_was_said_of_dns_stays_while_nothing_is_known(world: World) -> None:
    said = {"type": "DNSPublished", "status": "True", "reason": "Published", "message": "m", "lastTransitionTime": "t"}
    world.cluster_status["conditions"].append(said)
    world.cluster_status["mx"] = [{"domain": "mail.example"}]
    decisions = world.decide()
    assert decisions.cluster_status is not None
    assert said in decisions.cluster_status["conditions"]
    assert decisions.cluster_status["mx"] == [{"domain": "mail.example"}]
