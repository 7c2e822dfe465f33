"""Repaired copies, retired volumes, and proposals of an epoch that is over (rules 8, 10, 13, 19)."""

from __future__ import annotations

import random

import pytest

from mailarray.catalog.catalog import Catalog, EpochPassed
from mailarray.catalog.rows import LookedAt, SegmentFacts
from mailarray.model.ids import new_segment_id, new_volume_id
from tests.component.catalog.sidecar import BODY, Sidecar, facts, message


async def sealed(catalog: Catalog, count: int = 3) -> list[Sidecar]:
    """mail-0 wrote a segment of two messages with mail-1 as its mirror; the others hold nothing."""
    sidecars = [Sidecar(catalog, f"mail-{i}") for i in range(count)]
    sidecars[0].mirror = sidecars[1].volume
    sidecars[0].next_segment()
    for sidecar in sidecars:
        await sidecar.join()
    await sidecars[0].register(message("a@x"), message("a@x"))
    assert await catalog.propose_seal(sidecars[0].segment, 2 * BODY, sidecars[0].epoch) == 2 * BODY
    return sidecars


async def test_a_replica_is_taken_only_for_what_is_sealed_with_that_length(catalog: Catalog) -> None:
    one, two, three = await sealed(catalog)
    segment = one.segment.id
    assert not await catalog.add_replica(segment, three.volume, BODY)
    assert not await catalog.add_replica(new_segment_id(), three.volume, 2 * BODY)
    assert not await catalog.add_replica(segment, new_volume_id(), 2 * BODY)
    one.next_segment()
    await one.register(message("a@x"))
    assert not await catalog.add_replica(one.segment.id, three.volume, BODY)
    assert (await catalog.segments([segment]))[segment].replicas == ()
    for _ in range(2):
        assert await catalog.add_replica(segment, three.volume, 2 * BODY)
    assert await catalog.add_replica(segment, two.volume, 2 * BODY)  # a member: it counts anyway
    state = (await catalog.segments([segment]))[segment]
    assert state.facts.members == (one.volume, two.volume) and state.replicas == (three.volume,)
    await catalog.mark_lost(three.volume)
    assert not await catalog.add_replica(segment, three.volume, 2 * BODY)
    assert (await catalog.segments([segment]))[segment].replicas == ()


async def test_readers_are_told_of_replicas(catalog: Catalog) -> None:
    one, two, three = await sealed(catalog)
    await catalog.add_replica(one.segment.id, three.volume, 2 * BODY)
    for entry in await catalog.mailbox("a@x"):
        assert [place.members for place in entry.locations] == [(one.volume, two.volume, three.volume)]


async def test_short_is_what_too_few_of_the_counting_volumes_hold(catalog: Catalog) -> None:
    one, two, three = await sealed(catalog)
    everyone = [one.volume, two.volume, three.volume]
    assert (await catalog.short_segments(everyone)).short == []
    (short,) = (await catalog.short_segments(everyone[1:])).short
    assert (short.facts, short.sealed_length) == (one.segment, 2 * BODY)
    assert short.holders == (two.volume,) and short.everywhere == (one.volume, two.volume)
    assert (await catalog.short_segments([])).short[0].holders == ()
    await catalog.add_replica(one.segment.id, three.volume, 2 * BODY)
    assert (await catalog.short_segments(everyone[1:])).short == []
    assert (await catalog.short_segments(everyone[2:])).short[0].holders == (three.volume,)


async def test_what_none_of_some_volumes_holds(catalog: Catalog) -> None:
    one, two, three = await sealed(catalog)
    everyone = [one.volume, two.volume, three.volume]
    assert (await catalog.held_by_none_of(everyone, [two.volume, three.volume])).short == []
    (found,), looked_at = await catalog.held_by_none_of(everyone, [three.volume])
    assert (found.facts, found.sealed_length, found.holders) == (one.segment, 2 * BODY, (one.volume, two.volume))
    assert (await catalog.held_by_none_of(everyone, [three.volume], looked_at)).short == [found]
    await catalog.add_replica(one.segment.id, three.volume, 2 * BODY)
    assert (await catalog.held_by_none_of(everyone, [three.volume], looked_at)).short == []
    one.segment, one.at = facts(one.volume, copies=1), 0  # one copy is in one zone, and shall be
    await one.register(message("a@x"))
    await catalog.propose_seal(one.segment, BODY, one.epoch)
    assert (await catalog.held_by_none_of(everyone, [three.volume])).short == []


