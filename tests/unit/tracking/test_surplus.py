"""Which volume gives back a copy too many: properties over random arrays, and the examples of the rule."""

from __future__ import annotations

import random

import pytest

from mailarray.catalog.rows import SegmentFacts
from mailarray.contract.mirroring_table import Server
from mailarray.model.ids import VolumeId, new_incarnation_id, new_segment_id, new_volume_id
from mailarray.tracking.surplus import begins_after, enough, leavers, too_many
from mailarray.tracking.targets import RANK_SECONDS, held_on, order

A, B, C, D, E = (new_volume_id() for _ in range(5))


def server(name: str, zone: str = "", node: str = "") -> Server:
    return Server(name, "", "", zone=zone, node=node)


def facts(*members: VolumeId, copies: int = 2) -> SegmentFacts:
    return SegmentFacts(new_segment_id(), members[0], new_incarnation_id(), 0, members, copies)


PLAIN = {volume: server(f"mail-{i}") for i, volume in enumerate((A, B, C, D, E))}
ZONES = {
    A: server("mail-0", "east"),
    B: server("mail-1", "west"),
    C: server("mail-2", "east"),
    D: server("mail-3", "west"),
    E: server("mail-4", "south"),
}


def test_only_a_repaired_copy_goes_and_only_one_too_many() -> None:
    assert leavers(facts(A, B), (A, B, C), PLAIN, True) == [C]
    assert leavers(facts(A, B), (A, B), PLAIN, True) == []
    assert leavers(facts(A, B), (A, C), PLAIN, True) == []
    assert leavers(facts(A, B, C), (A, B, C), PLAIN, True) == []  # members alone, and copies lowered meanwhile
    assert leavers(facts(A, B, copies=3), (A, B, C), PLAIN, True) == []
    assert set(leavers(facts(A, B), (A, B, C, D), PLAIN, True)) == {C, D}
    assert set(too_many(facts(A, B), (A, B, C, D), PLAIN, True)) == {C, D}
    assert len(too_many(facts(A, B), (A, C, D), PLAIN, True)) == 1


def test_who_does_not_count_is_nobody() -> None:
    some = {volume: PLAIN[volume] for volume in (A, C, D)}  # B drains, or is lost
    assert leavers(facts(A, B), (A, B, C), some, True) == []
    assert set(leavers(facts(A, B), (A, B, C, D), some, True)) == {C, D}
    assert leavers(facts(A, B), (A, B, C), {A: PLAIN[A], B: PLAIN[B]}, True) == []


def test_volumes_of_one_host_count_once() -> None:
    servers = {A: server("mail-0"), B: server("mail-1"), C: server("mail-1.1"), D: server("mail-0.1")}
    assert set(leavers(facts(A, B), (A, B, C, D), servers, True)) == {C, D}  # all are on two hosts
    assert set(too_many(facts(A, B), (A, B, C, D), servers, True)) == {C, D}
    assert leavers(facts(A, C), (A, B, C), servers, True) == [B]
    assert leavers(facts(A, B), (A, D, C), servers, True) == [D]  # without C there is one host left


def test_zones_stay_where_the_table_wants_them() -> None:
    assert leavers(facts(A, B), (A, B, C), ZONES, True) == [C]
    assert leavers(facts(A, C), (A, C, B), ZONES, True) == []  # east, east: the copy in the west stays
    assert leavers(facts(A, C), (A, C, B), ZONES, False) == [B]
    assert leavers(facts(A, C), (A, C, B, D), ZONES, True) in ([B, D], [D, B])
    assert len(too_many(facts(A, C), (A, C, B, D), ZONES, True)) == 1
    assert leavers(facts(A, B), (A, B, C, E), ZONES, True)[0] == C  # east has another; two zones are enough for two


def test_the_first_goes_after_patience_and_others_step_in() -> None:
    assert begins_after([C, D], C, 600.0, full=False) == 600.0
    assert begins_after([C, D], D, 600.0, full=False) == 600.0 + RANK_SECONDS
    assert begins_after([C, D], D, 600.0, full=True) == 600.0
    assert begins_after([C, D], A, 600.0, full=True) is None


@pytest.mark.parametrize("seed", range(300))
def test_whoever_goes_nothing_is_short_or_fetched_again(seed: int) -> None:
    dice = random.Random(seed)
    copies = dice.choice((1, 2, 2, 3))
    zones = dice.choice((("",), ("a", "b"), ("a", "b", "c", "")))
    servers = {}
    for host in range(dice.randrange(2, 7)):
        for number in range(dice.choice((1, 1, 2))):
            name = f"mail-{host}.{number}" if number else f"mail-{host}"
            servers[VolumeId(dice.randbytes(16))] = server(name, zones[host % len(zones)], f"node-{host}")
    strangers = [VolumeId(dice.randbytes(16)) for _ in range(2)]
    holders = dice.sample([*servers, *strangers], dice.randrange(1, len(servers) + 2))
    members = dice.sample(holders, dice.randrange(1, min(len(holders), copies) + 1))
    segment, apart = facts(*members, copies=copies), dice.random() < 0.7
    shuffled = dice.sample(holders, len(holders))
    ranking = leavers(segment, holders, servers, apart)
    assert ranking == leavers(segment, shuffled, dict(reversed(servers.items())), apart)  # the same for all
    for volume in ranking:
        left = [holder for holder in holders if holder != volume]
        assert volume in servers and volume not in members
        assert held_on(left, servers) >= copies
        if apart:
            before = {servers[v].zone for v in holders if v in servers}
            after = {servers[v].zone for v in left if v in servers}
            assert len(after) >= min(len(before), copies)
        assert enough(segment, left, holders, servers, apart)
        # Nobody fetches it again: repair asks for hosts, spreading for a zone that is missing.
        assert max(0, copies - held_on(left, servers)) == 0
    gone = too_many(segment, holders, servers, apart)
    rest = [holder for holder in holders if holder not in gone]
    assert leavers(segment, rest, servers, apart) == []
    assert held_on(rest, servers) >= min(copies, held_on(holders, servers))
    assert bool(gone) == bool(ranking)
    if gone:
        assert volume_is_no_target(segment, rest, servers)


def volume_is_no_target(segment: SegmentFacts, rest: list[VolumeId], servers: dict[VolumeId, Server]) -> bool:
    """`missing` targets of `order` begin: none are missing."""
    missing = segment.copies - held_on(rest, servers)
    return missing <= 0 and order(segment.id, servers, rest, (), max(0, missing)) is not None
