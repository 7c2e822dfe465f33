"""Taking mirror copies: PUT of one batch, answered after this volume's own fdatasync.

Invariants (rules 3, 4, 9):

- 200 is answered only when every byte of the request is durable here and forms whole batches of that segment.
- One request for a segment at a time; a batch is written only after the one before is durable.
- An offset past the durable length is 409 with that length; below it equal bytes are 200, others 409 and an alarm.
- A fenced segment is 423, another volume's id 404, a server that stops on purpose 503.
- A server that is draining takes no new segment: 503. Those it takes part in go on until their writers have left them.
- A lost volume is no copy for ever, also when it is back: it takes no new segment, and no mirror takes one of its
  writer: 503. Else a 250 would stand for copies that nobody counts on.

Bodies are gathered in memory up to a limit and checked there; larger ones go to the file as they come, and are
checked from the file before they are made durable, so memory is flat.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

from mailarray.journal.format import (
    BATCH_HEADER_LENGTH,
    SEGMENT_MAGIC,
    FormatError,
    SegmentHeader,
    bodies_length,
    check_bodies,
    decode_batch_header,
    decode_segment_header,
)
from mailarray.journal.member import BrokenError, ConflictError, FencedError, GapError, Member
from mailarray.journal.scan import check_batch, read_batch, read_segment_header
from mailarray.model.ids import SegmentId, VolumeId
from mailarray.tracking import metrics
from mailarray.tracking.shelf import Holding, Shelf

log = logging.getLogger(__name__)

MEMORY_LIMIT = 4 * 1024 * 1024  # bytes of one PUT checked in memory
STREAM_PIECE = 1024 * 1024  # bytes of a larger PUT written at a time


@dataclass(frozen=True, slots=True)
class Answer:
    """Status code and JSON fields of an answer."""

    status: int
    fields: dict[str, Any]


def refuse(status: int, error: str, **fields: Any) -> Answer:
    """An error whose `error` is a sentence."""
    return Answer(status, {"error": error, **fields})


class Stream(Protocol):
    """A long body, as asyncio's and aiohttp's stream readers give it."""

    async def read(self, n: int = -1, /) -> bytes:
        """Up to n bytes; none at the end."""
        ...


class _Unwanted(Exception):
    """A new segment that is taken from nobody, or not from its writer; the text says why."""


class Receiver:
    """Handles PUT; see the module."""

    def __init__(
        self,
        shelf: Shelf,
        reserve: int = 0,
        draining: Callable[[], bool] = lambda: False,
        lost: Callable[[], Collection[VolumeId]] = frozenset,
    ) -> None:
        self._shelf = shelf
        # Bytes. Writers stop at the reserve; what a segment under way brings meanwhile is taken down to half of it, and
        # deletions, which give room back, down to a quarter. The rest is for fences and the index.
        self._kept_free = reserve // 2
        self._kept_free_by_deletions = reserve // 4
        self._draining = draining
        self._lost = lost
        self.last_words: dict[bytes, float] = {}  # writer volume + incarnation -> monotonic time (rule 15)

    async def put(
        self, segment: SegmentId, offset: int, acknowledged: int, body: bytes | Stream, length: int
    ) -> Answer:
        """One PUT for a segment of this volume; a body over MEMORY_LIMIT is a stream."""
        if segment not in self._shelf.holdings and self._draining():
            return refuse(503, "draining")
        if segment not in self._shelf.holdings and self._shelf.volume.id in self._lost():
            return refuse(503, "this volume was declared lost")
        if segment in self._shelf.dropped:
            return refuse(423, "fenced: the segment was superseded, and dropped here", length=0)
        holding = self._shelf.mirrored(segment)
        if holding.own or holding.member is None:
            return refuse(409, "this volume is the segment's writer")
        member = holding.member
        async with holding.turn:
            try:
                if length == 0:
                    member.check_append(offset)
                    member.acknowledged = max(member.acknowledged, min(acknowledged, member.length))
                elif offset < member.length:
                    await self._compare(body, member, offset)
                else:
                    member.check_append(offset)
                    kept = self._kept_free_by_deletions if _holds_no_mail(body) else self._kept_free
                    if self._shelf.volume.free_bytes() - length < kept:
                        return refuse(507, "the volume is nearly full", length=member.length, full=True)
                    await self._append(body, holding, member, offset, length)
            except _Unwanted as error:
                return refuse(503, str(error))
            except FencedError:
                return refuse(423, "fenced", length=member.length)
            except GapError:
                return refuse(409, "the offset is past the durable length", length=member.length)
            except ConflictError:
                log.error("other bytes at an offset", extra={"segment": segment.hex(), "offset": offset})
                return refuse(409, "other bytes stand at this offset", length=member.length)
            except FormatError as error:
                log.error("bad batch refused", extra={"segment": segment.hex(), "reason": str(error)})
                return refuse(400, str(error), length=member.length)
            except ConnectionError as error:
                log.info("writer went away in a batch", extra={"segment": segment.hex()})
                return refuse(400, f"the body ended early: {error}", length=member.length)
            except (BrokenError, OSError) as error:
                log.error("mirror write failed", extra={"segment": segment.hex(), "reason": str(error)})
                return refuse(507, f"the volume failed: {error}", length=member.length)
            self._heard(holding)
            return Answer(200, {"length": member.length})

    def _heard(self, holding: Holding) -> None:
        holding.last_word = now = time.monotonic()
        if holding.header is not None:
            self.last_words[holding.header.writer + holding.header.incarnation] = now

    async def _compare(self, body: bytes | Stream, member: Member, offset: int) -> None:
        async for piece in _pieces(body):
            if offset + len(piece) > member.length or not member.same_bytes(offset, piece):
                raise ConflictError
            offset += len(piece)

    async def _append(self, body: bytes | Stream, holding: Holding, member: Member, offset: int, length: int) -> None:
        if isinstance(body, bytes):
            header, mark = check_frames(body, offset, member.header)
            self._check_member(holding, header)
            await self._shelf.run(lambda: _write_and_commit(member, header, body, offset, mark))
        else:
            position = offset
            async for piece in _pieces(body):
                await self._shelf.run(lambda piece=piece, at=position: member.write([piece], at))  # type: ignore[misc]
                position += len(piece)
            if position != offset + length:
                raise FormatError("the writer went away in the middle of a batch")
            header, mark = await self._shelf.run(lambda: _check_file(member, offset, position))
            self._check_member(holding, header)
            await self._shelf.run(lambda: member.commit(header, position, mark))
        if holding.header is None:
            holding.settled_epoch = -1  # a pass may have taken it for an empty fenced segment
        holding.header = header
        metrics.MIRRORED_BYTES.inc(length)

    def _check_member(self, holding: Holding, header: SegmentHeader) -> None:
        if header.segment != holding.segment or self._shelf.volume.id not in header.members[1:]:
            raise FormatError("this volume is not a mirror in the segment's replica set")
        if holding.header is None and header.writer in self._lost():
            raise _Unwanted("the writer's volume was declared lost")


def _holds_no_mail(body: bytes | Stream) -> bool:
    """Whether this is one batch of tombstones. Unchecked: it decides about room only."""
    if not isinstance(body, bytes):
        return False
    try:
        start = decode_segment_header(body).length if body.startswith(SEGMENT_MAGIC) else 0
    except FormatError:
        return False
    return len(body) >= start + BATCH_HEADER_LENGTH and bodies_length(body, start) == 0


async def _pieces(body: bytes | Stream) -> AsyncIterator[bytes]:
    if isinstance(body, bytes):
        yield body
        return
    while piece := await body.read(STREAM_PIECE):
        yield piece


def _write_and_commit(member: Member, header: SegmentHeader, data: bytes, offset: int, mark: int) -> None:
    member.write([data], offset)
    member.commit(header, offset + len(data), mark)


def check_frames(data: bytes, offset: int, known: SegmentHeader | None) -> tuple[SegmentHeader, int]:
    """Check whole batches that stand at `offset`; at 0 the segment header comes first. Raises FormatError.

    Answers the segment's header and the highest acknowledged mark.
    """
    position = 0
    header = known
    if offset == 0:
        header = decode_segment_header(data)
        position = header.length
    if header is None:
        raise FormatError("the segment's first bytes are missing")
    view = memoryview(data)
    mark = 0
    while position < len(data):
        batch = decode_batch_header(view[position : position + BATCH_HEADER_LENGTH], header.segment, offset + position)
        bodies = position + BATCH_HEADER_LENGTH + batch.metadata_length
        if bodies + batch.bodies_length > len(data):
            raise FormatError(f"the batch at {batch.offset} is cut off")
        end = bodies + batch.bodies_length
        check_bodies(view[position + BATCH_HEADER_LENGTH : bodies], view[bodies:end], batch)
        position = end
        mark = max(mark, batch.acknowledged)
    return header, mark


def _check_file(member: Member, offset: int, end: int) -> tuple[SegmentHeader, int]:
    header = member.header or read_segment_header(member.fd)
    position = offset or header.length
    mark = 0
    while position < end:
        batch = read_batch(member.fd, header.segment, position, end)
        check_batch(member.fd, batch)
        position = batch.header.end
        mark = max(mark, batch.header.acknowledged)
    return header, mark