@pytest.mark.parametrize("late", [0, 3])
@pytest.mark.parametrize("seed", range(2))
async def test_a_look_that_goes_on_from_the_last_one_sees_what_a_whole_one_sees(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, seed: int, late: int
) -> None:
    print("seed", seed)
    chance = random.Random(seed)
    monkeypatch.setattr("mailarray.catalog.replicas.LATE_ROWS", late)
    one, two, three = await sealed(catalog)
    volumes = [one.volume, two.volume, three.volume]
    counting = volumes[:2]
    before: LookedAt | None = None
    before_elsewhere: LookedAt | None = None
    still_open: list[SegmentFacts] = []
    found: list[SegmentFacts] = []
    reached = set()
    for _ in range(40):
        members = (one.volume, *chance.sample([two.volume, three.volume, new_volume_id()], chance.randrange(2)))
        one.segment, one.at = facts(*members), 0
        if chance.random() < 0.7:
            await one.register(message("a@x"))
            still_open.append(one.segment)
        if still_open and chance.random() < 0.7:
            found.append(still_open.pop(chance.randrange(len(still_open))))
            await catalog.propose_seal(found[-1], BODY, one.epoch)
        if found and chance.random() < 0.6:
            await catalog.add_replica(chance.choice(found).id, chance.choice(volumes), BODY)
        whole = await catalog.short_segments(counting)
        answer = await catalog.short_segments(counting, before)
        assert answer == whole
        elsewhere = await catalog.held_by_none_of(volumes, volumes[1:], before_elsewhere)
        assert elsewhere == await catalog.held_by_none_of(volumes, volumes[1:])
        if chance.random() < 0.7:
            before, before_elsewhere = answer.looked_at, elsewhere.looked_at
            reached.add(before.number)
    assert len(reached) > 3  # it went on indeed


async def test_counts_and_the_opening_know_replicas(catalog: Catalog) -> None:
    one, two, three = await sealed(catalog)
    everyone = [two.volume, three.volume]
    await catalog.mark_lost(one.volume)
    assert (await catalog.counts()).under_replicated_segments == 1
    await catalog.add_replica(one.segment.id, three.volume, 2 * BODY)
    assert (await catalog.counts()).under_replicated_segments == 0
    # Rule 19: lost, and repaired, so it is not waited for. A reset forgets who has copies until they are told again.
    epoch = await catalog.reset()
    for sidecar in (two, three):
        await sidecar.check_in()
    await catalog.propose_seal(one.segment, 2 * BODY, epoch)
    assert not await catalog.caught_up(two.volume, epoch, everyone, 1)
    assert not await catalog.caught_up(three.volume, epoch, everyone, 1)
    assert await catalog.add_replica(one.segment.id, three.volume, 2 * BODY)
    assert await catalog.caught_up(three.volume, epoch, everyone, 1)


async def test_a_retired_volume_is_no_holder_and_not_waited_for(catalog: Catalog) -> None:
    one, two, three = await sealed(catalog)
    await catalog.add_replica(one.segment.id, three.volume, 2 * BODY)
    await catalog.mark_retired(one.volume)
    assert {row.id: (row.lost, row.retired) for row in await catalog.volumes()} == {
        one.volume: (False, True),
        two.volume: (False, False),
        three.volume: (False, False),
    }
    assert (await catalog.counts()).under_replicated_segments == 0
    await catalog.mark_retired(three.volume)
    assert (await catalog.counts()).under_replicated_segments == 1
    assert (await catalog.segments([one.segment.id]))[one.segment.id].replicas == ()
    epoch = await catalog.reset()
    await two.check_in()
    assert {row.id for row in await catalog.volumes() if row.retired} == {one.volume, three.volume}
    assert await catalog.caught_up(two.volume, epoch, [v.volume for v in (one, two, three)], 1)


async def test_a_retired_volume_that_serves_again_counts_again(catalog: Catalog) -> None:
    one, _, three = await sealed(catalog)
    await catalog.add_replica(one.segment.id, three.volume, 2 * BODY)
    await catalog.mark_retired(three.volume)
    await catalog.check_in(three.volume, "mail-2", 1, 0, False)  # still draining
    assert (await catalog.segments([one.segment.id]))[one.segment.id].replicas == ()
    await catalog.check_in(three.volume, "mail-2", 1, 0)
    assert (await catalog.segments([one.segment.id]))[one.segment.id].replicas == (three.volume,)


async def test_a_proposal_of_an_epoch_that_is_over_is_void(catalog: Catalog) -> None:
    sidecar = Sidecar(catalog)
    await sidecar.join()
    await sidecar.register(message("a@x"))
    asked_in = sidecar.epoch
    assert (await catalog.check_in(sidecar.volume, "mail-0", asked_in, 99)).epoch == asked_in + 1
    with pytest.raises(EpochPassed):
        await catalog.propose_seal(sidecar.segment, BODY, asked_in)
    assert (await catalog.segments([sidecar.segment.id]))[sidecar.segment.id].sealed_length is None
    assert await catalog.propose_seal(sidecar.segment, 2 * BODY, asked_in + 1) == 2 * BODY
