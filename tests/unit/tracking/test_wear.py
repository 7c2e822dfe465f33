"""Which segments are worth compacting, and who does it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailarray.catalog.rows import SegmentFacts, SegmentState, WornSegment
from mailarray.contract.mirroring_table import Server
from mailarray.model.ids import PlacementId, VolumeId, new_incarnation_id, new_segment_id, new_volume_id
from mailarray.tracking.compacting import is_dead
from mailarray.tracking.wear import MAX_INPUTS, RANK_SECONDS, Measured, begins_after, fit, is_taken, pays

A, B, C, D = (VolumeId(bytes([i]) * 16) for i in range(4))


def state(*members: VolumeId, replicas: tuple[VolumeId, ...] = (), copies: int = 2) -> SegmentState:
    facts = SegmentFacts(new_segment_id(), members[0], new_incarnation_id(), 0, members, copies)
    return SegmentState(facts, 100, 100, 0, False, replicas)


def serving(*volumes: VolumeId) -> dict[VolumeId, Server]:
    return {volume: Server(f"mail-{volume[0]}", "", "") for volume in volumes}


def measured(live: int, dead: int) -> Measured:
    return Measured(new_segment_id(), live + dead, live, dead)


def test_the_first_holder_that_counts_begins_at_once_and_the_others_wait() -> None:
    both = state(A, B, replicas=(C,))
    assert [begins_after(both, serving(A, B, C, D), v) for v in (A, B, C, D)] == [
        0,
        RANK_SECONDS,
        2 * RANK_SECONDS,
        None,
    ]
    assert [begins_after(both, serving(B, C), v) for v in (A, B, C)] == [None, 0, RANK_SECONDS]


def test_what_too_few_volumes_hold_is_not_touched() -> None:
    assert begins_after(state(A, B), serving(A, C, D), A) is None
    assert begins_after(state(A, copies=1), serving(A), A) == 0
    assert begins_after(state(A, B), serving(A) | {B: Server("mail-0.1", "", "")}, A) is None


def test_a_claim_keeps_others_away_while_its_volume_counts() -> None:
    worn = WornSegment(state(A, B), 50, A)
    assert is_taken(worn, {A, B}, B) and not is_taken(worn, {A, B}, A) and not is_taken(worn, {B, C}, B)


def test_a_record_is_dead_only_when_every_placement_is() -> None:
    record = new_volume_id()
    buried = {PlacementId(record, 0), PlacementId(record, 2)}
    assert is_dead(record, 1, buried)
    assert not is_dead(record, 2, buried) and not is_dead(record, 3, buried)
    assert not is_dead(record, 0, buried)


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300))),
    st.integers(1, 100),
    st.integers(1, 1000),
    st.integers(0, 1000),
)
def test_what_is_chosen_fits(sizes: list[tuple[int, int]], percent: int, segment_size: int, room: int) -> None:
    every = [measured(live, dead) for live, dead in sizes]
    chosen = fit(every, percent, segment_size, room)
    live = sum(one.live for one in chosen)
    assert live <= room and len(chosen) <= MAX_INPUTS
    assert live <= segment_size or len([one for one in chosen if one.live]) == 1
    assert all(one.dead * 100 >= one.length * percent and one.dead for one in chosen)
    assert [one for one in every if one in chosen] == chosen
    assert pays(chosen, 1) == bool(chosen)
    assert not pays(chosen, sum(one.dead for one in chosen) + 1)
