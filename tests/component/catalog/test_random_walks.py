"""Random walks of several sidecars against a dumb oracle: the journals as lists, the catalog as dictionaries."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field

import pytest

from mailarray.catalog.catalog import Catalog
from mailarray.catalog.rows import MessageRow, NotRegistered, Registered, Registration, TombstoneRow
from mailarray.model.ids import SegmentId, VolumeId
from tests.component.catalog.sidecar import BODY, Sidecar, facts, message, tombstone

STEPS = 70
MAILBOXES = [f"{name}@x" for name in "abcdef"]


@dataclass
class Segment:
    """What the oracle knows of a segment: a list of places, each with at most one message."""

    writer: VolumeId
    places: list[MessageRow | None] = field(default_factory=list)
    cursor: int = 0
    acknowledged: int = 0
    sealed: int | None = None


@dataclass
class Oracle:
    """What the catalog must hold."""

    locations: dict[bytes, set[tuple[bytes, int]]] = field(default_factory=dict)
    mailboxes: dict[str, list[tuple[int, bytes, int]]] = field(default_factory=dict)  # (uid, record, index)
    taken: dict[str, int] = field(default_factory=dict)  # highest UID ever
    dead: set[tuple[bytes, int]] = field(default_factory=set)

    def register(self, segment: bytes, offset: int, row: MessageRow) -> list[tuple[str, bytes, int]]:
        """Answers the placements to be made, in order; their UIDs are the catalog's to choose."""
        new = row.id not in self.locations
        self.locations.setdefault(row.id, set()).add((segment, offset))
        if not new:
            return []
        every = [(mailbox, row.id, index) for index, (mailbox, _) in enumerate(row.deliveries)]
        return [placement for placement in every if placement[1:] not in self.dead]

    def bury(self, stone: TombstoneRow) -> None:
        key = (stone.placement.record, stone.placement.index)
        self.dead.add(key)
        box = self.mailboxes.get(stone.mailbox, [])
        self.mailboxes[stone.mailbox] = [p for p in box if p[1:] != key]

    def lower(self, segment: bytes, length: int) -> None:
        for message_id, places in list(self.locations.items()):
            places -= {(name, offset) for name, offset in places if name == segment and offset >= length}
            if not places:
                del self.locations[message_id]
                for mailbox, box in self.mailboxes.items():
                    self.mailboxes[mailbox] = [p for p in box if p[1] != message_id]


