"""The bytes of a segment, version 1. The specification is docs/formats/journal.md; this file obeys it.

    segment  = segment header, batch, batch, ...
    batch    = batch header, metadata, bodies
    metadata = entry, entry, ...          bodies = the entries' bodies, back to back

Invariants that this file keeps:

- Every byte of a segment is covered by exactly one CRC-32C: the segment header's, the batch header's, the
  metadata's, or a body's (which stands in its entry, so "header and body" of a record are both covered).
- A batch names its segment and its own offset under a checksum, so nothing that a sender writes in a mail can
  be taken for a batch, and a batch found after damage is known to stand where it was written.
- Unknown entry kinds and extension fields have lengths, so a reader skips what it does not know; a segment of
  an unknown version is refused with a sentence.

All numbers are unsigned and big-endian. Bytes in, records out; nothing here does input or output.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import crc32c as _crc32c

from mailarray.model.ids import ID_LENGTH, IncarnationId, MessageId, PlacementId, SegmentId, VolumeId
from mailarray.model.message import Delivery

crc32c = _crc32c.crc32c  # crc32c(data, crc=0): the Castagnoli polynomial, as in iSCSI and ext4

VERSION = 1
SEGMENT_MAGIC = b"MAILARR\x01"
BATCH_MAGIC = b"MBAT"
MAX_MEMBERS = 7
MAX_METADATA = 64 * 1024 * 1024  # bytes; a longer one is damage, and would let a bad length eat the memory
MAX_BODIES = 1 << 40  # bytes; likewise
MAX_SUPERSEDED = 65_535  # segments that one closing record names: a count of two bytes

_SEGMENT_HEADER = struct.Struct(">8sHHBBH16s16s16sQ")
_BATCH_HEADER = struct.Struct(">4sHH16sQQIIQI")
_CRC = struct.Struct(">I")
_ENTRY = struct.Struct(">IBBH16sQQQI")
_TOMBSTONE = struct.Struct(">16sH16s")
_CLOSING = struct.Struct(">I")
_U16 = struct.Struct(">H")
_FIELD = struct.Struct(">BB")  # tag, length

BATCH_HEADER_LENGTH = _BATCH_HEADER.size + _CRC.size
CLOSING_LENGTH = _CLOSING.size  # bytes at the end of a closing record
_ENTRY_FIXED = _ENTRY.size
_U64_MAX = (1 << 64) - 1

FIELD_FINGERPRINT = 1

KIND_MESSAGE = 1
KIND_TOMBSTONES = 2
KIND_CLOSING = 3  # the closing record of a compacted segment (rule 23)
KIND_PLACEMENTS = 4  # reserved: copies and moves of messages that stand elsewhere (rule 21)


class FormatError(ValueError):
    """Bytes that are not what the format says; the text is one sentence."""


class UnknownVersion(FormatError):
    """A segment of a version that this program cannot read."""


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The first bytes of a segment; written with the first batch, never changed (rules 1 and 2)."""

    segment: SegmentId
    writer: VolumeId
    incarnation: IncarnationId
    worker: int
    created_at: int  # microseconds since 1970, UTC
    copies: int  # wanted when the segment was opened
    members: tuple[VolumeId, ...]  # the replica set, the writer's own volume first

    def encode(self) -> bytes:
        """The header's bytes."""
        length = segment_header_length(len(self.members))
        head = _SEGMENT_HEADER.pack(
            SEGMENT_MAGIC,
            VERSION,
            length,
            self.copies,
            len(self.members),
            self.worker,
            self.segment,
            self.writer,
            self.incarnation,
            self.created_at,
        )
        body = head + b"".join(self.members)
        return body + _CRC.pack(crc32c(body))

    @property
    def length(self) -> int:
        """Bytes that the header takes; the first batch begins there."""
        return segment_header_length(len(self.members))


def segment_header_length(members: int) -> int:
    """Bytes of a segment header with that many members."""
    return _SEGMENT_HEADER.size + members * ID_LENGTH + _CRC.size


MAX_SEGMENT_HEADER = segment_header_length(MAX_MEMBERS)


