"""Fetching one whole sealed segment from other servers, to hold a copy that repairs, drains or rebuilds; or taking one
that a restore brings from a backup.

    segments/ID.copy       bytes of [0, L) as far as they came; means nothing to anybody but this file

Invariants (rules 5, 8, 12):

- A copy gets the name of a segment only when it was read through from this disk, holds whole good batches of exactly
  that segment up to L and no byte more, and was made durable; then L is remembered durably, then it is offered, and
  only then is it told to the catalog (by `settling.py`, as after any start).
- So a crash leaves a `.copy` that is gone on with, or a complete segment whose header does not name this volume: a
  replica, which registers itself and answers no fence.
- A bad byte is nobody's fault in particular: what does not pass is thrown away whole and fetched from the next holder.

Bytes come in pieces at a limited rate, which all copies of a server share, so that mail on its way in and readers keep
their disk and their network. Refuses, with a sentence, when the disk would be left with less than the reserve; with
less than half of it when the segment is small: what is left of worn segments must find room on full disks, too, since
it frees more.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Collection, Iterator, Sequence

from mailarray.catalog.catalog import SegmentFacts
from mailarray.journal.disk import SyncPoint
from mailarray.journal.fence import Fence, save_fence
from mailarray.journal.scan import survey
from mailarray.journal.volume import Volume
from mailarray.model.ids import SegmentId, VolumeId
from mailarray.tracking import metrics
from mailarray.tracking.peers import PIECE, Peers, PeerUnreachable
from mailarray.tracking.shelf import Shelf

log = logging.getLogger(__name__)


class NoRoom(Exception):
    """The volume would be left with less than its reserve; the text is a sentence."""


def kept_free(reserve: int, sealed_length: int) -> int:
    """Bytes that a copy of that length leaves free."""
    return reserve if sealed_length > reserve // 8 else reserve // 2


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
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    await self._shelf.run(part.discard)
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
                async for piece in pieces:
                    await self._shelf.run(lambda data=piece: part.append(data))  # type: ignore[misc]
                    self.under_way[segment] = max(0, sealed_length - part.size)
                reason = await self._shelf.run(lambda: part.problem(None, sealed_length))
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

    async def _fetch_from_any(
        self, part: Part, facts: SegmentFacts, sealed_length: int, sources: Sequence[VolumeId]
    ) -> bool:
        first = facts.id[-1] % len(sources)  # reads of many segments are spread over those that hold them
        for source in (*sources[first:], *sources[:first]):
            try:
                await self._fetch(part, sealed_length, source)
            except PeerUnreachable as error:
                log.info("source not usable", extra={"segment": facts.id.hex(), "reason": str(error)})
                continue
            reason = await self._shelf.run(lambda: part.problem(facts, sealed_length))
            if reason is None:
                return True
            log.warning(
                "copy does not pass", extra={"segment": facts.id.hex(), "source": source.hex(), "reason": reason}
            )
            await self._shelf.run(part.empty)
        return False

    async def _fetch(self, part: Part, sealed_length: int, source: VolumeId) -> None:
        """Go on to L. Raises PeerUnreachable, NoRoom, OSError."""
        segment = part.segment
        if part.size > sealed_length:
            await self._shelf.run(part.empty)
        size = part.size
        while size < sealed_length:
            self.under_way[segment] = sealed_length - size
            self._check_room(segment, sealed_length, sealed_length - size)
            end = min(sealed_length, size + PIECE)
            await self._pace.take(end - size)
            data = await self._peers.fetch(source, segment, size, end)
            if not data:
                raise PeerUnreachable(f"volume {source.hex()} holds only {size} bytes of it")
            await self._shelf.run(lambda data=data: part.append(data))  # type: ignore[misc]
            metrics.COPIED_BYTES.inc(len(data))
            size = part.size
        self.under_way[segment] = 0

    def _check_room(self, segment: SegmentId, sealed_length: int, wanted: int) -> None:
        free, kept = self._shelf.volume.free_bytes(), kept_free(self._reserve, sealed_length)
        if free - wanted < kept:
            raise NoRoom(
                f"segment {segment.hex()} needs {wanted} bytes more, {free} are free and {kept} are kept:"
                " enlarge the volume"
            )


class Part:
    """The file of one copy. Its blocking calls run in the sidecar's threads, one at a time, and none after `close`:
    a copy that is cancelled must not leave a thread behind that writes to a descriptor which is another file by now."""

    def __init__(self, volume: Volume, segment: SegmentId) -> None:
        """Begin, or go on with what an earlier run left. Raises OSError."""
        self.segment = segment
        self._volume = volume
        self._lock = threading.Lock()
        self._closed = False
        path = volume.copy_path(segment)
        try:
            self._fd = volume.disk.create(path)
        except FileExistsError:
            self._fd = volume.disk.open(path)
        self.size = os.fstat(self._fd).st_size

    def append(self, data: bytes) -> None:
        with self._open() as fd:
            self._volume.disk.write(fd, [data], self.size)
            self.size += len(data)

    def empty(self) -> None:
        with self._open() as fd:
            self._volume.disk.truncate(fd, 0)
            self.size = 0

    def problem(self, facts: SegmentFacts | None, sealed_length: int) -> str | None:
        """Why this is not that segment up to L, or None. Every checksum is looked at. Without facts any header."""
        with self._open() as fd:
            found = survey(fd, self.segment, sealed_length=sealed_length)
        if found.damages:
            return found.damages[0].reason
        header = found.header
        if header is None or header.segment != self.segment or (facts and header.members != facts.members):
            return "its header is another segment's"
        if found.length != sealed_length or found.file_length != sealed_length:
            return f"it holds {found.length} of {sealed_length} bytes"
        return None

    def finish(self, sealed_length: int, epoch: int) -> None:
        """Durable under the segment's name, and L remembered."""
        volume, segment = self._volume, self.segment
        with self._open() as fd:
            volume.disk.sync(fd, SyncPoint.COPY_FILE)
            volume.disk.rename(volume.copy_path(segment), volume.segment_path(segment))
            # Its last step syncs the directory, and with it the name from the line before.
            save_fence(volume, segment, Fence(fenced=True, sealed_length=sealed_length, epoch=epoch, whole=True))

    def discard(self) -> None:
        """Give the room back."""
        with contextlib.suppress(OSError):
            self._volume.disk.remove(self._volume.copy_path(self.segment))

    def close(self) -> None:
        """Waits for the call under way: at most one read-through of a segment, when a copy is cancelled."""
        with self._lock:
            self._closed = True
            self._volume.disk.close(self._fd)

    @contextlib.contextmanager
    def _open(self) -> Iterator[int]:
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, "the copy was given up")
            yield self._fd
