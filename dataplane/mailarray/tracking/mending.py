"""Making this member whole: the rest of a sealed segment, and bytes that were damaged, from another member.

Invariant (rules 4, 11, 12): what is written is what another member or a repaired copy holds at the same offset, checked
batch by batch before it is made durable; nothing is taken past L.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mailarray.catalog.rows import SegmentFacts
from mailarray.journal.format import FormatError, decode_segment_header
from mailarray.model.ids import VolumeId
from mailarray.tracking.peers import PIECE, Peers, PeerUnreachable
from mailarray.tracking.receiving import check_frames
from mailarray.tracking.shelf import Holding, Shelf

log = logging.getLogger(__name__)

MAX_STRETCH = 256 * 1024 * 1024  # bytes fetched for one step; a batch is at most one message beyond 8 MiB


class Mender:
    """See the module."""

    def __init__(self, own: VolumeId, shelf: Shelf, peers: Peers, reserve: int = 0) -> None:
        self._own = own
        self._kept_free = reserve // 4  # bytes: for fences and the index, which must go on when nothing else does
        self._shelf = shelf
        self._peers = peers

    async def fill(
        self, holding: Holding, facts: SegmentFacts, sealed_length: int, replicas: Sequence[VolumeId] = ()
    ) -> bool:
        """Fetch the rest up to L; answers whether the member is whole now."""
        member = holding.member
        assert member is not None
        if member.length >= sealed_length:
            return True
        if self._shelf.volume.free_bytes() - (sealed_length - member.length) < self._kept_free:
            log.warning("no room to complete a replica", extra={"segment": facts.id.hex(), "to": sealed_length})
            return False
        found = await self._fetch(facts, member.length, sealed_length, replicas)
        if found is None:
            return False
        header = member.header
        if member.length == 0:
            header = decode_segment_header(found)
        assert header is not None
        async with holding.turn:
            start = member.length
            await self._shelf.run(lambda: member.write([found], start))
            await self._shelf.run(lambda: member.commit(header, sealed_length, sealed_length))
            await self._shelf.run(lambda: member.remember(sealed_length, member.fence_state.epoch))
        holding.header = header
        log.info("replica completed", extra={"segment": facts.id.hex(), "from": start, "to": sealed_length})
        return True

    async def mend(
        self, holding: Holding, facts: SegmentFacts, start: int, end: int, replicas: Sequence[VolumeId] = ()
    ) -> bool:
        """Replace damaged bytes [start, end); answers whether that was possible."""
        member = holding.member
        if member is None or member.header is None:
            return False
        found = await self._fetch(facts, start, end, replicas)
        if found is None:
            return False
        async with holding.turn:
            await self._shelf.run(lambda: member.write([found], start))
            await self._shelf.run(lambda: member.commit(member.header, member.length, 0))  # type: ignore[arg-type]
        log.info("replica mended", extra={"segment": facts.id.hex(), "from": start, "to": end})
        return True

    async def _fetch(self, facts: SegmentFacts, start: int, end: int, replicas: Sequence[VolumeId]) -> bytes | None:
        if end - start > MAX_STRETCH:
            log.error("stretch too long to mend", extra={"segment": facts.id.hex(), "from": start, "to": end})
            return None
        for volume in (*facts.members, *replicas):
            if volume == self._own:
                continue
            try:
                parts = []
                position = start
                while position < end:
                    part = await self._peers.fetch(volume, facts.id, position, min(end, position + PIECE))
                    if not part:
                        break
                    parts.append(part)
                    position += len(part)
                data = b"".join(parts)
                if len(data) == end - start:
                    known = None if start == 0 else self._shelf.holdings[facts.id].header
                    check_frames(data, start, known)
                    return data
            except (PeerUnreachable, FormatError) as error:
                log.warning("replica not usable", extra={"segment": facts.id.hex(), "reason": str(error)})
        return None