def decode_segment_header(data: bytes) -> SegmentHeader:
    """Decode from the first bytes of a segment (at least MAX_SEGMENT_HEADER, or all there are). Raises FormatError."""
    if len(data) < _SEGMENT_HEADER.size:
        raise FormatError("the segment is shorter than its header")
    magic, version, length, copies, count, worker, segment, writer, incarnation, created = _SEGMENT_HEADER.unpack_from(
        data
    )
    if magic != SEGMENT_MAGIC:
        raise FormatError("the segment does not begin with the magic of a Mailarray segment")
    if version != VERSION:
        raise UnknownVersion(f"the segment has format version {version}; this program reads version {VERSION}")
    if not 1 <= count <= MAX_MEMBERS or length != segment_header_length(count) or len(data) < length:
        raise FormatError("the segment header's length does not fit its members")
    body = data[: length - _CRC.size]
    if _CRC.unpack_from(data, length - _CRC.size)[0] != crc32c(body):
        raise FormatError("the segment header's checksum is wrong")
    start = _SEGMENT_HEADER.size
    members = tuple(VolumeId(body[start + i * ID_LENGTH : start + (i + 1) * ID_LENGTH]) for i in range(count))
    return SegmentHeader(
        SegmentId(segment), VolumeId(writer), IncarnationId(incarnation), worker, created, copies, members
    )


@dataclass(frozen=True, slots=True)
class BatchHeader:
    """What precedes each batch: enough to skip it, and to know that it belongs where it stands."""

    segment: SegmentId
    offset: int  # of this header, in the segment
    acknowledged: int  # everything below was acknowledged when the batch was made (rule 1)
    entries: int
    metadata_length: int
    bodies_length: int
    metadata_crc: int

    def encode(self) -> bytes:
        """BATCH_HEADER_LENGTH bytes."""
        head = _BATCH_HEADER.pack(
            BATCH_MAGIC,
            0,
            0,
            self.segment,
            self.offset,
            self.acknowledged,
            self.entries,
            self.metadata_length,
            self.bodies_length,
            self.metadata_crc,
        )
        return head + _CRC.pack(crc32c(head))

    @property
    def bodies_offset(self) -> int:
        """Offset in the segment of the first body."""
        return self.offset + BATCH_HEADER_LENGTH + self.metadata_length

    @property
    def end(self) -> int:
        """Offset in the segment just past the batch."""
        return self.bodies_offset + self.bodies_length


def bodies_length(data: bytes, position: int) -> int:
    """What a batch header at `position` says of its bodies, unchecked."""
    return int(_BATCH_HEADER.unpack_from(data, position)[8])


def decode_batch_header(data: bytes | memoryview, segment: SegmentId, offset: int) -> BatchHeader:
    """Decode BATCH_HEADER_LENGTH bytes that stand at `offset` of `segment`. Raises FormatError."""
    if len(data) < BATCH_HEADER_LENGTH:
        raise FormatError(f"the batch at {offset} is cut off in its header")
    magic, _version, _flags, of, at, acknowledged, entries, metadata_length, bodies_length, crc = (
        _BATCH_HEADER.unpack_from(data)
    )
    if magic != BATCH_MAGIC:
        raise FormatError(f"there is no batch at {offset}")
    if _CRC.unpack_from(data, _BATCH_HEADER.size)[0] != crc32c(data[: _BATCH_HEADER.size]):
        raise FormatError(f"the checksum of the batch header at {offset} is wrong")
    if of != segment or at != offset:
        raise FormatError(f"the batch at {offset} belongs to another place")
    if metadata_length > MAX_METADATA or bodies_length > MAX_BODIES:
        raise FormatError(f"the batch at {offset} has an impossible length")
    return BatchHeader(SegmentId(of), at, acknowledged, entries, metadata_length, bodies_length, crc)


class MessageEntry(NamedTuple):
    """A message record's metadata. `body_offset` counts from the start of the batch's bodies."""

    id: MessageId
    received_at: int  # microseconds since 1970, UTC
    sender: str
    deliveries: tuple[Delivery, ...]
    body_offset: int
    body_length: int
    body_crc: int
    fingerprint: bytes = b""  # of the text below our trace lines; empty when there is none


class Tombstone(NamedTuple):
    """The expunge of one placement (rule 21)."""

    placement: PlacementId
    message: MessageId
    mailbox: str


class TombstonesEntry(NamedTuple):
    """A record of tombstones: one POP3 QUIT, or a part of it."""

    id: MessageId
    received_at: int
    tombstones: tuple[Tombstone, ...]


class ClosingEntry(NamedTuple):
    """The last record of a compacted segment: which segments it stands for (rule 23)."""

    id: MessageId
    received_at: int
    supersedes: tuple[SegmentId, ...]


Entry = MessageEntry | TombstonesEntry | ClosingEntry


