"""What holds whatever people and failures do, step by step."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mailarray_operator.plan import decide
from mailarray_operator.plan.decisions import Decisions
from mailarray_operator.plan.observation import Observation
from tests.unit.operator.plan.world import CONFIGURATION, World

GROUPS = ("mx", "in")
ROUNDS = 3  # a wish that is written is a new generation of its MailServer; a server that stops lets restarts go on
servers = st.tuples(st.sampled_from(GROUPS), st.integers(0, 4)).map(lambda raw: f"{raw[0]}-{raw[1]}")
actions = st.one_of(
    st.tuples(st.just("mailserver"), st.sampled_from(GROUPS), st.integers(0, 5)),
    st.tuples(st.just("statefulset"), st.sampled_from(GROUPS), st.integers(0, 5)),
    st.tuples(st.sampled_from(["crash", "recover", "cut off", "back", "wipe"]), servers, st.just(0)),
    st.tuples(st.just("template"), st.sampled_from(GROUPS), st.integers(2, 4)),
    st.tuples(st.just("copies"), st.just(""), st.integers(1, 4)),
    st.tuples(st.just("wait"), st.just(""), st.integers(5, 30)),
    st.tuples(st.just("killed after"), st.just(""), st.integers(0, 4)),
    st.tuples(st.just("steps"), st.just(""), st.integers(1, 6)),
    st.tuples(st.just("pair"), st.sampled_from(GROUPS), st.integers(0, 1)),
    st.tuples(st.just("table lost"), st.just(""), st.just(0)),
)


def act(world: World, action: tuple[str, str, int]) -> None:
    verb, name, number = action
    if verb == "mailserver":
        world.scale_mailserver(name, number)
    elif verb == "statefulset" and world.groups[name].replicas is not None:
        world.scale_statefulset(name, number)
    elif verb in ("crash", "recover") and name in world.pods:
        world.pods[name].crashing = verb == "crash"
    elif verb == "cut off":
        world.lost_nodes.add(name)
    elif verb == "back":
        world.lost_nodes.discard(name)
    elif verb == "wipe":
        world.wipe(name)
    elif verb == "template":
        world.groups[name].revision = f"r{number}"
        world.groups[name].broken = frozenset({"r3"})
    elif verb == "copies":
        world.copies = number
    elif verb == "wait":
        world.tick(float(number))
    elif verb == "pair":
        world.pair(f"pair-{number}", name, *GROUPS)
    elif verb == "table lost":
        world.table = None


def check(world: World, observation: Observation, decisions: Decisions) -> None:
    """The promises, of one decision."""
    table, old = decisions.table, observation.table
    assert table is not None
    highest = max([old.generation if old else 0, *(s.generation for s in world.servers.values())])
    assert table.generation >= highest
    if old is not None and (table.servers, table.rows) != (old.servers, old.rows):
        assert table.generation > old.generation
    members = {server.name: server for server in table.servers}
    copies = world.copies

    # Nothing of ours leaves fewer than `copies` servers that serve.
    serving = [name for name in world.pods if world.answers(name) and name in members and (
        old is None or (was := old.server(name)) is None or was.serving)]  # fmt: skip
    staying = [name for name in serving if members[name].serving]
    if len(staying) < len(serving):
        assert len(staying) >= copies, f"{serving} became {staying}"

    for name, decided in decisions.groups.items():
        found = observation.groups[name].stateful_set
        if found is None or found.recorded is None:
            continue
        for ordinal in range(decided.replicas, found.recorded):
            server, view = f"{name}-{ordinal}", world.servers.get(f"{name}-{ordinal}")
            known = old.server(server) if old is not None else None
            unbound = view is None  # there never was a volume
            drained = '"state":"Drained"' in found.drain or (view is not None and view.drain_left == 0)
            assert unbound or drained or (old is not None and known is None), f"{server} stops with mail on it"
            assert server not in members
        # Who is in stays in, up or down, until it stops.
        for server_ in old.servers if old is not None else ():
            group, _, number = server_.name.rpartition("-")
            if group == name and int(number) < decided.replicas:
                assert server_.name in members

    # One restart at a time.
    if decisions.restart is not None:
        pods = {p.name: p for g in observation.groups.values() for p in g.pods.values()}
        standing = [f"{n}-{i}" for n, d in decisions.groups.items() for i in range(d.replicas)]
        assert all(server in pods and not pods[server].terminating for server in standing)
        if pods[decisions.restart].ready:
            drains = [server for server in standing if not members[server].serving]
            assert all(pods[server].ready for server in standing if server not in drains)
        restarted = observation.groups[decisions.restart.rpartition("-")[0]].stateful_set
        assert restarted is not None and pods[decisions.restart].revision != restarted.update_revision

    assert decide(observation, CONFIGURATION, world.now()) == decisions


def shuffled(raw: Any, seed: random.Random) -> dict[Any, Any]:
    items = list(raw.items())
    seed.shuffle(items)
    return dict(items)


@settings(max_examples=60, deadline=None)
@given(st.lists(actions, max_size=14), st.integers(0, 5), st.integers(0, 3), st.randoms())
def test_promises(story: list[tuple[str, str, int]], first: int, second: int, seed: random.Random) -> None:
    world = World()
    world.group("mx", first)
    world.group("in", second)
    for action in [("steps", "", 6), *story, ("steps", "", 3)]:
        act(world, action)
        for _ in range(action[2] if action[0] == "steps" else 1):
            observation = world.observe()
            decisions = world.decide()
            check(world, observation, decisions)
            mixed = dataclasses.replace(
                observation,
                groups=shuffled(observation.groups, seed),
                pairs=shuffled(observation.pairs, seed),
                reports=shuffled(observation.reports, seed),
            )
            assert decide(mixed, CONFIGURATION, world.now()) == decisions
            world.step(action[2] if action[0] == "killed after" else None)


@settings(max_examples=40, deadline=None)
@given(st.lists(actions, max_size=8), st.integers(1, 5))
def test_what_was_written_is_not_written_again(story: list[tuple[str, str, int]], first: int) -> None:
    world = World()
    world.group("mx", first)
    world.group("in", 2)
    for action in [("steps", "", 6), *story]:
        act(world, action)
        for _ in range(ROUNDS):
            for write in world.writes(dataclasses.replace(world.decide(), restart=None)):
                write()
        world.clock += 0.001  # time goes on, and changes nothing
        again = world.decide()
        writes = world.writes(dataclasses.replace(again, restart=None))
        assert not writes, again
        assert not again.events
        world.step()
