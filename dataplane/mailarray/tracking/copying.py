"""Fetching one whole sealed segment from other servers, to hold a copy that repairs, drains or rebuilds; or taking one
that a restore brings from a backup.

Invariants (rules 5, 8, 12):

- A copy gets the name of a segment only when every checksum of it was looked at, in the bytes that were written; it
  holds whole good batches of exactly that segment up to L and no byte more, and was made durable (part.py). Then L is
  remembered durably, then it is offered, and only then is it told to the catalog (by `settling.py`, as after a start).
- So a crash leaves a `.copy` that is read through and gone on with, or a complete segment whose header does not name
  this volume: a replica, which registers itself and answers no fence.
- A bad byte is nobody's fault in particular: what does not pass is thrown away whole and fetched from the next holder.

Bytes come in pieces, into one buffer for each copy, at a limited rate, which all copies of a server share, so that mail
on its way in and readers keep their disk and their network. Refuses, with a sentence, when the disk would be left with
less than the reserve; with less than half of it when the segment is small: what is left of worn segments must find room
on full disks, too, since it frees more.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import mmap
import time
from collections.abc import AsyncIterator, Collection, Sequence

from mailarray.catalog.rows import SegmentFacts
from mailarray.journal.format import FormatError
from mailarray.model.ids import SegmentId, VolumeId
from mailarray.tracking import metrics
from mailarray.tracking.part import Part
from mailarray.tracking.peers import PIECE, Peers, PeerUnreachable
from mailarray.tracking.shelf import Shelf

log = logging.getLogger(__name__)


class NoRoom(Exception):
    """The volume would be left with less than its reserve; the text is a sentence."""


def kept_free(reserve: int, sealed_length: int) -> int:
    """Bytes that a copy of that length leaves free."""
    return reserve if sealed_length > reserve // 8 else reserve // 2


def new_buffer() -> memoryview:
    """Memory for one piece, where a page begins: such pieces can go to the disk without a stay in memory."""
    return memoryview(mmap.mmap(-1, PIECE))


class Pace:
    """Spreads bytes over time: at most `rate` a second, whoever asks."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = 0.0

    async def take(self, count: int) -> None:
        """Wait for one's turn to move so many bytes."""
        now = time.monotonic()
        start = max(now, self._free_at)
        self._free_at = start + count / self._rate
        if start > now:
            await asyncio.sleep(start - now)


