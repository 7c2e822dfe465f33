"""Which mail is lost: what all holders of all its locations are marked lost for, and nothing else."""

from __future__ import annotations

from mailarray.catalog.catalog import Catalog
from mailarray.catalog.rows import MessageRow
from tests.component.catalog.sidecar import BODY, Sidecar, message


async def missing(catalog: Catalog) -> set[tuple[str, bytes]]:
    found = await catalog.missing()
    assert found.catalog_open
    return {(entry.mailbox, entry.message) for entry in found.messages}


async def test_exactly_what_nobody_holds_is_named(catalog: Catalog) -> None:
    one, two, three = (Sidecar(catalog, f"mail-{i}") for i in range(3))
    one.mirror, two.mirror = two.volume, three.volume
    one.next_segment()
    two.next_segment()
    for sidecar in (one, two, three):
        await sidecar.join()
    both, here, elsewhere = message("a@x", "b@x"), message("a@x"), message("c@x")
    await one.register(both, here)
    await two.register(elsewhere)
    assert await missing(catalog) == set()
    await catalog.mark_lost(one.volume)
    assert await missing(catalog) == set()  # the mirror has it
    await catalog.mark_lost(two.volume)
    assert await missing(catalog) == {("a@x", both.id), ("b@x", both.id), ("a@x", here.id)}
    (first, *_) = (await catalog.missing()).messages
    assert (first.mailbox, first.uid, first.size, first.sender) == ("a@x", 1, BODY, "sender@far.example")


async def test_a_further_location_and_a_repaired_copy_are_copies(catalog: Catalog) -> None:
    one, two, three = (Sidecar(catalog, f"mail-{i}") for i in range(3))
    one.mirror, three.mirror = two.volume, three.volume
    for sidecar in (one, three):
        sidecar.next_segment()
    for sidecar in (one, two, three):
        await sidecar.join()
    twice, once = message("a@x"), message("b@x")
    await one.register(twice, once)
    again = MessageRow(twice.id, twice.received_at, twice.sender, twice.deliveries, 0, twice.length, twice.checksum)
    await three.register(again)
    for sidecar in (one, two):
        await catalog.mark_lost(sidecar.volume)
    assert await missing(catalog) == {("b@x", once.id)}


async def test_a_repaired_copy_is_one(catalog: Catalog) -> None:
    one, two, three = (Sidecar(catalog, f"mail-{i}") for i in range(3))
    one.mirror = two.volume
    one.next_segment()
    for sidecar in (one, two, three):
        await sidecar.join()
    await one.register(message("a@x"))
    await catalog.propose_seal(one.segment, BODY, one.epoch)
    await catalog.add_replica(one.segment.id, three.volume, BODY)
    for sidecar in (one, two):
        await catalog.mark_lost(sidecar.volume)
    assert await missing(catalog) == set()
    await catalog.mark_retired(three.volume)
    assert await missing(catalog) == set()  # drained, and not gone
    await catalog.mark_lost(three.volume)
    assert len(await missing(catalog)) == 1
