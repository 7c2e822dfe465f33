"""From when on a compacted segment stands for its inputs: it is proved, noted here, and told to the catalog (rule 23).

Invariants:

- It counts only when it is sealed up to its closing record, every member neither lost nor retired holds it durably to
  there, and `copies` volumes do, each asked directly. Until then the inputs stay, and so does every location in them.
- Once it counts, it counts for every holder: one that fetches it later notes it as soon as the open catalog says so,
  whoever else may be away. Else those who noted it might be lost, and nobody could tell a restored catalog.
- That it counts is durable here before the catalog hears it, and so before any input goes. It is true for ever: a
  catalog that is restored or made anew is told again, by whoever noted it, before it opens (rule 19).

Every holder of a compacted segment does this by itself; it is the same for all. Nothing is removed here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mailarray.catalog.catalog import CatalogUnavailable, EpochPassed
from mailarray.catalog.rows import SegmentFacts
from mailarray.tracking.catalog_link import CatalogLink
from mailarray.tracking.pace import look_again_and_again
from mailarray.tracking.proof import Prover
from mailarray.tracking.shelf import Holding, Shelf

log = logging.getLogger(__name__)

INTERVAL = 3.0  # seconds between two looks; a copy elsewhere takes some


class Superseder:
    """See the module."""

    def __init__(self, shelf: Shelf, link: CatalogLink, prover: Prover) -> None:
        self._shelf = shelf
        self._link = link
        self._prover = prover
        self._complaints: dict[bytes, str] = {}  # of segments that do not count yet: logged last
        self.counted: Callable[[], None] = lambda: None  # called after each that counts, so that the catalog is told
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""

        def failed(error: Exception) -> None:
            log.error("compacted segments not looked at", extra={"reason": str(error)})

        await look_again_and_again(self.look, self._link, self.wake, INTERVAL, failed)

    def pending(self) -> list[Holding]:
        """Compacted segments here that do not count yet, or of which the catalog may not have heard that they do."""
        epoch = -1 if self._link.state is None else self._link.state.epoch
        outputs = [h for h in self._shelf if h.supersedes and h.member is not None]
        return [h for h in outputs if h.settled_epoch != epoch or not _counts(h)]

    async def look(self) -> None:
        """Prove what can be proved. Raises CatalogUnavailable, OSError."""
        state = self._link.state
        if state is None or not state.open:
            return
        pending = {h.segment: h for h in self.pending() if h.settled_epoch == state.epoch and not _counts(h)}
        self._complaints = {segment: self._complaints.get(segment, "") for segment in pending}
        if not pending:
            return
        catalog = self._link.catalog
        volumes = await catalog.volumes()
        rows = await catalog.segments(list(pending))
        heads = await catalog.stands_for([input for holding in pending.values() for input in holding.supersedes or ()])
        for segment, row in rows.items():
            holding = pending[segment]
            if row.superseded or row.sealed_length != holding.readable:
                continue  # no longer of interest, or another L than the closing record's
            inputs = holding.supersedes or ()
            told = all(heads.get(input) == segment for input in inputs)
            missing = None if told else await self._prover.missing(row, volumes)
            if missing is not None:
                self._complain(segment, missing)
                continue
            member = holding.member
            assert member is not None
            async with holding.turn:
                await self._shelf.run(member.note_counts)
            holding.settled_epoch = -1  # settling tells it
            self.counted()
            log.info("compacted segment counts", extra={"segment": segment.hex(), "supersedes": len(inputs)})

    async def tell(self, holding: Holding, facts: SegmentFacts, sealed_length: int, epoch: int) -> bool:
        """Tell the catalog, when it counts; False when the catalog must hear it and has not. A segment that was not
        compacted has nothing to tell. Raises CatalogUnavailable, OSError."""
        inputs = await self._shelf.supersedes(holding)
        if not inputs or not _counts(holding):
            return True
        try:
            return await self._link.catalog.supersede(facts, sealed_length, inputs, epoch)
        except EpochPassed as error:
            raise CatalogUnavailable(str(error)) from error

    def _complain(self, segment: bytes, reason: str) -> None:
        if self._complaints.get(segment) != reason:
            log.info("compacted segment waits", extra={"segment": segment.hex(), "reason": reason})
        self._complaints[segment] = reason


def _counts(holding: Holding) -> bool:
    return holding.member is not None and holding.member.fence_state.counts
