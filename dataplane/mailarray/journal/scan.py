"""Reading a segment from the disk, and telling damage from a torn tail (rule 11).

Invariants:

- Damage is not a torn tail. A bad batch that is followed by a valid one, or that lies below the acknowledged mark,
  never shortens the length: it is reported, and mended from another member.
- Only past the mark is a torn tail cut, at the end of the last whole batch.
- A reader never fails on bad bytes: it says what it skipped and goes on behind it.

Memory is flat: bodies are checked in pieces. Nothing is written here; `member.py` acts on what is found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from mailarray.journal.format import (
    BATCH_HEADER_LENGTH,
    BATCH_MAGIC,
    MAX_SEGMENT_HEADER,
    BatchHeader,
    Entry,
    FormatError,
    MessageEntry,
    SegmentHeader,
    UnknownVersion,
    crc32c,
    decode_batch_header,
    decode_entries,
    decode_segment_header,
)
from mailarray.model.ids import SegmentId

CHUNK = 1024 * 1024  # bytes checked at a time


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it was read. Bodies lie in the file, from `header.bodies_offset` on."""

    header: BatchHeader
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes [start, end) of a segment that cannot be read, and why."""

    start: int
    end: int
    reason: str


@dataclass(slots=True)
class Survey:
    """What a scan found."""

    header: SegmentHeader | None = None
    length: int = 0  # durable length: the end of the last whole batch, or the acknowledged mark if that is higher
    acknowledged: int = 0  # highest mark seen in a batch
    file_length: int = 0
    batches: int = 0
    messages: int = 0
    damages: list[Damage] = field(default_factory=list)

    @property
    def torn(self) -> bool:
        """There are bytes past the length: a batch that was being written when the writer or the power went."""
        return self.file_length > self.length


def read_segment_header(fd: int) -> SegmentHeader:
    """The header of an open segment file. Raises FormatError."""
    return decode_segment_header(os.pread(fd, MAX_SEGMENT_HEADER, 0))


def read_batch(fd: int, segment: SegmentId, offset: int, limit: int) -> Batch:
    """The batch at `offset`, which must end at or before `limit`; its bodies are not checked. Raises FormatError."""
    header = decode_batch_header(os.pread(fd, BATCH_HEADER_LENGTH, offset), segment, offset)
    if header.end > limit:
        raise FormatError(f"the batch at {offset} is cut off")
    metadata = os.pread(fd, header.metadata_length, offset + BATCH_HEADER_LENGTH)
    return Batch(header, tuple(decode_entries(metadata, header)))


def read_batches(fd: int, header: SegmentHeader, start: int, limit: int) -> Iterator[Batch]:
    """The batches from `start` (a batch's offset, or 0) to `limit`. Raises FormatError at the first bad one."""
    position = start or header.length
    while position < limit:
        batch = read_batch(fd, header.segment, position, limit)
        yield batch
        position = batch.header.end


def read_frames(fd: int, segment: SegmentId, first_batch: int, limit: int) -> Iterator[tuple[BatchHeader, bytes]]:
    """Header and metadata of all batches up to `limit`, entries not taken apart. Raises FormatError at a bad one."""
    position = first_batch
    while position < limit:
        header = decode_batch_header(os.pread(fd, BATCH_HEADER_LENGTH, position), segment, position)
        if header.end > limit:
            raise FormatError(f"the batch at {position} is cut off")
        yield header, os.pread(fd, header.metadata_length, position + BATCH_HEADER_LENGTH)
        position = header.end


def body_is_whole(fd: int, batch: BatchHeader, entry: MessageEntry) -> bool:
    """Check one body's checksum, in pieces."""
    position = batch.bodies_offset + entry.body_offset
    left = entry.body_length
    crc = 0
    while left:
        chunk = os.pread(fd, min(CHUNK, left), position)
        if not chunk:
            return False
        crc = crc32c(chunk, crc)
        position += len(chunk)
        left -= len(chunk)
    return crc == entry.body_crc


def check_batch(fd: int, batch: Batch) -> None:
    """Check all bodies of a batch. Raises FormatError that names the first bad one."""
    for entry in batch.entries:
        if isinstance(entry, MessageEntry) and not body_is_whole(fd, batch.header, entry):
            raise FormatError(f"the body of message {entry.id.hex()} is damaged")


def find_batch(fd: int, segment: SegmentId, start: int, limit: int) -> int | None:
    """The offset of the next batch header of this segment at or after `start`, or None."""
    needle = BATCH_MAGIC + b"\0\0\0\0" + segment
    position = start
    while position < limit:
        window = os.pread(fd, min(CHUNK, limit - position), position)
        at = window.find(needle)
        if at >= 0:
            offset = position + at
            try:
                decode_batch_header(os.pread(fd, BATCH_HEADER_LENGTH, offset), segment, offset)
                return offset
            except FormatError:
                position = offset + 1
                continue
        if len(window) < len(needle):
            return None
        position += len(window) - len(needle) + 1
    return None


def survey(
    fd: int, segment: SegmentId, acknowledged: int = 0, sealed_length: int | None = None, whole: bool = True
) -> Survey:
    """`walk` for callers that only want the report."""
    report = Survey()
    for _ in walk(fd, segment, report, acknowledged, sealed_length, whole):
        pass
    return report


def walk(
    fd: int,
    segment: SegmentId,
    report: Survey,
    acknowledged: int = 0,
    sealed_length: int | None = None,
    whole: bool = True,
) -> Iterator[Batch]:
    """Read a whole segment, check every checksum, yield the good batches and fill in `report`.

    `acknowledged` is the highest mark known otherwise, `sealed_length` the L that the member remembers: below
    either there is no torn tail, only damage. Bytes past L are not looked at (rule 12). Not `whole`: this member never
    held all up to L, so a bad tail past the mark is what is left of an interrupted fill, and is fetched again.
    """
    report.file_length = os.fstat(fd).st_size
    limit = report.file_length if sealed_length is None else min(sealed_length, report.file_length)
    try:
        report.header = read_segment_header(fd)
        position = report.header.length
    except FormatError as error:
        if report.file_length == 0:
            return
        # The file's name says whose batches to look for: a bad header is no reason to answer for less than is here.
        following = _next_valid(fd, segment, 0, limit)
        known = max(acknowledged, sealed_length if sealed_length and whole else 0)
        if following is None and not known and not isinstance(error, UnknownVersion):
            return  # a first batch that was torn: the file holds nothing, and nobody was told of anything
        report.damages.append(Damage(0, following or report.file_length, str(error)))
        if following is None:
            return
        position = following
    report.acknowledged = acknowledged
    while position < limit:
        try:
            batch = read_batch(fd, segment, position, limit)
            check_batch(fd, batch)
        except FormatError as error:
            following = _next_valid(fd, segment, position, limit)
            if following is None:
                floor = min(report.acknowledged, report.file_length)
                if whole and sealed_length is not None and sealed_length <= report.file_length:
                    floor = sealed_length  # else the rest of a sealed segment is missing here, and fetched (rule 12)
                if position < floor:
                    report.damages.append(Damage(position, floor, str(error)))
                    report.length = floor
                return
            report.damages.append(Damage(position, following, str(error)))
            position = following
            continue
        report.batches += 1
        report.messages += sum(isinstance(entry, MessageEntry) for entry in batch.entries)
        report.acknowledged = max(report.acknowledged, batch.header.acknowledged)
        report.length = position = batch.header.end
        yield batch


def _next_valid(fd: int, segment: SegmentId, bad: int, limit: int) -> int | None:
    """The offset of the first whole, good batch behind a bad one; None when there is none, so it may be a torn tail."""
    position = bad + 1
    while (found := find_batch(fd, segment, position, limit)) is not None:
        try:
            check_batch(fd, read_batch(fd, segment, found, limit))
            return found
        except FormatError:
            position = found + 1
    return None
