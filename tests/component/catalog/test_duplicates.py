"""Second deliveries: what registration finds, and that never all copies of a message are dropped."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random

import pytest

from mailarray.catalog.catalog import Catalog
from mailarray.catalog.duplicates import Seen, buckets, pairs
from mailarray.catalog.rows import MessageRow, Registered
from mailarray.model.ids import MessageId, PlacementId
from mailarray.tracking.deduplicating import hopeless
from tests.component.catalog.sidecar import BODY, Sidecar, message, tombstone

WINDOW = 3_600_000_000
FINGERPRINT = (50).to_bytes(8, "big") + b"f" * 16


_ids = itertools.count(1)


def delivered(*mailboxes: str, fingerprint: bytes = FINGERPRINT, after: float = 0.0) -> MessageRow:
    """With a higher id than those before."""
    row = message(*mailboxes)
    later = row.received_at + int(after * WINDOW)
    return row._replace(id=MessageId(next(_ids).to_bytes(16, "big")), fingerprint=fingerprint, received_at=later)


async def register(sidecar: Sidecar, *rows: MessageRow, window: int = WINDOW, since: int = 0) -> int:
    run = dataclasses.replace(sidecar.run(rows), duplicate_window=window, duplicates_since=since)
    answer = await sidecar.try_register(run)
    assert isinstance(answer, Registered)
    return answer.duplicates


async def test_a_second_delivery_is_owed_by_who_registered_it(catalog: Catalog) -> None:
    one, two = Sidecar(catalog, "mail-0"), Sidecar(catalog, "mail-1")
    await one.join()
    await two.check_in()
    first, second = delivered("a@x", "b@x"), delivered("a@x", after=0.9)
    assert await register(one, first) == 0
    assert await register(two, second, delivered("c@x")) == 1
    assert await catalog.owed_duplicates(one.volume, 10) == []
    (owed,) = await catalog.owed_duplicates(two.volume, 10)
    assert (owed.mailbox, owed.text_length, owed.kept_expunged) == ("a@x", 50, False)
    assert (owed.dropped.message, owed.kept.message) == (second.id, first.id)
    assert owed.dropped.alive and owed.kept.alive and hopeless(owed) is None
    (place,) = owed.kept.locations
    assert (place.segment, place.offset, place.length) == (one.segment.id, 0, BODY)
    assert len(await catalog.mailbox("a@x")) == 2  # nothing is dropped by registering
    await catalog.settle_duplicate(owed.dropped.placement)
    assert await catalog.owed_duplicates(two.volume, 10) == []


@pytest.mark.parametrize(
    "other",
    [
        delivered("a@x", after=1.1),
        delivered("a@x", fingerprint=FINGERPRINT[:-1] + b"g"),
        delivered("b@x"),
        delivered("a@x", fingerprint=b""),
        delivered("a@x")._replace(sender="another@far.example"),
        delivered("a@x")._replace(deliveries=[("a@x", "alias@x")]),
    ],
    ids=["too late", "another text", "another mailbox", "no Message-ID", "another sender", "another recipient"],
)
async def test_what_is_no_second_delivery(catalog: Catalog, other: MessageRow) -> None:
    sidecar = Sidecar(catalog)
    await sidecar.join()
    first = delivered("a@x", fingerprint=b"" if not other.fingerprint else FINGERPRINT)
    assert await register(sidecar, first) == 0
    assert await register(sidecar, other._replace(id=delivered().id)) == 0


async def test_nothing_is_looked_for_when_it_is_off_or_while_the_catalog_is_told_anew(catalog: Catalog) -> None:
    sidecar = Sidecar(catalog)
    await sidecar.join()
    assert await register(sidecar, delivered("a@x"), delivered("a@x"), window=0) == 0
    await catalog.reset()
    await sidecar.check_in()
    sidecar.next_segment()
    since = delivered("a@x").received_at + 1
    assert await register(sidecar, delivered("a@x"), delivered("a@x"), since=since) == 0
    assert await register(sidecar, delivered("b@x"), delivered("b@x"), since=since - 1) == 1  # of the last window
    assert await catalog.caught_up(sidecar.volume, sidecar.epoch, [sidecar.volume], 2)
    assert await register(sidecar, delivered("a@x"), delivered("a@x")) == 1  # in one run, too


@pytest.mark.parametrize("gone", ["lost", "retired"])
async def test_what_a_volume_owed_that_is_gone_is_owed_by_all_others(catalog: Catalog, gone: str) -> None:
    one, two = Sidecar(catalog, "mail-0"), Sidecar(catalog, "mail-1")
    await one.join()
    await two.check_in()
    for number in range(3):
        fingerprint = FINGERPRINT[:-1] + bytes([number])
        await register(one, delivered("a@x", fingerprint=fingerprint), delivered("a@x", fingerprint=fingerprint))
    assert await catalog.owed_duplicates(two.volume, 10) == []
    if gone == "lost":
        await catalog.mark_lost(one.volume)
    else:
        await catalog.mark_retired(one.volume)
    everything = await catalog.owed_duplicates(two.volume, 10)
    assert len(everything) == 3
    middle, last = everything[1].dropped.placement, everything[2].dropped.placement
    assert await catalog.owed_duplicates(two.volume, 1, middle) == everything[1:2]
    assert await catalog.owed_duplicates(two.volume, 2, PlacementId(last.record, last.index + 1)) == []


async def test_the_lower_id_stays_whichever_is_registered_first(catalog: Catalog) -> None:
    sidecar = Sidecar(catalog)
    await sidecar.join()
    low, high = delivered("a@x"), delivered("a@x")
    assert await register(sidecar, high) == 0
    assert await register(sidecar, low) == 1
    (owed,) = await catalog.owed_duplicates(sidecar.volume, 10)
    assert (owed.dropped.message, owed.kept.message) == (high.id, low.id)


async def test_of_three_the_lowest_stays_also_when_it_is_registered_last(catalog: Catalog) -> None:
    sidecar = Sidecar(catalog)
    await sidecar.join()
    lowest, middle, highest = (delivered("a@x") for _ in range(3))
    for row in (middle, highest, lowest):
        await register(sidecar, row)
    first, second = await catalog.owed_duplicates(sidecar.volume, 10)
    assert (first.dropped.message, first.kept.message) == (middle.id, lowest.id)
    assert (second.dropped.message, second.kept.message) == (highest.id, middle.id)
    await catalog.expunge([tombstone(middle)])
    await catalog.settle_duplicate(first.dropped.placement, first.kept.placement)
    (owed,) = await catalog.owed_duplicates(sidecar.volume, 10)
    assert (owed.dropped.message, owed.kept.message) == (highest.id, lowest.id)
    assert hopeless(owed) is None


async def test_one_that_is_deleted_afterwards_takes_no_other_with_it(catalog: Catalog) -> None:
    sidecar = Sidecar(catalog)
    await sidecar.join()
    before, first, second = (delivered("a@x") for _ in range(3))
    await register(sidecar, before)
    await catalog.expunge([tombstone(before)])
    assert await register(sidecar, first) == 1
    (owed,) = await catalog.owed_duplicates(sidecar.volume, 10)
    assert owed.kept_expunged and hopeless(owed) is None  # it had been read and deleted before the copy came
    await catalog.settle_duplicate(owed.dropped.placement)

    low, high = (delivered("b@x", fingerprint=FINGERPRINT[:-1] + b"g") for _ in range(2))
    assert await register(sidecar, low, high) == 1
    await catalog.expunge([tombstone(low)])  # somebody saw both, and deleted one
    (owed,) = await catalog.owed_duplicates(sidecar.volume, 10)
    assert hopeless(owed) == "the other one is gone"
    await catalog.expunge([tombstone(high), tombstone(second)])
    (owed,) = await catalog.owed_duplicates(sidecar.volume, 10)
    assert hopeless(owed) == "it is gone already"


async def test_old_fingerprints_are_forgotten(catalog: Catalog) -> None:
    sidecar = Sidecar(catalog)
    await sidecar.join()
    first = delivered("a@x")
    await register(sidecar, first)
    await catalog.forget_fingerprints(first.received_at, WINDOW)
    assert await register(sidecar, delivered("a@x", after=0.2)) == 1
    await catalog.forget_fingerprints(first.received_at + 3 * WINDOW, WINDOW)
    assert await register(sidecar, delivered("a@x", after=0.3)) == 0


def test_never_all_copies_are_dropped_whatever_order_they_are_registered_in() -> None:
    """Several catalogs that know nothing of each other, each with its own order and its own gaps in what it saw: all
    that any of them finds is dropped, and one copy is always left."""
    seed = int(os.environ.get("MAILARRAY_SEED", random.randrange(1 << 32)))
    print(f"MAILARRAY_SEED={seed}")
    dice = random.Random(seed)
    for _ in range(2000):
        window = 100
        copies = []
        for number in range(dice.randint(2, 6)):
            at = dice.randint(0, 150)
            copies.append(Seen(at // window, 1, b"h", bytes([number]), 0, at, 9))
        dropped = set()
        for _ in range(dice.randint(1, 3)):
            table: dict[tuple[int, int, bytes], Seen] = {}
            rest = copies[:]
            dice.shuffle(rest)
            while rest:
                run, rest = rest[: (size := dice.randint(1, 3))], rest[size:]
                if dice.random() < 0.2:
                    continue  # registered while nothing was looked for
                known = [table[key] for one in run for b in buckets(one.bucket) if (key := (b, 1, b"h")) in table]
                changed, found = pairs(run, known, window)
                table.update({(c.bucket, c.mailbox, c.hash): c for c in changed})
                for pair in found:
                    assert pair.kept < pair.dropped
                    dropped.add(pair.dropped)
        assert len(dropped) < len(copies)
        assert (bytes([0]), 0) not in dropped