def encode_message(
    id: MessageId,
    received_at: int,
    sender: str,
    deliveries: Sequence[tuple[str, str]],
    body_offset: int,
    body_length: int,
    body_crc: int,
    fingerprint: bytes = b"",
) -> bytes:
    """One message's entry. A recipient equal to its mailbox is stored as an empty string."""
    name = sender.encode("utf-8", "surrogateescape")
    parts = [_U16.pack(len(name)), name]
    for mailbox, recipient in deliveries:
        box = mailbox.encode("utf-8", "surrogateescape")
        if recipient == mailbox:
            parts.append(_U16.pack(len(box)) + box + b"\0\0")
        else:
            path = recipient.encode("utf-8", "surrogateescape")
            parts.append(_U16.pack(len(box)) + box + _U16.pack(len(path)) + path)
    if fingerprint:
        parts.append(_FIELD.pack(FIELD_FINGERPRINT, len(fingerprint)) + fingerprint)
    tail = b"".join(parts)
    return (
        _ENTRY.pack(
            _ENTRY_FIXED + len(tail),
            KIND_MESSAGE,
            0,
            len(deliveries),
            id,
            received_at,
            body_offset,
            body_length,
            body_crc,
        )
        + tail
    )


def encode_tombstones(id: MessageId, received_at: int, tombstones: Sequence[Tombstone]) -> bytes:
    """One entry for up to 65,535 tombstones; it has no body."""
    parts = []
    for placement, message, mailbox in tombstones:
        box = mailbox.encode("utf-8", "surrogateescape")
        parts.append(_TOMBSTONE.pack(placement.record, placement.index, message) + _U16.pack(len(box)) + box)
    tail = b"".join(parts)
    head = _ENTRY.pack(_ENTRY_FIXED + len(tail), KIND_TOMBSTONES, 0, len(tombstones), id, received_at, 0, 0, 0)
    return head + tail


def encode_closing(id: MessageId, received_at: int, supersedes: Sequence[SegmentId]) -> bytes:
    """The closing record, for a batch of its own; its last bytes say how long that batch is."""
    tail = b"".join(supersedes) + _CLOSING.pack(closing_batch_length(len(supersedes)))
    head = _ENTRY.pack(_ENTRY_FIXED + len(tail), KIND_CLOSING, 0, len(supersedes), id, received_at, 0, 0, 0)
    return head + tail


def closing_batch_length(count: int) -> int:
    """Bytes of the batch with a closing record that names so many segments."""
    return BATCH_HEADER_LENGTH + _ENTRY_FIXED + count * ID_LENGTH + _CLOSING.size


def closing_count(last: bytes) -> int | None:
    """How many segments a closing record names, by the last bytes of its segment; None when they are none's."""
    rest = _CLOSING.unpack(last)[0] - closing_batch_length(0)
    return rest // ID_LENGTH if 0 < rest <= MAX_SUPERSEDED * ID_LENGTH and rest % ID_LENGTH == 0 else None


def decode_entries(metadata: bytes, header: BatchHeader) -> Iterator[Entry]:
    """The entries of a batch whose metadata was read. Raises FormatError when they do not fit; checks the checksum."""
    if len(metadata) != header.metadata_length or crc32c(metadata) != header.metadata_crc:
        raise FormatError(f"the metadata of the batch at {header.offset} is damaged")
    position = 0
    body_end = 0
    try:
        for _ in range(header.entries):
            length, kind, _flags, count, id, received_at, body_offset, body_length, body_crc = _ENTRY.unpack_from(
                metadata, position
            )
            end = position + length
            if length < _ENTRY_FIXED or end > len(metadata):
                raise FormatError(f"an entry of the batch at {header.offset} has a wrong length")
            if kind == KIND_MESSAGE:
                if body_offset != body_end or body_offset + body_length > header.bodies_length:
                    raise FormatError(f"a body of the batch at {header.offset} lies outside of it")
                body_end = body_offset + body_length
                yield _message(
                    metadata, position + _ENTRY_FIXED, end, count, id, received_at, body_offset, body_length, body_crc
                )
            elif kind == KIND_TOMBSTONES:
                tombstones = _tombstones(metadata, position + _ENTRY_FIXED, end, count)
                yield TombstonesEntry(MessageId(id), received_at, tombstones)
            elif kind == KIND_CLOSING:
                start = position + _ENTRY_FIXED
                if start + count * ID_LENGTH > end:
                    raise FormatError("a closing record reaches past its entry")
                named = (metadata[start + i * ID_LENGTH : start + (i + 1) * ID_LENGTH] for i in range(count))
                yield ClosingEntry(MessageId(id), received_at, tuple(map(SegmentId, named)))
            else:
                body_end = max(body_end, body_offset + body_length)
            position = end
    except (struct.error, IndexError) as error:
        raise FormatError(f"an entry of the batch at {header.offset} is cut off") from error
    if position != len(metadata) or body_end != header.bodies_length:
        raise FormatError(f"the batch at {header.offset} has bytes that no entry names")


