"""What the planner does in the situations that it was made for, told one by one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from mailarray_operator.mx import External, LoadReport, Policy, State, Strategy, dump, load, plan
from tests.unit.operator.mx.arrays import band, bands, even, reports, run

POLICY = Policy()
START = 1_000_000.0


def test_first_plan_has_all_that_serve_in_the_best_band() -> None:
    made = plan(reports(START, even(3), mx_002=State.JOINING), None, POLICY, START)
    assert bands(made) == {"mx-000": 0, "mx-001": 0, "mx-002": 2}
    assert [(t.preference, t.servers) for t in made.targets] == [
        (10, ("mx-000",)),
        (10, ("mx-001",)),
        (30, ("mx-002",)),
    ]
    assert {d.reason for d in made.decisions} == {"FirstPlan", "Joining"}


def test_first_plan_of_servers_that_all_join_has_them_in_the_best_band() -> None:
    joining = {f"mx_{n:03}": State.JOINING for n in range(3)}
    assert set(bands(plan(reports(START, even(3), **joining), None, POLICY, START)).values()) == {0}


def test_a_loaded_server_stands_back_and_returns_with_two_changes() -> None:
    made, changes = run(even(3), None, POLICY, START, 60)
    made, changes = run(even(3) | {"mx-001": 1.0}, made, POLICY, START + 65, 60)
    assert changes == [(START + 80, "mx-001", 0, 1, "Loaded")]
    assert [t.preference for t in made.targets if t.servers == ("mx-001",)] == [20]
    made, changes = run(even(3), made, POLICY, START + 130, 1200)
    assert changes == [(START + 200, "mx-001", 1, 0, "Recovered")]


def test_nobody_moves_when_all_are_loaded_alike() -> None:
    made, _ = run(even(5), None, POLICY, START, 60)
    assert run(even(5, 1.0), made, POLICY, START + 65, 600)[1] == []


def test_nobody_moves_who_is_hardly_above_the_others() -> None:
    made, _ = run(even(30, 0.8), None, POLICY, START, 60)
    assert run(even(30, 0.8) | {"mx-001": 0.93}, made, POLICY, START + 65, 600)[1] == []
    assert run(even(30, 0.8) | {"mx-001": 0.96}, made, POLICY, START + 65, 60)[1] != []


def test_of_two_reports_of_a_server_the_newer_one_counts() -> None:
    lost = LoadReport("mx-001", 0.3, START + 5, State.LOST)
    for heard in ([*reports(START, even(3)), lost], [lost, *reports(START, even(3))]):
        assert bands(plan(heard, None, POLICY, START + 5)) == {"mx-000": 0, "mx-001": None, "mx-002": 0}


def test_nobody_moves_between_low_and_high() -> None:
    made, _ = run(even(5, 0.1), None, POLICY, START, 60)
    assert run(even(5, 0.1) | {"mx-001": 0.84}, made, POLICY, START + 65, 600)[1] == []
    made, _ = run(even(5, 0.1) | {"mx-001": 0.9}, made, POLICY, START + 700, 60)
    assert band(made, "mx-001") == 1
    assert run(even(5, 0.1) | {"mx-001": 0.61}, made, POLICY, START + 800, 600)[1] == []


def test_nobody_leaves_when_the_others_have_no_room() -> None:
    made, _ = run(even(3, 0.75), None, POLICY, START, 60)
    made, changes = run(even(3, 0.75) | {"mx-001": 1.0}, made, POLICY, START + 65, 60)
    assert changes == []
    assert [d.reason for d in made.decisions] == ["NoRoom"]


def test_a_load_that_does_not_last_moves_nobody() -> None:
    made, _ = run(even(3), None, POLICY, START, 60)
    for turn in range(100):
        loads = even(3) | {"mx-001": 1.0 if turn % 2 else 0.3}
        made, changes = run(loads, made, POLICY, START + 65 + 5 * turn, 0)
        assert changes == []


def test_a_slow_server_is_tried_once_and_then_remembered() -> None:
    """Idle while it stands back, overloaded as soon as it is in service: no pendulum."""
    made, changes = run(even(10, 0.7), None, POLICY, START, 0)
    now, moved = START, []
    while now < START + 2 * 3600:
        now += 5
        load = 1.0 if band(made, "mx-003") == 0 else 0.0
        made, changes = run(even(10, 0.7) | {"mx-003": load}, made, POLICY, now, 0)
        moved += changes
    assert [(after, reason) for _, _, _, after, reason in moved] == [
        (1, "Loaded"),
        (0, "Recovered"),
        (1, "Loaded"),
        (0, "Recovered"),
        (1, "Loaded"),
    ]
    times = [time for time, *_ in moved]
    assert times[3] - times[2] >= POLICY.forget
    assert any(d.reason == "StillSlow" for d in made.decisions)


def test_a_slow_server_returns_when_there_is_little_to_do() -> None:
    made, _ = run(even(10, 0.7), None, POLICY, START, 0)
    for begin, idle in ((5, 1.0), (30, 0.0), (160, 1.0), (290, 0.0)):
        made, _ = run(even(10, 0.7) | {"mx-003": idle}, made, POLICY, START + begin, 120)
    assert band(made, "mx-003") == 1
    made, changes = run(even(10, 0.2) | {"mx-003": 0.0}, made, POLICY, START + 600, 300)
    assert [change[2:] for change in changes] == [(1, 0, "Recovered")]


def test_dwell_is_doubled_for_a_server_that_is_lost_again_soon() -> None:
    made, _ = run(even(5), None, POLICY, START, 60)
    now, waits = START + 65, []
    for _ in range(4):
        made, _ = run(even(5), made, POLICY, now, 30, mx_000=State.LOST)
        assert band(made, "mx-000") is None
        back = now + 35
        made, changes = run(even(5), made, POLICY, back, 2000)
        joined = next(time for time, _, _, after, _ in changes if after == 0)
        waits.append(joined - back)
        now = back + 2005
    assert waits == [120, 240, 480, 960]


def test_lost_and_draining_servers_leave_at_once() -> None:
    made, _ = run(even(4), None, POLICY, START, 0)
    made, changes = run(even(4), made, POLICY, START + 5, 0, mx_000=State.LOST, mx_001=State.DRAINING)
    assert changes == [(START + 5, "mx-000", 0, None, "Lost"), (START + 5, "mx-001", 0, None, "Draining")]
    assert [t.servers for t in made.targets] == [("mx-002",), ("mx-003",)]


def test_min_targets_keeps_a_draining_server_before_a_lost_one() -> None:
    made, _ = run(even(3), None, POLICY, START, 0)
    made, _ = run(even(3), made, POLICY, START + 5, 0, mx_000=State.LOST, mx_002=State.DRAINING)
    assert bands(made) == {"mx-000": None, "mx-001": 0, "mx-002": 2}
    assert next(m.reason for m in made.members if m.server == "mx-002") == "KeptForMinimum"


def test_never_empty_when_all_are_lost() -> None:
    made, _ = run(even(3), None, POLICY, START, 0)
    states = {f"mx_{n:03}": State.LOST for n in range(3)}
    heard = [LoadReport("mx.elsewhere.example", 0.1, START + 5), *reports(START + 5, even(3), **states)]
    policy = Policy(external=(External("mx.elsewhere.example", 50),))
    made = plan(heard, made, policy, START + 5)
    assert [(t.preference, t.servers) for t in made.targets] == [(30, ("mx-000",)), (50, ("mx.elsewhere.example",))]


def test_stale_reports_keep_the_last_plan() -> None:
    made, _ = run(even(3), None, POLICY, START, 60)
    states = {f"mx_{n:03}": State.LOST for n in range(3)}
    later = plan(reports(START, even(3), **states), made, POLICY, START + 600)
    assert later.stale
    assert later.members == made.members
    assert [d.reason for d in later.decisions] == ["Stale"]
    assert plan([], made, POLICY, START + 600).targets == made.targets
    again = plan(reports(START + 605, even(3)), later, POLICY, START + 605)
    assert not again.stale
    assert again.members == made.members


def test_one_stale_report_moves_nobody() -> None:
    made, _ = run(even(3), None, POLICY, START, 60)
    old = LoadReport("mx-001", 1.0, START)
    for now in (START + 100, START + 200):
        heard = [old if r.server == "mx-001" else r for r in reports(now, even(3))]
        made = plan(heard, made, POLICY, now)
        assert set(bands(made).values()) == {0}


def test_a_joining_server_rises_when_it_serves() -> None:
    made, _ = run(even(3), None, POLICY, START, 60)
    made, changes = run(even(4), made, POLICY, START + 100, 300, mx_003=State.JOINING)
    assert [c[2:] for c in changes] == [(None, 2, "Joining")]
    made, changes = run(even(4), made, POLICY, START + 405, 300)
    assert changes == [(START + 405, "mx-003", 2, 0, "Joined")]


def test_a_server_that_refuses_mail_goes_to_the_worst_band_and_the_last_one_stays() -> None:
    made, _ = run(even(3), None, POLICY, START, 60)
    for now in range(int(START) + 65, int(START) + 400, 5):
        heard = [replace(r, accepts=r.server == "mx-002") for r in reports(now, even(3))]
        made = plan(heard, made, POLICY, float(now))
    assert bands(made) == {"mx-000": 2, "mx-001": 2, "mx-002": 0}
    heard = [replace(r, accepts=False) for r in reports(START + 500, even(3))]
    made = plan(heard, made, POLICY, START + 500)
    assert band(plan(heard, made, POLICY, START + 520), "mx-002") == 0


def test_when_the_best_band_is_lost_the_next_one_is_lifted() -> None:
    made, _ = run(even(3), None, POLICY, START, 0)
    made, _ = run(even(5), made, POLICY, START + 5, 0, mx_003=State.JOINING, mx_004=State.JOINING)
    lost = {f"mx_{n:03}": State.LOST for n in range(3)}
    made, _ = run(even(5), made, POLICY, START + 10, 0, mx_003=State.JOINING, mx_004=State.JOINING, **lost)
    assert [(t.preference, t.servers) for t in made.targets] == [(10, ("mx-003",)), (10, ("mx-004",))]


def test_a_removed_server_is_forgotten() -> None:
    made, _ = run(even(3), None, POLICY, START, 0)
    made, changes = run(even(2), made, POLICY, START + 5, 0)
    assert changes == [(START + 5, "mx-002", 0, None, "Removed")]
    assert list(bands(made)) == ["mx-000", "mx-001"]


def test_externals_take_part_with_their_own_preference() -> None:
    policy = Policy(external=(External("mx.other.example", 50), External("mx.third.example", 10)))
    made, _ = run(even(2), None, policy, START, 60)
    assert [(t.preference, t.servers, t.external) for t in made.targets] == [
        (10, ("mx-000",), False),
        (10, ("mx-001",), False),
        (10, ("mx.third.example",), True),
        (50, ("mx.other.example",), True),
    ]
    made, changes = run(even(2), made, POLICY, START + 100, 0)
    assert {c[1] for c in changes} == {"mx.other.example", "mx.third.example"}
    assert len(made.targets) == 2


def test_an_external_that_is_reported_of_is_planned() -> None:
    policy = Policy(external=(External("mx.other.example", 50),))
    loads = even(3) | {"mx.other.example": 0.1}
    made, _ = run(loads, None, policy, START, 60)
    made, changes = run(loads | {"mx.other.example": 1.0}, made, policy, START + 65, 60)
    assert [c[1:] for c in changes] == [("mx.other.example", 0, 1, "Loaded")]
    assert [t.preference for t in made.targets if t.external] == [60]
    made, changes = run(loads, made, policy, START + 130, 0, **{"mx.other.example": State.LOST})
    assert [t for t in made.targets if t.external] == []


def test_too_many_externals_are_left_out_aloud() -> None:
    policy = Policy(max_targets=4, external=tuple(External(f"x{n}.example", 50 + n) for n in range(4)))
    made, _ = run(even(3), None, policy, START, 5)
    assert len(made.targets) == 4 or len({t.slot for t in made.targets}) > 1
    assert [t.servers for t in made.targets if t.external] == [("x0.example",), ("x1.example",)]
    assert sorted(d.server for d in made.decisions if d.reason == "OverMaxTargets") == ["x2.example", "x3.example"]
    assert {s for t in made.targets for s in t.servers} >= set(even(3))


def test_static_goes_by_preferences_and_not_by_load() -> None:
    policy = Policy(strategy=Strategy.STATIC, preferences={"mx-000": 5, "mx-001": 40})
    made, _ = run(even(4, 1.0), None, policy, START, 300, mx_003=State.JOINING)
    assert {t.servers[0]: t.preference for t in made.targets} == {
        "mx-000": 5,
        "mx-001": 40,
        "mx-002": 10,
        "mx-003": 60,  # after everything that a person wrote
    }


def test_round_table_lets_each_stand_back_in_turn() -> None:
    policy = Policy(strategy=Strategy.ROUND_TABLE)
    made, _ = run(even(20), None, policy, START, 0)
    rested: list[frozenset[str]] = []
    for turn in range(1, 21):
        made, _ = run(even(20), made, policy, START + turn * policy.dwell, policy.dwell - 5)
        made = load(dump(made)) or made
        back = frozenset(s for s, b in bands(made).items() if b == 1)
        assert len(back) == 2
        rested.append(back)
    assert frozenset().union(*rested) == set(even(20))
    assert all(not one & following for one, following in pairwise(rested))


def test_random_follows_its_seed() -> None:
    def resting(seed: int) -> list[str]:
        policy = Policy(strategy=Strategy.RANDOM, seed=seed)
        made, _ = run(even(40), None, policy, START, 1200)
        return [s for s, b in bands(made).items() if b == 1]

    assert resting(1) == resting(1) != resting(2)
    assert len(resting(1)) == 4


def test_the_strategy_can_be_changed() -> None:
    made, _ = run(even(20), None, Policy(strategy=Strategy.ROUND_TABLE), START, 1200)
    assert 1 in bands(made).values()
    made, _ = run(even(20), made, POLICY, START + 1205, 1200)
    assert set(bands(made).values()) == {0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttl": 0},
        {"min_targets": 3, "max_targets": 2},
        {"bands": (10,)},
        {"bands": (20, 10)},
        {"low": 0.9},
        {"dwell_ttls": 1},
    ],
)
def test_a_policy_that_cannot_work_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="; give "):
        Policy(**wrong)  # type: ignore[arg-type]


def test_names_that_a_small_best_band_has_no_servers_for_go_to_the_next() -> None:
    """Else two names would be left of four servers, where three are asked for."""
    policy = Policy(min_targets=3, max_targets=3, ttl=5)
    loads = even(4)
    first = {name.replace("-", "_"): State.JOINING for name in list(loads)[1:]}
    made = plan(reports(1000.0, loads, **first), None, policy, 1000.0)
    assert sorted(Counter(m.band for m in made.members).values()) == [1, 3]
    assert len(made.targets) == 3
