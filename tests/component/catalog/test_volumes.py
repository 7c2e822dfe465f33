"""Rules 15 and 19: who is there, epochs, and when the catalog opens."""

from __future__ import annotations

import asyncio

import pytest

from mailarray.catalog.catalog import Catalog, CatalogClosed
from mailarray.catalog.rows import CheckIn, NotRegistered, WaitsFor
from mailarray.model.ids import new_incarnation_id, new_volume_id
from tests.component.catalog.sidecar import BODY, Sidecar, message, tombstone


async def test_opens_when_all_but_copies_minus_one_caught_up(catalog: Catalog) -> None:
    sidecars = [Sidecar(catalog, f"mail-{i}") for i in range(3)]
    expected = [s.volume for s in sidecars]
    for sidecar in sidecars:
        await sidecar.check_in()
    assert not await catalog.caught_up(expected[0], 1, expected, 2)
    assert not await catalog.caught_up(expected[0], 1, expected, 2)
    assert not await catalog.caught_up(expected[1], 0, expected, 2)  # said of another epoch
    assert await catalog.caught_up(expected[1], 1, expected, 2)
    assert (await catalog.check_in(expected[2], "mail-2", 1, 0)) == CheckIn(1, 0, True)


async def test_volumes_that_catch_up_at_the_same_moment_open_it(catalog: Catalog) -> None:
    sidecars = [Sidecar(catalog, f"mail-{i}") for i in range(4)]
    expected = [s.volume for s in sidecars]
    await asyncio.gather(*(s.check_in() for s in sidecars))
    assert any(await asyncio.gather(*(catalog.caught_up(v, 1, expected, 1) for v in expected)))


async def test_a_lost_volume_counts_until_its_segments_are_repaired(catalog: Catalog) -> None:
    one, two, gone = (Sidecar(catalog, f"mail-{i}") for i in range(3))
    expected = [one.volume, two.volume]
    for sidecar in (one, two, gone):
        await sidecar.check_in()
    await catalog.mark_lost(gone.volume)
    # The lost one held nothing, as far as headers say: it is not waited for.
    assert not await catalog.caught_up(one.volume, 1, expected, 1)
    assert await catalog.caught_up(two.volume, 1, expected, 1)
    one.mirror = gone.volume
    one.next_segment()
    await one.register(message("a@x"))
    await catalog.reset()
    for sidecar in (one, two):
        await sidecar.check_in()
    one.at = 0
    await one.register(message("a@x"))
    await catalog.caught_up(one.volume, one.epoch, expected, 1)
    assert await catalog.waits_for() == WaitsFor(frozenset({two.volume}), frozenset({gone.volume}), frozenset())
    assert not await catalog.caught_up(two.volume, two.epoch, expected, 1)
    assert await catalog.caught_up(two.volume, two.epoch, expected, 2)


async def test_what_nobody_holds_any_more_does_not_keep_the_rest_closed(catalog: Catalog) -> None:
    one, two, three = (Sidecar(catalog, f"mail-{i}") for i in range(3))
    await one.join()
    await two.check_in()
    one.mirror = two.volume
    one.next_segment()
    await one.register(message("a@x"))
    await catalog.reset()
    await one.check_in()
    one.at = 0
    await one.register(message("a@x"))
    for gone in (one, two):
        await catalog.mark_lost(gone.volume)
    await three.check_in()
    four = Sidecar(catalog, "mail-3")
    await four.check_in()
    expected = [three.volume, four.volume]
    assert not await catalog.caught_up(three.volume, three.epoch, expected, 2)  # the other one may have a copy
    assert await catalog.caught_up(four.volume, four.epoch, expected, 2)
    assert len((await catalog.missing()).messages) == 1