def entry_fields(metadata: bytes, position: int) -> tuple[int, int, int, int, bytes, int, int, int, int]:
    """The fixed fields of the entry there, in their order: length, kind, flags, count, id, time, and of its body the
    offset, length and checksum. Raises FormatError."""
    try:
        fields = _ENTRY.unpack_from(metadata, position)
    except struct.error as error:
        raise FormatError("an entry is cut off") from error
    if fields[0] < _ENTRY_FIXED:
        raise FormatError("an entry has a wrong length")
    return fields


def check_bodies(metadata: bytes | memoryview, bodies: memoryview, header: BatchHeader) -> None:
    """Check a batch that is whole in memory, without taking its entries apart. Raises FormatError.

    For mirrors: every message passes here once, so it costs a microsecond, where `decode_entries` costs seven.
    """
    end = 0
    for size, crc, id in list_bodies(metadata, header):
        start, end = end, end + size
        if crc32c(bodies[start:end]) != crc:
            raise FormatError(f"the body of message {id.hex()} is damaged")
    if end != len(bodies):
        raise FormatError(f"the batch at {header.offset} has bytes that no entry names")


def list_bodies(metadata: bytes | memoryview, header: BatchHeader) -> list[tuple[int, int, bytes]]:
    """Of each entry that has a body, in their order: the body's length, its checksum and the entry's id. The bodies
    fill what the header says, without a gap; entries are not taken apart further. Raises FormatError."""
    if len(metadata) != header.metadata_length or crc32c(metadata) != header.metadata_crc:
        raise FormatError(f"the metadata of the batch at {header.offset} is damaged")
    found = []
    position = end = 0
    for _ in range(header.entries):
        if position + _ENTRY_FIXED > len(metadata):
            raise FormatError(f"an entry of the batch at {header.offset} is cut off")
        length, _kind, _flags, _count, id, _at, offset, size, crc = _ENTRY.unpack_from(metadata, position)
        if length < _ENTRY_FIXED or (size and offset != end):
            raise FormatError(f"an entry of the batch at {header.offset} has a wrong length")
        if size:
            end = offset + size
            found.append((size, crc, id))
        position += length
    if position != len(metadata) or end != header.bodies_length:
        raise FormatError(f"the batch at {header.offset} has bytes that no entry names")
    return found


def _message(
    metadata: bytes,
    position: int,
    end: int,
    count: int,
    id: bytes,
    received_at: int,
    body_offset: int,
    body_length: int,
    body_crc: int,
) -> MessageEntry:
    sender, position = _text(metadata, position)
    deliveries = []
    for _ in range(count):
        mailbox, position = _text(metadata, position)
        recipient, position = _text(metadata, position)
        deliveries.append(Delivery(mailbox, recipient or mailbox))
    if position > end:
        raise FormatError("a text reaches past its entry")
    fingerprint = _field(metadata, position, end, FIELD_FINGERPRINT) if position < end else b""
    return MessageEntry(
        MessageId(id), received_at, sender, tuple(deliveries), body_offset, body_length, body_crc, fingerprint
    )


def _field(metadata: bytes, position: int, end: int, wanted: int) -> bytes:
    """A further field of an entry; empty when it is not there. What does not look like fields is skipped."""
    while position + _FIELD.size <= end:
        tag, length = _FIELD.unpack_from(metadata, position)
        position += _FIELD.size
        if position + length > end:
            break
        if tag == wanted:
            return metadata[position : position + length]
        position += length
    return b""


def _tombstones(metadata: bytes, position: int, end: int, count: int) -> tuple[Tombstone, ...]:
    found = []
    for _ in range(count):
        record, index, message = _TOMBSTONE.unpack_from(metadata, position)
        mailbox, position = _text(metadata, position + _TOMBSTONE.size)
        found.append(Tombstone(PlacementId(record, index), MessageId(message), mailbox))
    if position > end:
        raise FormatError("a text reaches past its entry")
    return tuple(found)


def _text(metadata: bytes, position: int) -> tuple[str, int]:
    start = position + 2
    end = start + (metadata[position] << 8 | metadata[position + 1])
    return metadata[start:end].decode("utf-8", "surrogateescape"), end