class Walk:
    def __init__(self, catalog: Catalog, rng: random.Random) -> None:
        self.catalog, self.rng, self.oracle = catalog, rng, Oracle()
        self.sidecars = [Sidecar(catalog, f"mail-{i}") for i in range(3)]
        self.segments: dict[SegmentId, Segment] = {}
        self.messages: list[MessageRow] = [message("a@x")]

    async def begin(self) -> None:
        for sidecar in self.sidecars:
            await sidecar.check_in()
            self.segments[sidecar.segment.id] = Segment(sidecar.volume)
        await self.open()

    async def open(self) -> None:
        for sidecar in self.sidecars:
            assert (await self.catalog.caught_up(sidecar.volume, sidecar.epoch, [], 9)) is True

    def some_message(self) -> MessageRow:
        if self.rng.random() < 0.25:
            return self.rng.choice(self.messages)
        boxes = self.rng.choices(MAILBOXES, k=self.rng.randint(1, 4))
        self.messages.append(message(*boxes))
        return self.messages[-1]

    def some_tombstone(self) -> TombstoneRow:
        row = self.rng.choice(self.messages)
        return tombstone(row, self.rng.randrange(len(row.deliveries)))

    async def register(self) -> None:
        rng, sidecar = self.rng, self.rng.choice(self.sidecars)
        segment = self.segments[sidecar.segment.id]
        start = segment.cursor if rng.random() < 0.8 else rng.choice([0, segment.cursor + BODY])
        sealed = rng.choice([None, None, segment.sealed, segment.cursor + 2 * BODY])
        rows = [self.some_message()._replace(offset=start + i * BODY) for i in range(rng.randint(0, 5))]
        stones = [self.some_tombstone() for _ in range(rng.choice([0, 0, 0, 1, 2]))]
        end = start + max(1, len(rows)) * BODY
        run = Registration(sidecar.segment, sidecar.epoch, start, end, sealed, rows, stones)
        answer = await self.catalog.register(sidecar.volume, run)
        if sealed is None:
            fits = segment.sealed is None or end <= segment.sealed
        else:
            fits = sealed == segment.sealed and end <= sealed
        if not fits:
            assert answer == NotRegistered("sealed", segment.cursor)
        elif start != segment.cursor:
            assert answer == NotRegistered("cursor", segment.cursor)
        else:
            assert isinstance(answer, Registered)
            assert answer.counter > sidecar.counter  # seals and copies that were told count, too
            sidecar.counter = answer.counter
            segment.cursor = end
            if sealed is None:
                segment.acknowledged = end
            for stone in stones:
                self.oracle.bury(stone)
            await self.take_uids([p for row in rows for p in self.oracle.register(sidecar.segment.id, row.offset, row)])

    async def take_uids(self, placements: list[tuple[str, bytes, int]]) -> None:
        """The new ones must stand at the end of their mailboxes, in order, with UIDs never seen before."""
        for mailbox in {placement[0] for placement in placements}:
            new = [p[1:] for p in placements if p[0] == mailbox]
            entries = (await self.catalog.mailbox(mailbox))[-len(new) :]
            assert [(e.placement.record, e.placement.index) for e in entries] == new
            for entry in entries:
                assert entry.uid > self.oracle.taken.get(mailbox, 0)
                self.oracle.taken[mailbox] = entry.uid
                box = self.oracle.mailboxes.setdefault(mailbox, [])
                box.append((entry.uid, entry.placement.record, entry.placement.index))

    async def expunge(self) -> None:
        stones = [self.some_tombstone() for _ in range(self.rng.randint(1, 3))]
        await self.catalog.expunge(stones)
        for stone in stones:
            self.oracle.bury(stone)

    async def seal(self) -> None:
        sidecar = self.rng.choice(self.sidecars)
        segment = self.segments[sidecar.segment.id]
        length = segment.cursor + self.rng.randint(0, 3) * BODY
        answer = await self.catalog.propose_seal(sidecar.segment, length, sidecar.epoch)
        segment.sealed = length if segment.sealed is None else segment.sealed
        assert answer == segment.sealed

    async def next_segment(self) -> None:
        sidecar = self.rng.choice(self.sidecars)
        sidecar.segment = facts(sidecar.volume, sidecar.mirror)
        self.segments[sidecar.segment.id] = Segment(sidecar.volume)

    async def lower(self) -> None:
        name, segment = self.rng.choice(list(self.segments.items()))
        if segment.sealed is None:
            assert not await self.catalog.lower_seal(name, 10 * BODY, 0, ())
            return
        length = self.rng.randint(0, segment.sealed // BODY) * BODY
        assert not await self.catalog.lower_seal(name, segment.sealed + 1, length, ())
        assert await self.catalog.lower_seal(name, segment.sealed, length, ())
        segment.sealed, segment.cursor = length, min(segment.cursor, length)
        self.oracle.lower(name, length)

    async def reset(self) -> None:
        epoch = await self.catalog.reset()
        self.oracle = Oracle()
        self.segments = {}
        for sidecar in self.sidecars:
            await sidecar.check_in()
            assert sidecar.epoch == epoch
            self.segments[sidecar.segment.id] = Segment(sidecar.volume)
        await self.open()

    async def compare(self) -> None:
        for mailbox in MAILBOXES:
            entries = await self.catalog.mailbox(mailbox)
            found = [(e.uid, e.placement.record, e.placement.index) for e in entries]
            assert found == self.oracle.mailboxes.get(mailbox, [])
            for entry in entries:
                places = {(place.segment, place.offset) for place in entry.locations}
                assert places == self.oracle.locations[entry.message]
        used = await self.catalog.used(MAILBOXES)
        held = {mailbox: BODY * len(self.oracle.mailboxes.get(mailbox, [])) for mailbox in MAILBOXES}
        assert {mailbox: used.get(mailbox, 0) for mailbox in MAILBOXES} == held
        assert {mailbox: await self.catalog.count_used(mailbox) for mailbox in MAILBOXES} == held
        counts = await self.catalog.counts()
        assert counts.messages == len(self.oracle.locations)
        assert counts.placements == sum(map(len, self.oracle.mailboxes.values()))
        assert counts.tombstones == len(self.oracle.dead)
        states = await self.catalog.segments(list(self.segments))
        for name, state in states.items():
            segment = self.segments[name]
            assert (state.sealed_length, state.cursor) == (segment.sealed, segment.cursor)


@pytest.mark.parametrize("walk", range(3))
async def test_random_walks(catalog: Catalog, walk: int) -> None:
    seed = int(os.environ.get("MAILARRAY_SEED", random.randrange(2**32)))
    print(f"MAILARRAY_SEED={seed}")
    walker = Walk(catalog, random.Random(seed))
    await walker.begin()
    steps = [walker.register] * 12 + [walker.expunge] * 3 + [walker.seal] * 2 + [walker.next_segment, walker.lower]
    for step in range(STEPS):
        await walker.rng.choice(steps)()
        if step == STEPS // 2 and walk == 0:
            await walker.reset()
        if step % 10 == 0:
            await walker.compare()
    await walker.compare()