async def test_a_volume_that_is_introduced_is_waited_for_until_another_is_in_its_place(catalog: Catalog) -> None:
    one, two = Sidecar(catalog, "mail-0"), Sidecar(catalog, "mail-1")
    gone = new_volume_id()
    expected = [one.volume, two.volume]
    await one.check_in()
    await catalog.introduce({gone: "mail-1", one.volume: "mail-7"})
    assert {(row.id, row.server, row.lost) for row in await catalog.volumes()} == {
        (one.volume, "mail-0", False),
        (gone, "mail-1", False),
    }
    assert (await catalog.check_in(two.volume, "mail-1", 1, 0)).beside == {gone}
    assert not await catalog.caught_up(one.volume, 1, expected, 1)
    assert await catalog.waits_for() == WaitsFor(frozenset({two.volume, gone}), frozenset(), frozenset())
    assert not await catalog.caught_up(two.volume, 1, expected, 1)
    await catalog.check_in(two.volume, "mail-1", 1, 0, instead=[gone])
    assert {row.id for row in await catalog.volumes() if row.lost} == {gone}
    assert await catalog.caught_up(two.volume, 1, expected, 1)
    assert await catalog.waits_for() is None


async def test_a_higher_counter_or_epoch_means_a_restored_catalog(catalog: Catalog) -> None:
    sidecar = Sidecar(catalog)
    await sidecar.join()
    await sidecar.register(message("a@x"))
    assert await catalog.check_in(sidecar.volume, "mail-0", 1, 1) == CheckIn(1, 1, True)
    assert await catalog.check_in(sidecar.volume, "mail-0", 1, 5) == CheckIn(2, 5, False)
    with pytest.raises(CatalogClosed):
        await catalog.mailbox("a@x")
    assert await sidecar.try_register(sidecar.run([message("a@x")])) == NotRegistered("epoch", BODY)
    assert await catalog.check_in(sidecar.volume, "mail-0", 2, 5) == CheckIn(2, 5, False)
    assert await catalog.check_in(sidecar.volume, "mail-0", 9, 5) == CheckIn(10, 5, False)
    # The header of its segment names a mirror that was never heard of: it is waited for, too.
    assert not await catalog.caught_up(sidecar.volume, 10, [sidecar.volume], 1)
    assert await catalog.caught_up(sidecar.volume, 10, [sidecar.volume], 2)
    assert len(await catalog.mailbox("a@x")) == 1


async def test_another_volume_of_the_same_server_means_the_first_is_lost(catalog: Catalog) -> None:
    old, new = new_volume_id(), new_volume_id()
    await catalog.check_in(old, "mail-0", 0, 0)
    first = await catalog.check_in(new, "mail-0", 1, 0)
    assert first.beside == {old}
    assert (await catalog.check_in(new, "mail-0", 1, 0, True, None, first.beside)).beside == frozenset()
    again = await catalog.check_in(old, "mail-0", 1, 0, True, None, {new})
    assert again.beside == frozenset()  # for ever: it does not drive out its successor
    assert {row.id: row.lost for row in await catalog.volumes()} == {old: True, new: False}


async def test_a_first_word_that_comes_late_drives_out_nobody(catalog: Catalog) -> None:
    """It was said for a disk that was replaced before it arrived."""
    late, there = new_volume_id(), new_volume_id()
    await catalog.check_in(there, "mail-0", 0, 0)
    await catalog.check_in(late, "mail-0", 0, 0)
    heard = await catalog.check_in(there, "mail-0", 1, 0)
    await catalog.check_in(there, "mail-0", 1, 0, True, None, heard.beside)
    assert {row.id: row.lost for row in await catalog.volumes()} == {late: True, there: False}


async def test_reset_keeps_volumes_and_forgets_the_rest(catalog: Catalog) -> None:
    sidecar = Sidecar(catalog)
    await sidecar.join()
    lost = new_volume_id()
    await catalog.mark_lost(lost)
    row = message("a@x", "b@x")
    await sidecar.register(row)
    await catalog.expunge([tombstone(row)])
    assert await catalog.acquire_lease("a@x", "me", 60)
    assert await catalog.reset() == 2
    counts = await catalog.counts()
    assert (counts.messages, counts.placements, counts.segments, counts.tombstones) == (0, 0, 0, 0)
    assert {v.id: v.lost for v in await catalog.volumes()} == {sidecar.volume: False, lost: True}
    assert not await catalog.acquire_lease("a@x", "other", 60)
    assert isinstance(await sidecar.try_register(sidecar.run([row])), NotRegistered)
    await sidecar.join()
    assert (sidecar.epoch, sidecar.counter) == (2, 1)
    sidecar.at = 0
    await sidecar.register(row)
    assert [e.uid for e in await catalog.mailbox("b@x")] == [1]


