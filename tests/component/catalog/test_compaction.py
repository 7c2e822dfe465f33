"""What compaction asks of the catalog, on both databases: wear, claims, superseded segments and their locations."""

from __future__ import annotations

import dataclasses

import pytest

from mailarray.catalog.catalog import Catalog, EpochPassed
from mailarray.catalog.rows import MessageRow, NotRegistered, Registration, SegmentFacts
from mailarray.model.ids import MessageId, PlacementId, SegmentId, new_segment_id, new_volume_id
from tests.component.catalog.sidecar import BODY, Sidecar, facts, message, tombstone


class Two:
    """A sealed segment with some messages, and a compacted one with some of them."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.sidecar = Sidecar(catalog)
        self.old: SegmentFacts = self.sidecar.segment
        self.length = 0

    async def begin(self, *messages: MessageRow) -> None:
        await self.sidecar.join()
        await self.sidecar.register(*messages)
        self.length = self.sidecar.at
        assert await self.catalog.propose_seal(self.old, self.length, self.sidecar.epoch) == self.length

    async def output(self, *messages: MessageRow) -> SegmentFacts:
        output = facts(self.sidecar.volume)
        end = max(1, len(messages)) * BODY
        rows = [row._replace(offset=i * BODY) for i, row in enumerate(messages)]
        await self.catalog.propose_seal(output, end, self.sidecar.epoch)
        run = Registration(output, self.sidecar.epoch, 0, end, end, rows, ())
        assert not isinstance(await self.catalog.register(self.sidecar.volume, run), NotRegistered)
        return output

    async def supersede(self, output: SegmentFacts, *inputs: SegmentId) -> bool:
        state = (await self.catalog.segments([output.id]))[output.id]
        assert state.sealed_length is not None
        epoch = self.sidecar.epoch
        return await self.catalog.supersede(output, state.sealed_length, inputs or (self.old.id,), epoch)


async def test_nobody_waits_for_the_seal_of_a_superseded_segment(catalog: Catalog) -> None:
    """The catalog was restored to before the seal, and every volume has dropped the segment since."""
    two = Two(catalog)
    await two.sidecar.join()
    one, other = message("a@x"), message("a@x")
    await two.sidecar.register(one, other)
    member = two.sidecar.mirror
    assert [state.facts.id for state in await catalog.unsealed_segments(member)] == [two.old.id]
    assert await two.supersede(await two.output(one, other))
    assert await catalog.unsealed_segments(member) == []


async def test_wear_counts_what_lost_a_placement_in_any_order(catalog: Catalog) -> None:
    two = Two(catalog)
    early, late, kept = message("a@x", "b@x"), message("a@x"), message("a@x")
    await catalog.expunge([tombstone(early, 1)])  # before its message
    await two.begin(early, late, kept)
    own = two.sidecar.volume
    (worn,) = await catalog.worn_segments(own, 30)
    assert (worn.state.facts, worn.dead, worn.compactor) == (two.old, BODY, None)
    await catalog.expunge([tombstone(late)])
    await catalog.expunge([tombstone(late)])  # told twice, counted once
    (worn,) = await catalog.worn_segments(two.sidecar.mirror, 60)
    assert worn.dead == 2 * BODY == (await catalog.counts()).dead_bytes
    assert await catalog.worn_segments(own, 70) == []
    assert await catalog.worn_segments(new_volume_id(), 10) == []
    await catalog.note_wear(two.old.id, 7, 0)  # of another guess
    assert len(await catalog.worn_segments(own, 60)) == 1
    await catalog.note_wear(two.old.id, 2 * BODY, BODY)
    assert await catalog.worn_segments(own, 60) == []
    assert await catalog.tombstoned([late.id, kept.id, early.id]) == {PlacementId(late.id, 0), PlacementId(early.id, 1)}


async def test_one_volume_compacts_until_it_is_gone(catalog: Catalog) -> None:
    two = Two(catalog)
    dead = message("a@x")
    await two.begin(dead)
    await catalog.expunge([tombstone(dead)])
    first, second = two.sidecar.volume, two.sidecar.mirror
    assert await catalog.claim_compaction([two.old.id, new_segment_id()], first) == {two.old.id}
    assert await catalog.claim_compaction([two.old.id], second) == set()
    assert await catalog.claim_compaction([two.old.id], first) == {two.old.id}
    assert [w.compactor for w in await catalog.worn_segments(second, 50)] == [first]
    await catalog.mark_lost(first)
    assert await catalog.claim_compaction([two.old.id], second) == {two.old.id}


async def test_a_segment_stands_for_others_only_when_it_is_sealed_and_registered(catalog: Catalog) -> None:
    two = Two(catalog)
    row = message("a@x")
    await two.begin(row)
    output = facts(two.sidecar.volume)
    epoch = two.sidecar.epoch
    assert not await catalog.supersede(output, BODY, [two.old.id], epoch)  # nobody knows it
    await catalog.propose_seal(output, BODY, epoch)
    assert not await catalog.supersede(output, BODY, [two.old.id], epoch)  # not registered
    run = Registration(output, epoch, 0, BODY, BODY, [row], ())
    await catalog.register(two.sidecar.volume, run)
    assert not await catalog.supersede(output, 2 * BODY, [two.old.id], epoch)  # another L
    with pytest.raises(EpochPassed):
        await catalog.supersede(output, BODY, [two.old.id], epoch - 1)
    assert await catalog.superseded_since(0) == []
    assert await catalog.supersede(output, BODY, [two.old.id], epoch)
    assert await catalog.supersede(output, BODY, [two.old.id], epoch)
    (told,) = await catalog.superseded_since(0)
    assert (told.segment, told.by) == (two.old.id, output.id)
    assert await catalog.superseded_since(told.number) == []
    assert (await catalog.segments([two.old.id]))[two.old.id].superseded
    assert (await catalog.counts()).segments == 1


async def test_what_is_superseded_registers_nothing_with_or_without_a_row(catalog: Catalog) -> None:
    two = Two(catalog)
    row = message("a@x")
    await two.begin(row)
    stale = facts(two.sidecar.volume)  # of which the catalog knows nothing
    output = await two.output(row)
    assert await two.supersede(output, two.old.id, stale.id)
    for segment, length in ((two.old, two.length), (stale, BODY)):
        start = (await catalog.segments([segment.id]))[segment.id].cursor if segment is two.old else 0
        run = Registration(segment, two.sidecar.epoch, start, start + BODY, None, [message("a@x")], ())
        assert await catalog.register(two.sidecar.volume, run) == NotRegistered("superseded", start)
        await catalog.propose_seal(segment, length, two.sidecar.epoch)
        sealed = dataclasses.replace(run, sealed_length=length)
        assert await catalog.register(two.sidecar.volume, sealed) == NotRegistered("superseded", start)
        assert (await catalog.segments([segment.id]))[segment.id].superseded
    assert len(await catalog.mailbox("a@x")) == 1
    assert (await catalog.short_segments([two.sidecar.volume])).short[0].facts == output  # and no other


async def test_chains_lead_to_the_one_that_stands(catalog: Catalog) -> None:
    two = Two(catalog)
    row = message("a@x")
    await two.begin(row)
    first = await two.output(row)
    assert await two.supersede(first)
    second = await two.output(row)
    assert await two.supersede(second, first.id, two.old.id)
    assert not await two.supersede(first)  # it is superseded itself
    assert await catalog.stands_for([two.old.id, first.id, second.id]) == {two.old.id: second.id, first.id: second.id}


async def test_locations_go_and_only_what_tombstones_name_goes_with_them(catalog: Catalog) -> None:
    two = Two(catalog)
    kept, dead, half, forgotten = message("a@x"), message("a@x"), message("a@x", "b@x"), message("a@x")
    await two.begin(kept, dead, half, forgotten)
    await catalog.expunge([tombstone(dead), tombstone(half, 0)])
    before = {e.placement: e.uid for e in await catalog.mailbox("a@x")}
    output = await two.output(kept, half)  # which wrongly lacks `forgotten`
    records = [(MessageId(m.id), len(m.deliveries)) for m in (kept, dead, half, forgotten)]
    assert await catalog.forget_locations(two.old.id, records) == []  # it is not superseded
    assert len((await catalog.mailbox("a@x"))[0].locations) == 2
    assert await two.supersede(output)
    for _ in range(2):
        assert await catalog.forget_locations(two.old.id, records) == [forgotten.id]
    await catalog.forgotten(two.old.id)
    assert (await catalog.segments([two.old.id]))[two.old.id].cursor == 0
    entries = await catalog.mailbox("a@x")
    assert {e.placement: e.uid for e in entries} == before
    places = {e.message: [place.segment for place in e.locations] for e in entries}
    assert places == {kept.id: [output.id], forgotten.id: [two.old.id]}  # not lost: it still lies where it lay
    (other,) = await catalog.mailbox("b@x")
    assert [place.segment for place in other.locations] == [output.id]
    assert (await catalog.counts()).messages == 3


async def test_a_reset_forgets_what_the_journals_tell_again(catalog: Catalog) -> None:
    two = Two(catalog)
    row = message("a@x")
    await two.begin(row)
    assert await two.supersede(await two.output(row))
    await catalog.expunge([tombstone(row)])
    await catalog.reset()
    assert await catalog.superseded_since(0) == []
    assert (await catalog.counts()).dead_bytes == 0
