"""Copies too many: which there are, and how one leaves, never two on each other's word (ADR 15)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mailarray.catalog.catalog import Catalog, EpochPassed
from mailarray.catalog.database import open_catalog
from mailarray.model.ids import new_volume_id
from tests.component.catalog.sidecar import BODY, Sidecar, facts, message

LENGTH = 2 * BODY


@pytest.fixture
async def holders(catalog: Catalog) -> list[Sidecar]:
    """Five servers; the first two are original members of a segment, the others hold repaired copies."""
    sidecars = [Sidecar(catalog, f"mail-{i}") for i in range(5)]
    sidecars[0].mirror = sidecars[1].volume
    sidecars[0].next_segment()
    for sidecar in sidecars:
        await sidecar.join()
    for sidecar in sidecars:
        assert await catalog.caught_up(sidecar.volume, sidecar.epoch, (), 2) in (True, False)
    assert (await catalog.state()).open
    await sidecars[0].register(message("a@x"), message("a@x"))
    assert await catalog.propose_seal(sidecars[0].segment, LENGTH, sidecars[0].epoch) == LENGTH
    for sidecar in sidecars[2:]:
        assert await catalog.add_replica(sidecars[0].segment.id, sidecar.volume, LENGTH)
    return sidecars


async def test_only_repaired_copies_beyond_copies_are_surplus(catalog: Catalog, holders: list[Sidecar]) -> None:
    every = [holder.volume for holder in holders]
    one, two, three = every[:3]
    (found,) = await catalog.surplus_segments(three, every)
    assert (found.facts, found.sealed_length) == (holders[0].segment, LENGTH)
    assert found.holders[:2] == (one, two) and set(found.holders) == set(every)
    assert await catalog.surplus_segments(one, every) == []  # an original member
    assert await catalog.surplus_segments(three, [two, three]) == []  # those that count are just enough
    assert (await catalog.surplus_segments(three, [one, two, three]))[0].holders == (one, two, three)
    unregistered = holders[0]
    unregistered.next_segment()
    await catalog.propose_seal(unregistered.segment, BODY, unregistered.epoch)
    await catalog.add_replica(unregistered.segment.id, three, BODY)
    await catalog.add_replica(unregistered.segment.id, every[3], BODY)
    assert len(await catalog.surplus_segments(three, every)) == 1


async def test_a_copy_leaves_once_and_is_counted(catalog: Catalog, holders: list[Sidecar]) -> None:
    one, two, three = holders[:3]
    segment = one.segment.id
    before = (await catalog.check_in(three.volume, three.name, three.epoch, 0)).counter
    told = await catalog.give_back(segment, three.volume, LENGTH, [one.volume, two.volume], three.epoch)
    assert told == before + 1 == (await catalog.check_in(three.volume, three.name, three.epoch, 0)).counter
    assert three.volume not in (await catalog.segments([segment]))[segment].replicas
    assert await catalog.give_back(segment, three.volume, LENGTH, [one.volume, two.volume], three.epoch) is None
    assert await catalog.add_replica(segment, three.volume, LENGTH)  # it may hold one again


async def test_none_leaves_on_the_word_of_too_few(catalog: Catalog, holders: list[Sidecar]) -> None:
    one, two, three, four, five = (holder.volume for holder in holders)
    segment, epoch = holders[0].segment.id, holders[0].epoch

    async def refused(*staying: bytes, volume: bytes = three, length: int = LENGTH) -> None:
        assert await catalog.give_back(segment, volume, length, staying, epoch) is None  # type: ignore[arg-type]
        assert set((await catalog.segments([segment]))[segment].replicas) >= {three} - gone

    gone: set[bytes] = set()
    await refused(one)
    await refused(one, three)
    await refused(one, new_volume_id())
    await refused(one, two, length=BODY)
    await refused(two, three, volume=one)  # an original member has no row
    await catalog.mark_lost(one)
    await refused(one, two)
    await catalog.mark_retired(four)
    await refused(two, four)
    assert await catalog.give_back(segment, three, LENGTH, [two, five], epoch) is not None


async def test_volumes_of_one_host_count_once(catalog: Catalog, holders: list[Sidecar]) -> None:
    one, two, three, four, _ = holders
    segment = one.segment.id
    await catalog.check_in(four.volume, "mail-1.1", four.epoch, 0)
    assert await catalog.give_back(segment, three.volume, LENGTH, [two.volume, four.volume], three.epoch) is None
    staying = [one.volume, two.volume, four.volume]
    assert await catalog.give_back(segment, three.volume, LENGTH, staying, three.epoch) is not None


@pytest.fixture
async def other(url: str) -> AsyncIterator[Catalog]:
    """Another process' connection."""
    made = await open_catalog(url)
    yield made
    await made.close()


