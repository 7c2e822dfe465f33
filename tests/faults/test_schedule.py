"""A seed is a campaign: the same plan each time, every kind in it, spread over the messages."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.faults.__main__ import read_order
from tests.faults.faults import KINDS
from tests.faults.schedule import plan

MESSAGES = 10_000


def test_a_seed_gives_the_same_plan_and_another_seed_another_one() -> None:
    first = plan(7, 60, tuple(KINDS), 3, MESSAGES)
    assert first == plan(7, 60, tuple(KINDS), 3, MESSAGES)
    assert first != plan(8, 60, tuple(KINDS), 3, MESSAGES)


@pytest.mark.parametrize("seed", range(20))
def test_no_kind_is_starved_and_no_server_is_its_own_partner(seed: int) -> None:
    rounds = 3
    planned = plan(seed, rounds * len(KINDS), tuple(KINDS), 3, MESSAGES)
    assert Counter(one.kind for one in planned) == Counter(dict.fromkeys(KINDS, rounds))
    assert {one.victim for one in planned} == {0, 1, 2}
    assert all(one.victim != one.other for one in planned)
    after = [one.after for one in planned]
    assert after == sorted(after) and after[0] >= MESSAGES / 10 and after[-1] < MESSAGES
    assert len(set(after)) == len(after)


def test_what_a_person_asks_for() -> None:
    order = read_order({"SEED": "3", "MESSAGES": "50", "FAULTS": "9,kill,stop"}, {})
    assert (order.seed, order.messages, order.faults, order.kinds) == (3, 50, 9, ("kill", "stop"))
    assert read_order({}, {}).kinds == tuple(KINDS)
    assert read_order({}, {}).seed != read_order({}, {}).seed
    with pytest.raises(ValueError, match="'fire' is neither a number nor one of kill, "):
        read_order({"FAULTS": "fire"}, {})


def test_what_the_machine_cannot_give_is_left_out() -> None:
    missing = {"disks": "needs root"}
    left = read_order({}, missing).kinds
    assert "power-cut" not in left and "kill" in left
    with pytest.raises(ValueError, match="no such fault can be done here"):
        read_order({"FAULTS": "power-cut"}, missing)
