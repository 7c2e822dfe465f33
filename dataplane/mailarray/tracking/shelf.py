"""All segments of which this volume holds a replica, and who may touch which.

Invariant: one process at a time appends to or promises for a segment on this volume. That is the writer process for
the segment that it is writing, and this sidecar for all others: mirror copies, and own segments that the writer has
left, or that an earlier incarnation wrote. The sidecar learns from the announcements which one the writer holds; while
it does not know, it leaves every own unsealed segment alone.

A segment that was superseded and dropped here is on the shelf no more, and never again: its fence file says so, and
nothing that comes late makes a holding of it (rule 23).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import TypeVar

from mailarray.catalog.rows import SegmentFacts
from mailarray.journal.closing import read_closing
from mailarray.journal.disk import SyncPoint
from mailarray.journal.fence import load_fence
from mailarray.journal.format import FormatError, SegmentHeader
from mailarray.journal.member import Member, remove_dropped
from mailarray.journal.scan import read_segment_header
from mailarray.journal.volume import Volume, VolumeError
from mailarray.model.ids import SegmentId, VolumeId

log = logging.getLogger(__name__)

T = TypeVar("T")


class Holding:
    """One segment on this volume."""

    def __init__(self, segment: SegmentId) -> None:
        self.segment = segment
        self.member: Member | None = None  # None while the writer process holds the segment
        self.own = False
        self.header: SegmentHeader | None = None
        self.acknowledged = 0  # of an own segment that is being written: as announced
        self.last_word = 0.0  # monotonic time of the last PUT for it
        self.settled_epoch = -1  # catalog epoch in which it was seen sealed, whole here and registered
        self._mark = (-1, 0)  # a catalog epoch, and what was acknowledged when this process first looked in it
        self.registered = (-1, 0)  # a catalog epoch, and up to where it was seen to know the messages of this segment
        self.followed_epoch = -1  # catalog epoch in which its living writer's sidecar had registered that much
        self.indexed = 0  # local index covers the batches below
        self.supersedes: tuple[SegmentId, ...] | None = None  # of a compacted segment; None: not looked at yet
        self.leaving = False  # a repaired copy too many: nobody may count on it any more, and nobody is told of it
        self.turn = asyncio.Lock()  # serialises appends, fences and fills of the member
        self._view = -1

    def mark(self, epoch: int, acknowledged: int) -> int:
        """What was acknowledged when this was first asked in that epoch of the catalog: a fixed mark, since under load
        what is acknowledged is always a little ahead of the catalog."""
        if self._mark[0] != epoch:
            self._mark = (epoch, acknowledged)
        return self._mark[1]

    def is_replica(self, volume: VolumeId) -> bool:
        """A repaired copy: whole, sealed, and this volume is no original member of it (rule 8)."""
        return self.header is not None and volume not in self.header.members

    @property
    def readable(self) -> int:
        """Bytes that may be offered."""
        return self.acknowledged if self.member is None else self.member.readable

    @property
    def sealed_length(self) -> int | None:
        """The remembered L."""
        return None if self.member is None else self.member.fence_state.sealed_length

    def fd(self, volume: Volume) -> int:
        """A descriptor for pread, or -1 while there are no bytes."""
        if self.member is not None and self.member.fd >= 0:
            return self.member.fd
        if self._view < 0 and self.readable:
            self._view = os.open(volume.segment_path(self.segment), os.O_RDONLY | os.O_CLOEXEC)
        return self._view

    @property
    def facts(self) -> SegmentFacts | None:
        """What the header says, as the catalog wants it."""
        header = self.header
        if header is None:
            return None
        return SegmentFacts(
            header.segment, header.writer, header.incarnation, header.worker, header.members, header.copies
        )

    def close(self) -> None:
        """Close files."""
        if self.member is not None:
            self.member.close()
        if self._view >= 0:
            os.close(self._view)
            self._view = -1


class Shelf:
    """See the module."""

    def __init__(self, volume: Volume, executor: Executor) -> None:
        self.volume = volume
        self.holdings: dict[SegmentId, Holding] = {}
        self.written: Callable[[SegmentId], None] = lambda _: None  # called with each whole copy that is adopted
        self.dropped: set[SegmentId] = set()  # superseded, and gone from here for ever
        self._executor = executor

    async def run(self, work: Callable[[], T]) -> T:
        """Run a blocking call in the sidecar's threads."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def open(self) -> None:
        """Find what is on the volume after a start. Raises VolumeError, OSError."""
        for holding, sealed in await self.run(self._find):
            self.holdings[holding.segment] = holding
            if not holding.own or sealed:
                await self.recover(holding)

    def _find(self) -> list[tuple[Holding, bool]]:
        """What is on the volume, and whether it remembers an L."""
        # Names that a crash left in the page cache only: fences count from here on (rule 9).
        self.volume.disk.sync_directory(self.volume.segments, SyncPoint.RECOVERED)
        found = []
        for segment in self.volume.list_segments():
            fence = load_fence(self.volume, segment)
            if fence.dropped:
                self.dropped.add(segment)
                remove_dropped(self.volume, segment)
                continue
            holding = Holding(segment)
            self._peek(holding)
            found.append((holding, fence.sealed_length is not None))
        return found

    def _peek(self, holding: Holding) -> None:
        try:
            fd = os.open(self.volume.segment_path(holding.segment), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # an empty fenced segment
        try:
            holding.header = read_segment_header(fd)
            holding.own = holding.header.writer == self.volume.id
        except FormatError as error:
            log.error("segment unreadable", extra={"segment": holding.segment.hex(), "reason": str(error)})
        finally:
            os.close(fd)

    async def recover(self, holding: Holding, limit: int | None = None) -> Member:
        """Take a segment over after a start, or from the writer that left it."""
        member = await self.run(lambda: Member.recover(self.volume, holding.segment, holding.own, limit))
        if member.damages:
            log.error(
                "segment damaged",
                extra={
                    "segment": holding.segment.hex(),
                    "damages": [f"{d.start}-{d.end}: {d.reason}" for d in member.damages],
                },
            )
        holding.member = member
        holding.header = member.header or holding.header
        return member

    def adopt_current(self, segment: SegmentId, acknowledged: int) -> Holding:
        """The segment that the writer is writing; acknowledged as announced."""
        holding = self.holdings.get(segment)
        if holding is None:
            holding = self.holdings[segment] = Holding(segment)
        if holding.header is None:
            holding.own = True
            fd = os.open(self.volume.segment_path(segment), os.O_RDONLY | os.O_CLOEXEC)
            try:
                holding.header = read_segment_header(fd)
            finally:
                os.close(fd)
        holding.acknowledged = max(holding.acknowledged, acknowledged)
        return holding

    def adopt_left(self, segment: SegmentId) -> Holding | None:
        """An own segment that nobody announced while it was written: it lived between two words of the writer.

        Only asked for segments of this volume's writer; a mirror copy always has a holding already.
        """
        if segment in self.dropped:
            return None
        if segment not in self.holdings and self.volume.segment_path(segment).exists():
            holding = self.holdings[segment] = Holding(segment)
            holding.own = True
        return self.holdings.get(segment)

    async def left_unheard(self) -> list[SegmentHeader]:
        """Own segments that no word of their writer named: it began them and died while this process was stopped, or
        its words were lost; or it began them just now. Raises OSError."""
        return await self.run(self._unheard)

    def _unheard(self) -> list[SegmentHeader]:
        found = []
        try:
            segments = self.volume.list_segments()
        except VolumeError as error:
            raise OSError(errno.EIO, str(error)) from error
        for segment in segments:
            if segment not in self.holdings and segment not in self.dropped:
                with contextlib.suppress(FileNotFoundError, FormatError):
                    fd = os.open(self.volume.segment_path(segment), os.O_RDONLY | os.O_CLOEXEC)
                    try:
                        found.append(read_segment_header(fd))
                    finally:
                        os.close(fd)
        return [header for header in found if header.writer == self.volume.id]

    def adopt_unheard(self, headers: Iterable[SegmentHeader]) -> None:
        """The caller knows that their writer is gone."""
        for header in headers:
            if header.segment not in self.dropped:
                holding = self.holdings.setdefault(header.segment, Holding(header.segment))
                if holding.member is None:
                    holding.own, holding.header = True, header

    def mirrored(self, segment: SegmentId) -> Holding:
        """The holding for a mirror copy, made when it is new."""
        holding = self.holdings.get(segment)
        if holding is None:
            holding = self.holdings[segment] = Holding(segment)
            holding.member = Member(self.volume, segment, own=False)
        return holding

    def holds(self, segment: SegmentId) -> bool:
        """Bytes of it are here, or its writer may be writing it, or it was dropped here and must not come back."""
        if segment in self.dropped:
            return True
        holding = self.holdings.get(segment)
        if holding is None:
            return False
        # An own one that its writer has left may be empty, too: of its first batch a torn tail was here, and was cut.
        written = holding.own and holding.member is None
        return written or holding.header is not None or holding.readable > 0

    async def adopt_copy(self, segment: SegmentId) -> Holding:
        """A whole copy that was made durable just now: offered from here on. The caller has the turn of what was here
        before, an empty segment. Raises VolumeError, OSError."""
        holding = self.mirrored(segment)
        before = holding.member
        await self.recover(holding)
        if before is not None:
            before.close()
        holding.own = holding.header is not None and holding.header.writer == self.volume.id
        holding.settled_epoch = -1
        self.written(segment)
        return holding

    async def supersedes(self, holding: Holding) -> tuple[SegmentId, ...]:
        """The segments that a sealed one, whole here, stands for. Raises OSError."""
        if holding.supersedes is None:
            length, fd = holding.readable, holding.fd(self.volume)
            holding.supersedes = await self.run(lambda: read_closing(fd, holding.segment, length))
        return holding.supersedes

    async def drop(self, holding: Holding) -> int:
        """Give up the bytes of a superseded segment, and answer how many. Whoever reads it has a descriptor of its own.
        Raises OSError; then it stays."""
        member = holding.member
        assert member is not None
        async with holding.turn:
            size = await self.run(member.drop)
            self.dropped.add(holding.segment)
            self.holdings.pop(holding.segment, None)
        return size

    async def give_back(self, holding: Holding) -> int:
        """Give up the bytes of a repaired copy that nobody counts on (rule 25), and answer how many; it may be fetched
        again some day. Raises OSError; then it stays."""
        member = holding.member
        assert member is not None and holding.leaving
        async with holding.turn:
            size = await self.run(member.give_back)
            self.holdings.pop(holding.segment, None)
        return size

    def __iter__(self) -> Iterator[Holding]:
        return iter(list(self.holdings.values()))

    def close(self) -> None:
        """Close all files."""
        for holding in self:
            holding.close()