class Copier:
    """See the module."""

    def __init__(self, shelf: Shelf, peers: Peers, reserve: int, pace: Pace) -> None:
        self._shelf = shelf
        self._peers = peers
        self._reserve = reserve
        self._pace = pace
        self.under_way: dict[SegmentId, int] = {}  # bytes still to come

    def leftovers(self) -> list[SegmentId]:
        """Segments of which an earlier run left part of a copy."""
        return self._shelf.volume.list_copies()

    def forget(self, segments: Collection[SegmentId]) -> None:
        """Remove parts of copies that nobody wants any more. Blocking."""
        for segment in segments:
            if segment not in self.under_way:
                with contextlib.suppress(OSError):
                    self._shelf.volume.disk.remove(self._shelf.volume.copy_path(segment))

    async def copy(self, facts: SegmentFacts, sealed_length: int, epoch: int, sources: Sequence[VolumeId]) -> bool:
        """Fetch, check, make durable, offer; False when no source gave it whole. Raises NoRoom, OSError."""
        if self._shelf.holds(facts.id) or facts.id in self.under_way or not sources:
            return False
        self.under_way[facts.id] = sealed_length
        started = time.monotonic()
        try:
            part = await self._shelf.run(lambda: Part(self._shelf.volume, facts.id))
            try:
                whole = await self._fetch_from_any(part, facts, sealed_length, sources)
                if whole:
                    async with self._shelf.mirrored(facts.id).turn:  # a fence of the empty one comes before, or after
                        await self._shelf.run(lambda: part.finish(sealed_length, epoch))
                        await self._shelf.adopt_copy(facts.id)
            except OSError as error:
                await self._shelf.run(part.discard)  # what a failed write or sync left is never gone on with (rule 5)
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise NoRoom(f"the volume is full: segment {facts.id.hex()} cannot be copied to it") from error
                raise
            finally:
                part.close()
            if whole:
                metrics.COPIES.inc()
                seconds = round(time.monotonic() - started, 3)
                log.info(
                    "segment copied", extra={"segment": facts.id.hex(), "length": sealed_length, "seconds": seconds}
                )
            return whole
        finally:
            del self.under_way[facts.id]

    async def take(
        self, segment: SegmentId, sealed_length: int, epoch: int, pieces: AsyncIterator[bytes]
    ) -> str | None:
        """A copy that is brought here; None when it is held now, else the reason why not. Raises NoRoom, OSError."""
        holding = self._shelf.holdings.get(segment)
        if holding is not None and holding.readable == sealed_length == holding.sealed_length:
            return None
        if self._shelf.holds(segment) or segment in self.under_way:
            return "the segment is here already, with another length or not whole yet"
        self.under_way[segment] = sealed_length
        try:
            self._check_room(segment, sealed_length, sealed_length)
            part = await self._shelf.run(lambda: Part(self._shelf.volume, segment))
            try:
                await self._shelf.run(part.empty)
                reason = await self._take(part, sealed_length, pieces)
                if reason is not None:
                    await self._shelf.run(part.discard)
                    return reason
                await self._shelf.run(lambda: part.finish(sealed_length, epoch))
            except BaseException as error:
                await asyncio.shield(self._shelf.run(part.discard))
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise NoRoom(f"the volume is full: segment {segment.hex()} cannot be restored to it") from error
                raise
            finally:
                part.close()
            await self._shelf.adopt_copy(segment)
            log.info("segment restored", extra={"segment": segment.hex(), "length": sealed_length})
            return None
        finally:
            del self.under_way[segment]

    async def _take(self, part: Part, sealed_length: int, pieces: AsyncIterator[bytes]) -> str | None:
        """Gathers small pieces, since the disk likes large ones."""
        buffer, filled = new_buffer(), 0
        try:
            async for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    count = min(len(rest), len(buffer) - filled)
                    buffer[filled : filled + count] = rest[:count]
                    rest, filled = rest[count:], filled + count
                    if filled == len(buffer):
                        await self._shelf.run(lambda: part.append(buffer))
                        filled = 0
                        self.under_way[part.segment] = max(0, sealed_length - part.size)
            await self._shelf.run(lambda: part.append(buffer[:filled]))
        except FormatError as error:
            return str(error)
        return await self._shelf.run(lambda: part.problem(None, sealed_length))

    async def _fetch_from_any(
        self, part: Part, facts: SegmentFacts, sealed_length: int, sources: Sequence[VolumeId]
    ) -> bool:
        buffer = new_buffer()
        await self._shelf.run(lambda: part.resume(sealed_length))
        first = facts.id[-1] % len(sources)  # reads of many segments are spread over those that hold them
        for source in (*sources[first:], *sources[:first]):
            try:
                await self._fetch(part, sealed_length, source, buffer)
                reason = await self._shelf.run(lambda: part.problem(facts, sealed_length))
            except PeerUnreachable as error:
                log.info("source not usable", extra={"segment": facts.id.hex(), "reason": str(error)})
                continue
            except FormatError as error:
                reason = str(error)
            if reason is None:
                return True
            log.warning(
                "copy does not pass", extra={"segment": facts.id.hex(), "source": source.hex(), "reason": reason}
            )
            await self._shelf.run(part.empty)
        return False

    async def _fetch(self, part: Part, sealed_length: int, source: VolumeId, buffer: memoryview) -> None:
        """Go on to L. Raises PeerUnreachable, FormatError, NoRoom, OSError."""
        segment = part.segment
        size = part.size
        while size < sealed_length:
            self.under_way[segment] = sealed_length - size
            self._check_room(segment, sealed_length, sealed_length - size)
            end = min(sealed_length, size + PIECE)
            await self._pace.take(end - size)
            count = await self._peers.fetch_into(source, segment, size, buffer[: end - size])
            if not count:
                raise PeerUnreachable(f"volume {source.hex()} holds only {size} bytes of it")
            await self._shelf.run(lambda count=count: part.append(buffer[:count]))  # type: ignore[misc]
            metrics.COPIED_BYTES.inc(count)
            size = part.size
        self.under_way[segment] = 0

    def _check_room(self, segment: SegmentId, sealed_length: int, wanted: int) -> None:
        free, kept = self._shelf.volume.free_bytes(), kept_free(self._reserve, sealed_length)
        if free - wanted < kept:
            raise NoRoom(
                f"segment {segment.hex()} needs {wanted} bytes more, {free} are free and {kept} are kept:"
                " enlarge the volume"
            )
