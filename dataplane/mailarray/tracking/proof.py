"""Proving that a sealed segment is held by all that must hold it, by asking each of them directly (rule 23).

Invariant: the catalog says whom to ask, never who holds. Counted is only a volume that gives out the last byte below L
now: volumes offer durable bytes only, and hold all that is below. This volume answers for itself.

Nobody waits for the word of a member that is lost, or retired: a drained server may be switched off for good, and
`copies` others were found to hold what it held. Should it come back, it holds all that it held.

Used before a compacted segment stands for its inputs, and again before an input's bytes are given up: those that held
it then may be gone by now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from mailarray.catalog.rows import SegmentState, VolumeRow
from mailarray.model.ids import SegmentId, VolumeId
from mailarray.tracking.peers import Peers, PeerUnreachable
from mailarray.tracking.shelf import Shelf
from mailarray.tracking.table import NewestTable
from mailarray.tracking.targets import counting, held_on

log = logging.getLogger(__name__)


class Prover:
    """See the module."""

    def __init__(self, shelf: Shelf, peers: Peers, table: NewestTable) -> None:
        self._shelf = shelf
        self._peers = peers
        self._table = table

    async def missing(self, row: SegmentState, volumes: Sequence[VolumeRow]) -> str | None:
        """What is missing until every member that is neither lost nor retired holds it up to L, and `copies` servers
        that count do."""
        length, facts = row.sealed_length, row.facts
        if not length:
            return "it is not sealed"
        gone = {volume.id for volume in volumes if volume.lost or volume.retired}
        wanted = [volume for volume in dict.fromkeys((*facts.members, *row.replicas)) if volume not in gone]
        answers = await asyncio.gather(*(self._holds(volume, facts.id, length) for volume in wanted))
        holders = {volume for volume, holds in zip(wanted, answers, strict=True) if holds}
        for member in facts.members:
            if member not in gone and member not in holders:
                return f"its member {member.hex()} does not say that it holds it"
        counted = held_on(holders, counting(self._table(), volumes))
        return None if counted >= facts.copies else f"{counted} of {facts.copies} servers say that they hold it"

    async def _holds(self, volume: VolumeId, segment: SegmentId, length: int) -> bool:
        if volume == self._shelf.volume.id:
            holding = self._shelf.holdings.get(segment)
            return holding is not None and holding.readable >= length
        try:
            return len(await self._peers.fetch(volume, segment, length - 1, length)) == 1
        except PeerUnreachable as error:
            log.info("holder not reached", extra={"holder": volume.hex(), "reason": str(error)})
            return False
