"""Reading everything on this volume through, again and again at a quiet pace, and mending what has gone bad.

Reading notices damage when somebody reads; this notices it while another replica is still good. Each sealed segment is
read from the disk itself (its pages are dropped from the cache first) and every checksum is looked at.

Invariants (rules 4, 11):

- What is written is what another replica gave for the same bytes, after it passed the checksums that stand for them;
  for one body that is the checksum in its own batch, which is good. So an offset never gets other bytes than it had.
- Readers are never worse off: they check what they read, and ask another replica, before, while and after.
- Only what was read through without damage, mended wholly, or written just now, counts as seen. What no replica could
  mend is tried again, and the messages and mailboxes that it is about are named, in the log and in the status.

At most `scrub_rate` bytes a second, and no more than it takes to see everything within `scrub_interval`; in a thread
whose reads give way to everybody else's, where the disk's scheduler knows such a thing.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from mailarray.catalog.catalog import CatalogUnavailable
from mailarray.catalog.rows import SegmentFacts
from mailarray.journal.format import FormatError, MessageEntry, SegmentHeader, crc32c, decode_segment_header
from mailarray.journal.scan import Batch, body_is_whole, find_batch, read_batch, read_segment_header
from mailarray.model.ids import SegmentId, VolumeId
from mailarray.tracking import metrics
from mailarray.tracking.catalog_link import CatalogLink
from mailarray.tracking.copying import Pace
from mailarray.tracking.pace import woken
from mailarray.tracking.peers import PIECE, Peers, PeerUnreachable
from mailarray.tracking.receiving import check_frames
from mailarray.tracking.scrub_memory import ScrubMemory
from mailarray.tracking.shelf import Holding, Shelf, T

log = logging.getLogger(__name__)

IDLE_SECONDS = 60.0  # between two looks when nothing is due
LEAST_RATE = 256 * 1024  # bytes a second; a small volume is not drawn out for its own sake
AGAIN_SECONDS = 3600.0  # until damage that nobody could mend is tried again
SOON_SECONDS = 5.0  # the same, when not everybody could be asked who may have it
DUE_SHARE = 0.5  # of the interval after which a segment may be read again, so that all are within it
MAX_STRETCH = 256 * 1024 * 1024  # bytes mended in one step, in memory
MAX_NAMED = 1000  # messages named in the status

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}.get(platform.machine())
_IDLE_CLASS = 3 << 13


class Damage(NamedTuple):
    """Bytes [start, end) that are not what they were."""

    start: int
    end: int
    reason: str
    check: Callable[[bytes], object]  # raises FormatError for bytes that are not right either
    message: MessageEntry | None  # when it is one body


class Scrubber:
    """See the module."""

    def __init__(
        self, shelf: Shelf, link: CatalogLink, peers: Peers, interval: float, rate: float, now: Callable[[], float]
    ) -> None:
        """`interval` in seconds, `rate` in bytes a second; `now` in seconds since 1970."""
        self._shelf = shelf
        self._link = link
        self._peers = peers
        self._interval = interval
        self._rate = rate
        self._now = now
        self._memory = ScrubMemory(shelf.volume)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scrub", initializer=_be_idle)
        self._wake = asyncio.Event()
        self._all_since: float | None = None  # everything older than this is read, as fast as may be
        self._again: dict[SegmentId, float] = {}  # monotonic, of segments that could not be mended
        self.lost: dict[SegmentId, list[dict[str, Any]]] = {}  # what nobody could mend
        self.bytes = self.damaged = self.mended = 0
        self.current: SegmentId | None = None
        metrics.SCRUB_AGE.set_function(self.oldest)
        metrics.SCRUB_INTERVAL.set(interval)
        metrics.UNMENDED.set_function(self.unmended)

    # -- what is told ------------------------------------------------------------------------------------
    def scrub_now(self) -> dict[str, int]:
        """Read everything, beginning now; answers how much that is."""
        self._all_since = self._now()
        self._again.clear()
        self._wake.set()
        every = self._readable()
        return {"segments": len(every), "bytes": sum(holding.readable for holding in every)}

    def written(self, segment: SegmentId) -> None:
        """A copy of it was checked and written here now, however old the segment is."""
        self._memory.note(segment, self._now())

    def oldest(self) -> float:
        """Seconds since the segment that was read longest ago was read."""
        return max((self._now() - self._last(holding) for holding in self._readable()), default=0.0)

    def sound(self, segment: SegmentId) -> bool:
        """Nothing is known to be wrong with it here."""
        return segment not in self.lost and segment not in self._again

    def unmended(self) -> int:
        """Segments here with damage that nobody could mend, or that the disk does not give."""
        return sum(segment in self._shelf.holdings for segment in self.lost.keys() | self._again.keys())

    def status(self) -> dict[str, Any]:
        """For /v1/status."""
        left = [h for h in self._readable() if self._all_since is not None and self._last(h) < self._all_since]
        return {
            "bytes": self.bytes,
            "damaged": self.damaged,
            "mended": self.mended,
            "damaged_segments": self.unmended(),
            "oldest_seconds": round(self.oldest()),
            "reading": None if self.current is None else self.current.hex(),
            "asked_for_left": len(left),
            "lost": [one for found in self.lost.values() for one in found][:MAX_NAMED],
        }

    # -- running -----------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Until cancelled."""
        while True:
            holding = self._next()
            if holding is None:
                self._all_since = None
                await woken(self._wake, IDLE_SECONDS)
                continue
            try:
                await self.scrub(holding)
            except OSError as error:  # the disk itself says that it cannot read: as bad as a wrong checksum
                log.error(
                    "segment cannot be read through",
                    extra={"segment": holding.segment.hex(), "reason": error.strerror or str(error)},
                )
                self.damaged += 1
                metrics.DAMAGED.inc()
                self._again[holding.segment] = time.monotonic() + AGAIN_SECONDS
            if self._memory.due:
                await self.save()

    async def save(self) -> None:
        """Keep what was seen."""
        self._memory.keep_only(self._shelf.holdings.keys())
        try:
            await self._shelf.run(self._memory.save)
        except OSError as error:
            log.error("scrub progress not saved", extra={"reason": str(error)})

    async def close(self) -> None:
        """After `run` was cancelled."""
        await self.save()
        await asyncio.to_thread(self._thread.shutdown)

    async def scrub(self, holding: Holding) -> bool:
        """Read one segment through and mend it; answers whether it is whole. Raises OSError."""
        member, limit = holding.member, holding.sealed_length
        assert member is not None and limit is not None
        self.current = holding.segment
        pace = Pace(self._pace())
        whole = True
        lost: list[dict[str, Any]] = []
        fd = os.dup(holding.fd(self._shelf.volume))  # it may be dropped while we read
        try:
            await self._run(lambda: os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED))
            position = 0
            while position < limit:
                at = position
                position, damages = await self._run(lambda at=at: look(fd, holding.segment, holding.header, at, limit))  # type: ignore[misc]
                for damage in damages:
                    if not await self._mend(holding, damage):
                        whole = False
                        lost += await self._name(holding, damage)
                if at == 0 and damages and holding.header is None:
                    position = limit  # without its header nobody knows where the first batch begins
                self.bytes += position - at
                metrics.SCRUBBED_BYTES.inc(position - at)
                await pace.take(position - at)
            await self._run(lambda: os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED))
        finally:
            os.close(fd)
            self.current = None
        if not whole:
            self.lost[holding.segment] = lost
            # While the catalog is away nobody may know who else holds it.
            self._again[holding.segment] = time.monotonic() + (AGAIN_SECONDS if self._link.up else SOON_SECONDS)
            return False
        self.lost.pop(holding.segment, None)
        self._again.pop(holding.segment, None)
        self._memory.note(holding.segment, self._now())
        if member.damages and holding.member is member:
            member.damages = []
            async with holding.turn:
                await self._shelf.run(lambda: member.remember(limit, member.fence_state.epoch))
        return True

    def _readable(self) -> list[Holding]:
        """Sealed, whole up to L, and ours to touch."""
        return [
            h
            for h in self._shelf
            if h.member is not None
            and h.member.fd >= 0
            and h.sealed_length is not None
            and 0 < h.sealed_length <= h.member.length
        ]

    def _last(self, holding: Holding) -> float:
        return self._memory.last(holding.segment, 0.0 if holding.header is None else holding.header.created_at / 1e6)

    def _next(self) -> Holding | None:
        """The one that was read longest ago, if its time has come."""
        now, moment = self._now(), time.monotonic()
        ready = [h for h in self._readable() if self._again.get(h.segment, 0.0) <= moment]
        holding = min(ready, key=self._last, default=None)
        if holding is None:
            return None
        last = self._last(holding)
        asked = self._all_since is not None and last < self._all_since
        broken = holding.member is not None and bool(holding.member.damages)
        return holding if asked or broken or now - last >= self._interval * DUE_SHARE else None

    def _pace(self) -> float:
        if self._all_since is not None:
            return self._rate
        wanted = sum(holding.readable for holding in self._readable()) / self._interval
        return min(self._rate, max(wanted, LEAST_RATE))

    # -- mending -----------------------------------------------------------------------------------------
    async def _mend(self, holding: Holding, damage: Damage) -> bool:
        """Raises OSError."""
        fields = {"segment": holding.segment.hex(), "from": damage.start, "to": damage.end, "reason": damage.reason}
        log.error("damage found", extra=fields)
        self.damaged += 1
        metrics.DAMAGED.inc()
        data = await self._from_others(holding, damage)
        member = holding.member
        if data is None or member is None:
            return False
        header = holding.header or decode_segment_header(data)
        async with holding.turn:
            await self._shelf.run(lambda: member.write([data], damage.start))
            await self._shelf.run(lambda: member.commit(header, member.length, 0))
        if holding.header is None:  # nobody could say whose it is since the start
            holding.header, holding.own, holding.settled_epoch = header, header.writer == self._shelf.volume.id, -1
        self.mended += 1
        metrics.MENDED.inc()
        log.warning("damage mended", extra=fields)
        return True

    async def _from_others(self, holding: Holding, damage: Damage) -> bytes | None:
        if damage.end - damage.start > MAX_STRETCH:
            log.error("stretch too long to mend", extra={"segment": holding.segment.hex(), "from": damage.start})
            return None
        for volume in await self._volumes(holding):
            try:
                parts = []
                position = damage.start
                while position < damage.end:
                    part = await self._peers.fetch(volume, holding.segment, position, min(damage.end, position + PIECE))
                    if not part:
                        break
                    parts.append(part)
                    position += len(part)
                data = b"".join(parts)
                if len(data) == damage.end - damage.start:
                    damage.check(data)
                    return data
            except (PeerUnreachable, FormatError) as error:
                log.warning("replica not usable", extra={"segment": holding.segment.hex(), "reason": str(error)})
        return None

    async def _volumes(self, holding: Holding) -> list[VolumeId]:
        """Who else may hold it: by its header, and by the catalog, which knows of repaired copies."""
        facts: SegmentFacts | None = holding.facts
        others = () if facts is None else facts.members
        with contextlib.suppress(CatalogUnavailable):
            rows = await self._link.catalog.segments([holding.segment])
            if holding.segment in rows:
                row = rows[holding.segment]
                others = (*others, *row.facts.members, *row.replicas)
        return [volume for volume in dict.fromkeys(others) if volume != self._shelf.volume.id]

    async def _name(self, holding: Holding, damage: Damage) -> list[dict[str, Any]]:
        """Which messages nobody can give any more, and whose they are."""
        if damage.message is not None:
            entry = damage.message
            found = [{"message": entry.id.hex(), "mailboxes": [mailbox for mailbox, _ in entry.deliveries]}]
        else:
            found = []
            with contextlib.suppress(CatalogUnavailable):
                rows = await self._link.catalog.messages_within(holding.segment, damage.start, damage.end)
                found = [{"message": id.hex(), "mailboxes": list(mailboxes)} for id, mailboxes in rows]
        for one in found:
            log.critical(
                "message damaged on every replica that answers",
                extra={"message_id": one["message"], "mailboxes": one["mailboxes"]},
            )
        if not found:
            log.critical(
                "bytes damaged on every replica that answers",
                extra={"segment": holding.segment.hex(), "from": damage.start, "to": damage.end},
            )
        return [{"segment": holding.segment.hex(), **one} for one in found]

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def look(
    fd: int, segment: SegmentId, header: SegmentHeader | None, position: int, limit: int
) -> tuple[int, list[Damage]]:
    """Check the segment header (position 0) or one batch; where the next one begins, and what is wrong. Blocking.

    Raises OSError.
    """
    if position == 0:
        try:
            return read_segment_header(fd).length, []
        except FormatError as error:
            end = header.length if header is not None else find_batch(fd, segment, 0, limit) or limit
            return end, [Damage(0, end, str(error), lambda data: _check_header(data, segment), None)]
    try:
        batch = read_batch(fd, segment, position, limit)
    except FormatError as error:
        end = find_batch(fd, segment, position + 1, limit) or limit
        return end, [Damage(position, end, str(error), lambda data: check_frames(data, position, header), None)]
    return batch.header.end, [_bad_body(batch, entry) for entry in _bodies(batch) if not _whole(fd, batch, entry)]


def _check_header(data: bytes, segment: SegmentId) -> None:
    header = decode_segment_header(data)
    if header.segment != segment or header.length != len(data):
        raise FormatError("it is the header of another segment")


def _bodies(batch: Batch) -> list[MessageEntry]:
    return [entry for entry in batch.entries if isinstance(entry, MessageEntry)]


def _whole(fd: int, batch: Batch, entry: MessageEntry) -> bool:
    return body_is_whole(fd, batch.header, entry)


def _bad_body(batch: Batch, entry: MessageEntry) -> Damage:
    def check(data: bytes) -> None:
        if crc32c(data) != entry.body_crc:
            raise FormatError(f"the body of message {entry.id.hex()} is damaged there, too")

    start = batch.header.bodies_offset + entry.body_offset
    reason = f"the body of message {entry.id.hex()} is damaged"
    return Damage(start, start + entry.body_length, reason, check, entry)


def _be_idle() -> None:
    """This thread's reads wait for everybody else's (ioprio_set(2)); where that is not to be had, the pace must do."""
    if _IOPRIO_SET is not None:
        ctypes.CDLL(None).syscall(_IOPRIO_SET, 1, 0, _IDLE_CLASS)
