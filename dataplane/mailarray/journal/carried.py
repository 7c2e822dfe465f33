"""Records on their way from one segment into another, byte for byte but for the place of their bodies.

Invariants (rules 22 and 24):

- A record keeps its id, so the placements that it made keep theirs; fields of later versions are carried along.
- What this version does not know is not carried, and not left behind either: a segment with an unknown kind of record
  is not for compaction.

Used by compaction alone. Bytes in, records out; nothing here does input or output.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from mailarray.journal.format import (
    KIND_CLOSING,
    KIND_MESSAGE,
    KIND_TOMBSTONES,
    BatchHeader,
    FormatError,
    crc32c,
    entry_fields,
)

_OFFSET_AT = 32  # of the body offset in an entry
_U64 = struct.Struct(">Q")


class UnknownRecord(ValueError):
    """A kind of record that this version does not know: the segment stays as it is."""


class Carried(NamedTuple):
    """One record, as it stands in a segment."""

    kind: int
    id: bytes
    placements: int  # of a message: one for each mailbox; of a record of tombstones: how many those are
    raw: bytes  # the whole entry
    body_at: int  # offset of the body in the segment
    body_length: int
    body_crc: int

    def moved(self, body_offset: int) -> bytes:
        """The entry for a batch whose bodies have this one at `body_offset`."""
        if not self.body_length and self.kind != KIND_MESSAGE:
            return self.raw
        return self.raw[:_OFFSET_AT] + _U64.pack(body_offset) + self.raw[_OFFSET_AT + _U64.size :]


def carried(metadata: bytes, header: BatchHeader) -> Iterator[Carried]:
    """The records of a batch but closing ones. Raises UnknownRecord, FormatError when the metadata is damaged."""
    if len(metadata) != header.metadata_length or crc32c(metadata) != header.metadata_crc:
        raise FormatError(f"the metadata of the batch at {header.offset} is damaged")
    position = 0
    for _ in range(header.entries):
        length, kind, _flags, count, id, _at, offset, size, crc = entry_fields(metadata, position)
        raw = metadata[position : position + length]
        if len(raw) != length:
            raise FormatError(f"an entry of the batch at {header.offset} is cut off")
        if kind in (KIND_MESSAGE, KIND_TOMBSTONES):
            yield Carried(kind, id, count, raw, header.bodies_offset + offset, size, crc)
        elif kind != KIND_CLOSING:
            raise UnknownRecord(f"the batch at {header.offset} holds a record of kind {kind}, which is not known here")
        position += length
    if position != len(metadata):
        raise FormatError(f"the batch at {header.offset} has bytes that no entry names")
