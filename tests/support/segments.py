"""Segments made in memory, batch by batch, for tests that need bytes and an oracle for them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mailarray.journal.disk import Disk
from mailarray.journal.format import (
    BatchHeader,
    SegmentHeader,
    Tombstone,
    crc32c,
    encode_message,
    encode_tombstones,
)
from mailarray.journal.volume import Volume, open_volume
from mailarray.model.ids import (
    IncarnationId,
    MessageId,
    PlacementId,
    SegmentId,
    VolumeId,
    new_incarnation_id,
    new_message_id,
    new_segment_id,
    new_volume_id,
)


@dataclass(frozen=True)
class Mail:
    """One message as the oracle remembers it."""

    id: MessageId
    sender: str
    deliveries: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True)
class MadeBatch:
    """One batch: where it stands, and what is in it."""

    start: int  # of the batch; for the first one behind the segment header
    end: int
    mails: tuple[Mail, ...]
    tombstones: tuple[Tombstone, ...]


def mail(body: bytes = b"Subject: x\r\n\r\nhello\r\n", *mailboxes: str, sender: str = "s@out.example") -> Mail:
    boxes = mailboxes or ("anna@mail.example",)
    return Mail(new_message_id(), sender, tuple((box, box) for box in boxes), body)


@dataclass
class Made:
    """A segment that grows in memory."""

    header: SegmentHeader
    data: bytes = b""
    batches: list[MadeBatch] = field(default_factory=list)

    def add(
        self,
        mails: Sequence[Mail] = (),
        tombstones: Sequence[Tombstone] = (),
        acknowledged: int | None = None,
        extra: bytes = b"",
        extra_entries: int = 0,
    ) -> bytes:
        """Append a batch; answers the bytes that a writer would PUT (the segment header with the first one).

        `acknowledged` is by default all that came before, as the one-commit-at-a-time writer has it.
        """
        offset = len(self.data)
        prefix = b"" if self.data else self.header.encode()
        metadata, bodies, at = b"", b"", 0
        for m in mails:
            metadata += encode_message(
                m.id, 1_700_000_000_000_000, m.sender, m.deliveries, at, len(m.body), crc32c(m.body)
            )
            bodies += m.body
            at += len(m.body)
        if tombstones:
            metadata += encode_tombstones(new_message_id(), 1_700_000_000_000_001, tombstones)
        metadata += extra
        start = offset + len(prefix)
        frame = BatchHeader(
            self.header.segment,
            start,
            offset if acknowledged is None else acknowledged,
            len(mails) + bool(tombstones) + extra_entries,
            len(metadata),
            len(bodies),
            crc32c(metadata),
        )
        piece = prefix + frame.encode() + metadata + bodies
        self.data += piece
        self.batches.append(MadeBatch(start, len(self.data), tuple(mails), tuple(tombstones)))
        return piece


def made(writer: VolumeId | None = None, *mirrors: VolumeId, copies: int = 2, segment: SegmentId | None = None) -> Made:
    """A segment with no batch yet."""
    own = writer or new_volume_id()
    members = (own, *(mirrors or (new_volume_id(),)))
    incarnation: IncarnationId = new_incarnation_id()
    header = SegmentHeader(segment or new_segment_id(), own, incarnation, 0, 1_700_000_000_000_000, copies, members)
    return Made(header)


def tombstone(of: Mail, index: int = 0) -> Tombstone:
    return Tombstone(PlacementId(of.id, index), of.id, of.deliveries[index][0])


def volume(path: Path, disk: Disk | None = None) -> Volume:
    return open_volume(path, disk or Disk())


def put_file(where: Volume, segment: SegmentId, data: bytes) -> Path:
    """A segment's file, as if it had been written before."""
    path = where.segment_path(segment)
    path.write_bytes(data)
    return path


def random_body(length: int) -> bytes:
    return os.urandom(length)
