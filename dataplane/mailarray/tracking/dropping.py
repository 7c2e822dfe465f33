"""Giving up the bytes of superseded segments on this volume: members, repaired copies, and what a stale server brings.

Invariants (rules 16, 20, 23):

- Dropped is only what the open catalog says is superseded, and only after the segment that stands for it now was found
  on `copies` volumes and all its members, each asked directly just before.
- Its locations leave the catalog first, so that no reader is sent to what is gone. A message that would have no place
  left, and is not named by tombstones, stops it all, with an alarm.
- `dropped` is durable in the fence file, which stays, before the bytes go; so nothing brings the segment back.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Iterator

from mailarray.catalog.rows import SegmentState, VolumeRow
from mailarray.journal.carried import UnknownRecord, carried
from mailarray.journal.format import KIND_MESSAGE, FormatError
from mailarray.journal.scan import read_frames
from mailarray.model.ids import MessageId, SegmentId
from mailarray.tracking import metrics
from mailarray.tracking.catalog_link import CatalogLink
from mailarray.tracking.local_index import LocalIndex
from mailarray.tracking.pace import look_again_and_again
from mailarray.tracking.proof import Prover
from mailarray.tracking.shelf import Holding, Shelf

log = logging.getLogger(__name__)

INTERVAL = 3.0  # seconds between two looks
WHOLE = 300.0  # seconds between two looks at everything that was ever superseded: a copy may have come late
LOCATIONS_AT_ONCE = 500  # messages in one transaction: milliseconds of a lock


class Dropper:
    """See the module."""

    def __init__(self, shelf: Shelf, link: CatalogLink, prover: Prover, index: LocalIndex) -> None:
        self._shelf = shelf
        self._link = link
        self._prover = prover
        self._index = index
        self.pending: set[SegmentId] = set()  # superseded, and here
        self._seen = 0  # of what the catalog says is superseded
        self._epoch = -1
        self._whole_at = float("-inf")
        self._complaints: dict[SegmentId, str] = {}  # of segments that must stay for now: logged last
        self.reclaimed = 0  # bytes, since this process began
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""

        def failed(error: Exception) -> None:
            log.error("superseded segments not dropped", extra={"reason": str(error)})

        await look_again_and_again(self.look, self._link, self.wake, INTERVAL, failed)

    async def look(self) -> None:
        """Drop what may go. Raises CatalogUnavailable, OSError."""
        state = self._link.state
        if state is None or not state.open:
            return
        catalog, now = self._link.catalog, time.monotonic()
        if state.epoch != self._epoch or now - self._whole_at >= WHOLE:
            self._seen, self._epoch, self._whole_at = 0, state.epoch, now
        news = await catalog.superseded_since(self._seen)
        if news:
            self._seen = news[-1].number
        self.pending |= {row.segment for row in news}
        self.pending.intersection_update(self._shelf.holdings)
        if not self.pending:
            return
        heads = await catalog.stands_for(sorted(self.pending))
        rows = await catalog.segments([*heads, *set(heads.values())])
        volumes = await catalog.volumes()
        missing: dict[SegmentId, str | None] = {}
        for segment, head in heads.items():
            if head not in missing:
                missing[head] = await self._missing(rows.get(head), volumes)
            reason = missing[head]
            holding = self._shelf.holdings.get(segment)
            if reason is not None:
                self._complain(segment, head, reason)
            elif holding is not None and holding.member is not None:
                await self._give_up(holding, rows.get(segment), head)

    def _complain(self, segment: SegmentId, head: SegmentId, reason: str) -> None:
        self._complaints = {id: said for id, said in self._complaints.items() if id in self.pending}
        if self._complaints.get(segment) != reason:
            extra = {"segment": segment.hex(), "stands_for_it": head.hex(), "reason": reason}
            log.info("superseded segment stays", extra=extra)
        self._complaints[segment] = reason

    async def _missing(self, head: SegmentState | None, volumes: list[VolumeRow]) -> str | None:
        return "the catalog has no row of it" if head is None else await self._prover.missing(head, volumes)

    async def _give_up(self, holding: Holding, row: SegmentState | None, head: SegmentId) -> None:
        if row is not None and row.cursor and not await self._forget_locations(holding):
            return
        size = await self._shelf.drop(holding)
        await self._index.forget(holding)  # from here on nobody reads from its descriptors
        holding.close()
        self.pending.discard(holding.segment)
        self.reclaimed += size
        metrics.RECLAIMED_BYTES.inc(size)
        metrics.DROPPED.inc()
        log.info(
            "superseded segment dropped",
            extra={"segment": holding.segment.hex(), "stands_for_it": head.hex(), "length": size},
        )

    async def _forget_locations(self, holding: Holding) -> bool:
        """In the catalog. A replica that is not whole leaves that to the others; readers step over what is left."""
        member, header = holding.member, holding.header
        if member is None or header is None or member.damages or member.length < (holding.sealed_length or 0):
            return True
        frames = _records(holding.fd(self._shelf.volume), holding, header.length)
        while True:
            try:
                piece = await self._shelf.run(lambda: list(itertools.islice(frames, LOCATIONS_AT_ONCE)))
            except (FormatError, UnknownRecord) as error:
                log.error("segment damaged", extra={"segment": holding.segment.hex(), "reason": str(error)})
                return True
            if not piece:
                break
            kept = await self._link.catalog.forget_locations(holding.segment, piece)
            if kept:
                log.critical(
                    "superseded segment holds the only copy of mail that was not deleted",
                    extra={"segment": holding.segment.hex(), "messages": len(kept), "first": kept[0].hex()},
                )
                return False
        await self._link.catalog.forgotten(holding.segment)
        return True


def _records(fd: int, holding: Holding, first_batch: int) -> Iterator[tuple[MessageId, int]]:
    """The messages of a segment, each with its count of placements. Raises FormatError."""
    for header, metadata in read_frames(fd, holding.segment, first_batch, holding.readable):
        for record in carried(metadata, header):
            if record.kind == KIND_MESSAGE:
                yield MessageId(record.id), record.placements