async def test_beats(catalog: Catalog) -> None:
    volume, first, second = new_volume_id(), new_incarnation_id(), new_incarnation_id()
    await catalog.beat(volume, first, 0, 1)
    await catalog.beat(volume, first, 1, 1)
    await catalog.beat(volume, first, 0, 2)
    assert await catalog.beats() == {(volume, first, 0): 2, (volume, first, 1): 1}
    await catalog.beat(volume, second, 0, 1)
    assert await catalog.beats() == {(volume, second, 0): 1}


async def test_leases(catalog: Catalog) -> None:
    assert await catalog.acquire_lease("a@x", "one", 60)
    assert await catalog.acquire_lease("a@x", "one", 60)
    assert not await catalog.acquire_lease("a@x", "two", 60)
    assert await catalog.acquire_lease("b@x", "two", 60)
    await catalog.release_lease("a@x", "two")
    assert not await catalog.acquire_lease("a@x", "two", 60)
    await catalog.release_lease("a@x", "one")
    assert await catalog.acquire_lease("a@x", "two", 0.05)
    await asyncio.sleep(0.06)  # the database's clock is real
    assert await catalog.acquire_lease("a@x", "one", 60)


async def test_a_restored_catalog_is_noticed_by_those_who_heard_of_others_registrations(catalog: Catalog) -> None:
    """The only one that registered since the backup is gone for good."""
    writer, other = Sidecar(catalog, "mail-0"), Sidecar(catalog, "mail-1")
    await writer.join()
    await writer.register(message("a@x"))
    assert (await catalog.check_in(other.volume, "mail-1", 1, 0)).counters is None
    heard = await catalog.check_in(other.volume, "mail-1", 1, 0, True, {})
    assert heard.counters == {writer.volume: 1, other.volume: 0}
    same = await catalog.check_in(other.volume, "mail-1", 1, 0, True, heard.counters)
    assert same == CheckIn(1, 0, True)
    later = {**heard.counters, writer.volume: 2}
    assert (await catalog.check_in(other.volume, "mail-1", 0, 0, True, later)).epoch == 1  # of an epoch before
    noticed = await catalog.check_in(other.volume, "mail-1", 1, 0, True, later)
    assert noticed == CheckIn(2, 0, False)
    assert (await catalog.check_in(other.volume, "mail-1", 2, 0, True, noticed.counters)).epoch == 2
    assert (await catalog.check_in(other.volume, "mail-1", 2, 0, True, {new_volume_id(): 1})).epoch == 3  # no row of it


async def test_a_seal_and_a_copy_count_so_that_a_catalog_from_before_them_is_noticed(catalog: Catalog) -> None:
    writer, other = Sidecar(catalog), Sidecar(catalog, "mail-1")
    await writer.join()
    await other.join()
    await writer.register(message("anna@x"))
    before = (await catalog.check_in(writer.volume, writer.name, writer.epoch, writer.counter)).counter
    await catalog.propose_seal(writer.segment, BODY, writer.epoch)
    await catalog.propose_seal(writer.segment, BODY, writer.epoch)  # told again: nothing is new
    assert (await catalog.check_in(writer.volume, writer.name, writer.epoch, before)).counter == before + 1
    assert await catalog.add_replica(writer.segment.id, other.volume, BODY)
    assert await catalog.add_replica(writer.segment.id, other.volume, BODY)
    assert (await catalog.check_in(other.volume, other.name, other.epoch, 0)).counter == 1