async def test_two_that_count_each_other_do_not_both_leave(
    catalog: Catalog, other: Catalog, holders: list[Sidecar]
) -> None:
    one, _, three, four, _ = holders
    segment = one.segment.id
    for _ in range(10):
        left = await asyncio.gather(
            catalog.give_back(segment, three.volume, LENGTH, [one.volume, four.volume], one.epoch),
            other.give_back(segment, four.volume, LENGTH, [one.volume, three.volume], one.epoch),
        )
        assert sum(told is not None for told in left) == 1
        for holder in (three, four):
            assert await catalog.add_replica(segment, holder.volume, LENGTH)


async def test_nothing_leaves_a_superseded_or_closed_one_or_in_a_past_epoch(
    catalog: Catalog, holders: list[Sidecar]
) -> None:
    one, two, three, four, _ = holders
    segment = one.segment.id
    staying = [one.volume, two.volume]
    with pytest.raises(EpochPassed):
        await catalog.give_back(segment, three.volume, LENGTH, staying, three.epoch - 1)
    output = facts(four.volume, copies=1)
    await catalog.propose_seal(output, BODY, one.epoch)
    four.segment, four.at = output, 0
    await four.register(message("a@x"))
    assert await catalog.supersede(output, BODY, [segment], one.epoch)
    assert await catalog.give_back(segment, three.volume, LENGTH, staying, three.epoch) is None
    raised = await catalog.check_in(three.volume, three.name, three.epoch + 1, 0)
    assert not raised.open
    assert await catalog.give_back(segment, three.volume, LENGTH, staying, raised.epoch) is None


async def test_the_compaction_of_a_copy_that_left_is_free_to_others(catalog: Catalog, holders: list[Sidecar]) -> None:
    one, two, three, four, _ = holders
    segment, every = one.segment.id, [one.volume, two.volume]
    first = (await catalog.mailbox("a@x"))[0]
    from mailarray.catalog.rows import TombstoneRow

    await catalog.expunge([TombstoneRow(first.placement, first.message, "a@x")])
    assert await catalog.claim_compaction([segment], three.volume) == {segment}
    assert await catalog.claim_compaction([segment], four.volume) == set()
    assert await catalog.give_back(segment, three.volume, LENGTH, every, three.epoch) is not None
    assert await catalog.claim_compaction([segment], four.volume) == {segment}


async def test_rows_that_are_not_true_are_removed(catalog: Catalog, holders: list[Sidecar]) -> None:
    one, _, three, four, _ = holders
    segment = one.segment.id
    assert await catalog.replicas_on(three.volume) == {segment}
    assert await catalog.replicas_on(one.volume) == set()
    await catalog.forget_replicas(three.volume, [segment])
    await catalog.forget_replicas(three.volume, [segment])
    assert await catalog.replicas_on(three.volume) == set()
    assert await catalog.replicas_on(four.volume) == {segment}


async def test_nobody_waits_for_the_seal_of_what_is_superseded(catalog: Catalog, holders: list[Sidecar]) -> None:
    """A catalog that was restored to before a seal hears of the compaction all the same."""
    one, two, _, four, _ = holders
    one.next_segment()
    one.segment = facts(one.volume, two.volume)
    await one.register(message("a@x"))
    assert [state.facts for state in await catalog.unsealed_segments(two.volume)] == [one.segment]
    four.segment, four.at = facts(four.volume, copies=1), 0
    await four.register(message("a@x"))
    await catalog.propose_seal(four.segment, BODY, four.epoch)
    assert await catalog.supersede(four.segment, BODY, [one.segment.id], one.epoch)
    assert await catalog.unsealed_segments(two.volume) == []
