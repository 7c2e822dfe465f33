"""Fencing a segment on this volume (rule 9).

Invariants: a fence is durable before it is answered. On an own segment the writer process answers while it may still
append; when it does not answer, its lock must be held: only then can nobody append behind our back. A repaired copy
answers no fence: its volume is no original member (rule 8). A segment that was dropped answers none either (rule 23).
"""

from __future__ import annotations

import logging

from mailarray.journal.fence import FenceAnswer
from mailarray.journal.member import Member
from mailarray.model.ids import SegmentId
from mailarray.tracking.peers import Peers, PeerUnreachable
from mailarray.tracking.shelf import Holding, Shelf

log = logging.getLogger(__name__)


class WriterSilent(Exception):
    """The own writer holds its lock, and does not answer: nothing can be promised for its segment now."""


class NotMember(Exception):
    """This volume is not in the segment's replica set, or has dropped the segment since it was superseded."""


class Fencer:
    """Fences members on this volume."""

    def __init__(self, shelf: Shelf, peers: Peers, writer_address: str) -> None:
        self._shelf = shelf
        self._peers = peers
        self._writer = writer_address

    async def fence(self, segment: SegmentId) -> FenceAnswer:
        """Fence, durably, and answer. Raises NotMember, WriterSilent, OSError, VolumeError."""
        if segment in self._shelf.dropped:
            raise NotMember  # never 0: it held more once (rule 9)
        holding = self._shelf.holdings.get(segment)
        if holding is None:
            # Perhaps the own writer's newest, of which this process has not heard yet.
            answer = await self._ask_writer(segment)
            if answer is not None:
                return answer
            holding = self._shelf.adopt_left(segment) or self._shelf.mirrored(segment)
        if holding.is_replica(self._shelf.volume.id):
            raise NotMember
        if holding.own and holding.member is None:
            answer = await self._take_over(holding)
            if answer is not None:
                return answer
        async with holding.turn:
            if holding.is_replica(self._shelf.volume.id):
                raise NotMember  # copied here while we waited
            assert holding.member is not None
            return await self._shelf.run(holding.member.fence)

    async def _take_over(self, holding: Holding) -> FenceAnswer | None:
        """Make the own segment ours to promise for; an answer when the writer gave it itself."""
        try:
            answer = await self._peers.ask_writer(self._writer, holding.segment)
        except PeerUnreachable as error:
            with self._shelf.volume.writer_locked() as locked:
                if not locked:
                    raise WriterSilent(str(error)) from error
                await self._recover(holding)
            return None
        if answer is None:
            await self._recover(holding)
        return answer

    async def _ask_writer(self, segment: SegmentId) -> FenceAnswer | None:
        """Fence a segment of which there is no file here; None: the own writer does not hold it."""
        try:
            return await self._peers.ask_writer(self._writer, segment)
        except PeerUnreachable as error:
            with self._shelf.volume.writer_locked() as locked:
                if not locked:
                    raise WriterSilent(str(error)) from error
            return None

    async def _recover(self, holding: Holding) -> Member:
        async with holding.turn:
            return holding.member or await self._shelf.recover(holding)
