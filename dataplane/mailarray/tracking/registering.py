"""Registering what the journal holds: from batches to catalog rows.

Invariants (rules 17, 18, 21):

- Registered is only what is acknowledged (own segment being written) or at most L (sealed segment).
- A run is whole batches, from the catalog's own cursor on; rows and cursor move in one transaction, which refuses
  the run when its ground is no longer the catalog's state.
- The catalog being away stops nothing but this: the cursor is asked for again when it is back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from mailarray.catalog.rows import MessageRow, NotRegistered, Registration, SegmentFacts, TombstoneRow
from mailarray.journal.format import FormatError, MessageEntry, TombstonesEntry
from mailarray.journal.scan import find_batch, read_batch
from mailarray.model.ids import SegmentId, VolumeId
from mailarray.tracking import metrics
from mailarray.tracking.catalog_link import CatalogLink
from mailarray.tracking.memory import CatalogMemory

log = logging.getLogger(__name__)

MAX_RECORDS = 500  # records in one transaction: milliseconds of a lock, yet 100 times cheaper than one by one


class DamagedRun(Exception):
    """Bytes [start, end) of a segment cannot be read here: they have to be mended from another member (rule 11)."""

    def __init__(self, start: int, end: int, reason: str) -> None:
        super().__init__(reason)
        self.start = start
        self.end = end


@dataclass(slots=True)
class Run:
    """A run of whole batches, decoded."""

    start: int
    end: int
    messages: list[MessageRow]
    tombstones: list[TombstoneRow]


def read_run(fd: int, segment: SegmentId, first_batch: int, start: int, limit: int, records: int = MAX_RECORDS) -> Run:
    """Decode batches of a segment from the cursor `start`, up to about `records` records, or up to damage. Blocking.

    Raises DamagedRun when the very first batch cannot be read.
    """
    run = Run(start, start, [], [])
    position = start or first_batch
    while position < limit and len(run.messages) + len(run.tombstones) < records:
        try:
            batch = read_batch(fd, segment, position, limit)
        except FormatError as error:
            if run.end > start:
                break
            raise DamagedRun(position, find_batch(fd, segment, position + 1, limit) or limit, str(error)) from error
        bodies = batch.header.bodies_offset
        for entry in batch.entries:
            if isinstance(entry, MessageEntry):
                id, received_at, sender, deliveries, body_offset, length, checksum, fingerprint = entry
                run.messages.append(
                    MessageRow(id, received_at, sender, deliveries, bodies + body_offset, length, checksum, fingerprint)
                )
            elif isinstance(entry, TombstonesEntry):
                run.tombstones.extend(TombstoneRow(*tombstone) for tombstone in entry.tombstones)
        position = run.end = batch.header.end
    return run


class Registrar:
    """Registers runs for one volume and keeps its counter."""

    def __init__(
        self, link: CatalogLink, volume: VolumeId, memory: CatalogMemory, duplicate_window: float = 0.0
    ) -> None:
        """`duplicate_window`: seconds within which a second delivery is a copy; 0: none is looked for."""
        self._window = int(duplicate_window * 1e6)
        self.duplicates_found: Callable[[], None] = lambda: None
        self._link = link
        self._volume = volume
        self._memory = memory

    async def register(self, facts: SegmentFacts, run: Run, sealed_length: int | None) -> NotRegistered | None:
        """One transaction; None when it is done. Raises CatalogUnavailable."""
        started = time.monotonic()
        result = await self._link.catalog.register(
            self._volume,
            Registration(
                facts,
                self._memory.epoch,
                run.start,
                run.end,
                sealed_length,
                run.messages,
                run.tombstones,
                self._window,
                time.time_ns() // 1000 - self._window,
            ),
        )
        if isinstance(result, NotRegistered):
            return result
        metrics.REGISTER_SECONDS.observe(time.monotonic() - started)
        metrics.REGISTERED_MESSAGES.inc(len(run.messages))
        metrics.REGISTERED_TOMBSTONES.inc(len(run.tombstones))
        self._memory.counter = max(self._memory.counter, result.counter)
        if result.duplicates:
            self.duplicates_found()
        return None
