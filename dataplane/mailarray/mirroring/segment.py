"""One open segment of a writer: the same bytes to its own volume and to every mirror at the same time.

Invariants (rules 1, 2, 4, 5):

- `append` returns only when the batch is durable on every member. On any failure it raises, and the segment takes
  nothing more: no second batch is ever composed for the same offset.
- The header goes with the first batch: a segment that nobody has written to does not exist.
- `acknowledged` moves only after `append` returned; each batch carries the mark of those before it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from mailarray.journal.commit_thread import CommitThread
from mailarray.journal.fence import FenceAnswer
from mailarray.journal.format import BATCH_HEADER_LENGTH, BatchHeader, SegmentHeader, crc32c
from mailarray.journal.member import BrokenError, FencedError, Member
from mailarray.journal.volume import Volume
from mailarray.mirroring.link import MirrorFailed, MirrorLink
from mailarray.model.ids import IncarnationId, new_segment_id
from mailarray.model.message import Body


class SegmentFailed(Exception):
    """The segment is over: a member failed or was fenced. The batch may be written to another one."""


class OwnDiskFailed(Exception):
    """This server's own volume failed: trying another segment on it is pointless for this batch."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Records gathered for one append; the header is made when it is known where they go."""

    entries: int
    metadata: bytes
    bodies: Sequence[Body]
    bodies_length: int

    def chunks(self) -> Iterator[bytes]:
        """Metadata and bodies."""
        yield self.metadata
        for body in self.bodies:
            yield from body.chunks()


class OpenSegment:
    """See the module."""

    def __init__(
        self,
        member: Member,
        header: SegmentHeader,
        links: Sequence[MirrorLink],
        thread: CommitThread,
        now: Callable[[], float],
    ) -> None:
        self.header = header
        self.member = member
        self.links = tuple(links)
        self.acknowledged = 0  # bytes; the next batch goes there
        self.opened_at = now()
        self.last_append = now()
        self.failed: str | None = None
        self._thread = thread
        self._now = now

    async def append(self, batch: Batch) -> None:
        """Make a batch durable on all members. Raises SegmentFailed or OwnDiskFailed."""
        if self.failed is not None:
            raise SegmentFailed(self.failed)
        prefix = self.header.encode() if self.acknowledged == 0 else b""
        offset = self.acknowledged
        frame = BatchHeader(
            self.header.segment,
            offset + len(prefix),
            self.acknowledged,
            batch.entries,
            len(batch.metadata),
            batch.bodies_length,
            crc32c(batch.metadata),
        )
        head = prefix + frame.encode()
        length = len(prefix) + BATCH_HEADER_LENGTH + len(batch.metadata) + batch.bodies_length
        end = offset + length
        chunks = partial(_with_head, head, batch)
        failures: list[Exception] = []
        waiting: list[asyncio.Future[None]] = []
        for link in self.links:
            try:
                put = link.put(self.header.segment, offset, self.acknowledged, chunks(), length)
                waiting.append(asyncio.ensure_future(put))
            except OSError as error:
                failures.append(OwnDiskFailed(f"a spooled body cannot be read: {error.strerror or error}"))
        waiting.append(self._thread.submit(partial(self._append_local, chunks, offset, end)))
        for answer in waiting:
            try:
                await answer
            except (MirrorFailed, SegmentFailed, OwnDiskFailed) as error:
                failures.append(error)
        if not failures:
            self.acknowledged = end
            self.last_append = self._now()
            return
        self.failed = "; ".join(str(failure) for failure in failures)
        raise next((f for f in failures if isinstance(f, OwnDiskFailed)), SegmentFailed(self.failed))

    def _append_local(self, chunks: Callable[[], Iterator[bytes]], offset: int, end: int) -> None:
        """In the commit thread, which is also where fences happen: so they are atomic with appends (rule 9)."""
        try:
            self.member.check_append(offset)
            self.member.append(self.header, chunks(), offset, end, self.acknowledged)
        except FencedError as error:
            raise SegmentFailed("fenced on its own volume") from error
        except BrokenError as error:
            raise OwnDiskFailed(f"the own volume failed before: {error}") from error
        except OSError as error:
            raise OwnDiskFailed(f"the own volume failed: {error.strerror or error}") from error

    async def fence(self) -> FenceAnswer:
        """Fence the own member, between two appends, and never append again."""
        answer = await self._thread.submit(self.member.fence)
        self.failed = self.failed or "fenced on its own volume"
        return answer

    async def touch(self) -> None:
        """Tell the mirrors of an idle writer the mark, so that they know it lives (rule 15)."""
        if self.acknowledged == 0:
            return
        results = await asyncio.gather(
            *(link.put(self.header.segment, self.acknowledged, self.acknowledged, (), 0) for link in self.links),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, MirrorFailed):
                self.failed = self.failed or str(result)
            elif isinstance(result, BaseException):
                raise result

    def close(self) -> None:
        """Close the file; the segment stays to be sealed."""
        self.member.close()


def _with_head(head: bytes, batch: Batch) -> Iterator[bytes]:
    yield head
    yield from batch.chunks()


def new_segment(
    volume: Volume,
    incarnation: IncarnationId,
    worker: int,
    links: Sequence[MirrorLink],
    copies: int,
    thread: CommitThread,
    now: Callable[[], float],
) -> OpenSegment:
    """A new segment with a fixed replica set; nothing exists on any disk until its first batch."""
    mirrors = [link.volume for link in links if link.volume is not None]
    header = SegmentHeader(
        new_segment_id(), volume.id, incarnation, worker, time.time_ns() // 1000, copies, (volume.id, *mirrors)
    )
    return OpenSegment(Member(volume, header.segment, own=True), header, links, thread, now)
