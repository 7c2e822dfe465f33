"""A pretended sidecar: it makes records and registers them, as the tests say."""

from __future__ import annotations

from collections.abc import Sequence

from mailarray.catalog.catalog import Catalog
from mailarray.catalog.rows import MessageRow, NotRegistered, Registered, Registration, SegmentFacts, TombstoneRow
from mailarray.model.ids import (
    PlacementId,
    VolumeId,
    new_incarnation_id,
    new_message_id,
    new_segment_id,
    new_volume_id,
)

BODY = 100


def message(*mailboxes: str, offset: int = 0) -> MessageRow:
    deliveries = [(mailbox, mailbox.upper()) for mailbox in mailboxes]
    return MessageRow(new_message_id(), 1_700_000_000_000_000, "sender@far.example", deliveries, offset, BODY, 7)


def tombstone(row: MessageRow, index: int = 0) -> TombstoneRow:
    return TombstoneRow(PlacementId(row.id, index), row.id, row.deliveries[index][0])


def facts(*members: VolumeId, copies: int = 2) -> SegmentFacts:
    return SegmentFacts(new_segment_id(), members[0], new_incarnation_id(), 0, members, copies)


class Sidecar:
    """One volume with its open segment; `at` is the end of what it has registered."""

    def __init__(self, catalog: Catalog, name: str = "mail-0", mirror: VolumeId | None = None) -> None:
        self.catalog, self.name = catalog, name
        self.volume = new_volume_id()
        self.mirror = mirror or new_volume_id()
        self.epoch = 0
        self.counter = 0
        self.next_segment()

    def next_segment(self) -> None:
        self.segment = facts(self.volume, self.mirror)
        self.at = 0

    async def check_in(self) -> None:
        answer = await self.catalog.check_in(self.volume, self.name, self.epoch, self.counter)
        self.epoch, self.counter = answer.epoch, answer.counter

    async def join(self) -> None:
        """Check in, and open the catalog with this one volume."""
        await self.check_in()
        assert await self.catalog.caught_up(self.volume, self.epoch, [self.volume], 1)

    def run(
        self,
        messages: Sequence[MessageRow],
        tombstones: Sequence[TombstoneRow] = (),
        sealed_length: int | None = None,
        start: int | None = None,
    ) -> Registration:
        """The next run of the segment: each message takes BODY bytes."""
        begin = self.at if start is None else start
        rows = [row._replace(offset=begin + i * BODY) for i, row in enumerate(messages)]
        end = begin + max(1, len(rows)) * BODY
        return Registration(self.segment, self.epoch, begin, end, sealed_length, rows, tombstones)

    async def try_register(self, run: Registration) -> Registered | NotRegistered:
        answer = await self.catalog.register(self.volume, run)
        if isinstance(answer, Registered):
            assert answer.counter > self.counter  # seals and copies that were told count, too
            self.counter = answer.counter
            self.at = run.end
        return answer

    async def register(self, *messages: MessageRow, tombstones: Sequence[TombstoneRow] = ()) -> None:
        answer = await self.try_register(self.run(messages, tombstones))
        assert isinstance(answer, Registered), answer
