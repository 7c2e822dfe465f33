"""Rules 16, 17, 18 and 21: what may be registered, and what a mailbox then holds."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path

import pytest

from mailarray.catalog.catalog import Catalog, CatalogClosed
from mailarray.catalog.rows import NotRegistered, Registered
from mailarray.model.ids import PlacementId, new_volume_id
from tests.component.catalog.sidecar import BODY, Sidecar, message, tombstone


async def uids(catalog: Catalog, mailbox: str) -> list[tuple[int, bytes]]:
    return [(entry.uid, entry.message) for entry in await catalog.mailbox(mailbox)]


async def test_uids_follow_the_order_of_the_records(catalog: Catalog) -> None:
    sidecar = Sidecar(catalog)
    await sidecar.join()
    first, second, third = message("a@x"), message("b@x", "a@x", "b@x"), message("a@x")
    await sidecar.register(first, second)
    await sidecar.register(third)
    assert await uids(catalog, "a@x") == [(1, first.id), (2, second.id), (3, third.id)]
    entries = await catalog.mailbox("b@x")
    assert [(e.uid, e.placement) for e in entries] == [(1, PlacementId(second.id, 0)), (2, PlacementId(second.id, 2))]
    (entry, _) = entries
    assert (entry.length, entry.checksum, entry.received_at) == (BODY, 7, second.received_at)
    (location,) = entry.locations
    assert location == (sidecar.segment.id, BODY, BODY, (sidecar.volume, sidecar.mirror))
    assert await catalog.mailbox("nobody@x") == []


async def test_a_run_is_registered_once(catalog: Catalog) -> None:
    sidecar = Sidecar(catalog)
    await sidecar.join()
    run = sidecar.run([message("a@x")])
    assert await sidecar.try_register(run) == Registered(1)
    assert await sidecar.try_register(run) == NotRegistered("cursor", BODY)
    gap = sidecar.run([message("a@x")], start=500)
    assert await sidecar.try_register(gap) == NotRegistered("cursor", BODY)
    sidecar.next_segment()
    assert await sidecar.try_register(sidecar.run([message("a@x")], start=5)) == NotRegistered("cursor", 0)
    assert sidecar.segment.id not in await catalog.segments([sidecar.segment.id])
    assert len(await catalog.mailbox("a@x")) == 1


async def test_a_second_sight_adds_a_location_and_no_placement(catalog: Catalog) -> None:
    one, two = Sidecar(catalog, "mail-0"), Sidecar(catalog, "mail-1")
    await one.join()
    await two.check_in()
    row, new = message("a@x", "b@x"), message("a@x")
    await one.register(row)
    await two.register(new, row, row)
    assert await uids(catalog, "a@x") == [(1, row.id), (2, new.id)]
    locations = (await catalog.mailbox("a@x"))[0].locations
    places = {(place.segment, place.offset) for place in locations}
    assert places == {(one.segment.id, 0), (two.segment.id, BODY), (two.segment.id, 2 * BODY)}
    assert (await catalog.counts()).messages == 2


async def test_the_ground_is_checked(catalog: Catalog) -> None:
    sidecar = Sidecar(catalog)
    await sidecar.join()
    run = sidecar.run([message("a@x")])
    wrong = dataclasses.replace(run, epoch=sidecar.epoch + 1)
    assert await catalog.register(sidecar.volume, wrong) == NotRegistered("epoch", 0)
    assert await catalog.register(new_volume_id(), run) == NotRegistered("epoch", 0)
    other = Sidecar(catalog, "mail-1")
    await other.check_in()
    # Only the writer's sidecar knows what was acknowledged; a mirror must name the sealed length.
    assert await catalog.register(other.volume, run) == NotRegistered("sealed", 0)
    sealed = dataclasses.replace(run, sealed_length=BODY)
    assert await catalog.register(other.volume, sealed) == NotRegistered("sealed", 0)
    assert await catalog.propose_seal(sidecar.segment, 2 * BODY, sidecar.epoch) == 2 * BODY
    assert await catalog.register(other.volume, sealed) == NotRegistered("sealed", 0)
    past = dataclasses.replace(run, end=3 * BODY)
    assert await catalog.register(sidecar.volume, past) == NotRegistered("sealed", 0)
    past = dataclasses.replace(past, sealed_length=2 * BODY)
    assert await catalog.register(other.volume, past) == NotRegistered("sealed", 0)
    assert (await catalog.counts()).messages == 0
    assert await sidecar.try_register(run) == Registered(2)  # the seal counts, too
    sealed = sidecar.run([message("a@x")], sealed_length=2 * BODY)
    assert await catalog.register(other.volume, sealed) == Registered(1)
    (state,) = (await catalog.segments([sidecar.segment.id])).values()
    assert (state.facts, state.sealed_length, state.cursor) == (sidecar.segment, 2 * BODY, 2 * BODY)
    assert state.acknowledged == BODY


async def test_a_superseded_segment_is_refused(tmp_path: Path) -> None:
    from mailarray.catalog.database import open_catalog

    catalog = await open_catalog(f"sqlite:///{tmp_path}/catalog.db")
    sidecar = Sidecar(catalog)
    await sidecar.join()
    await sidecar.register(message("a@x"))
    with sqlite3.connect(tmp_path / "catalog.db") as db:
        db.execute("UPDATE segments SET superseded_by = x'00'")
    assert await sidecar.try_register(sidecar.run([message("a@x")])) == NotRegistered("superseded", BODY)
    await catalog.close()


async def test_tombstones_before_with_and_after(catalog: Catalog) -> None:
    sidecar = Sidecar(catalog)
    await sidecar.join()
    before, within, after, both = message("a@x"), message("a@x"), message("a@x"), message("a@x", "b@x")
    await catalog.expunge([tombstone(before)])
    await catalog.expunge([tombstone(before)])
    await sidecar.register(before, within, after, both, tombstones=[tombstone(within)])
    assert [e.message for e in await catalog.mailbox("a@x")] == [after.id, both.id]
    await catalog.expunge([tombstone(after), tombstone(both, 0)])
    assert await catalog.mailbox("a@x") == []
    assert [e.message for e in await catalog.mailbox("b@x")] == [both.id]
    highest = max(uid for uid, _ in [(0, 0), *await uids(catalog, "a@x")])
    assert highest == 0
    await sidecar.register(fresh := message("a@x"))
    ((uid, kept),) = await uids(catalog, "a@x")
    assert (uid >= 3, kept) == (True, fresh.id)  # never one that a deleted message had
    counts = await catalog.counts()
    assert (counts.messages, counts.placements, counts.tombstones) == (5, 2, 4)


async def test_many_mailboxes_and_many_messages_in_one_run(catalog: Catalog) -> None:
    sidecar = Sidecar(catalog)
    await sidecar.join()
    rows = [message(f"{i % 301}@x", f"{i % 7}@y") for i in range(1000)]
    await sidecar.register(*rows)
    for box in ("0@x", "300@x", "3@y"):
        wanted = [row.id for row in rows if any(mailbox == box for mailbox, _ in row.deliveries)]
        assert await uids(catalog, box) == list(enumerate(wanted, 1))
    await sidecar.register(*rows)
    assert (await catalog.counts()).placements == 2000
    assert all(len(e.locations) == 2 for e in await catalog.mailbox("3@y"))
    await catalog.expunge([tombstone(row, 1) for row in rows])
    assert await catalog.mailbox("3@y") == []


async def test_closed_until_the_volumes_caught_up(catalog: Catalog) -> None:
    with pytest.raises(CatalogClosed):
        await catalog.mailbox("a@x")
    await Sidecar(catalog).join()
    assert await catalog.mailbox("a@x") == []
