"""A message on its way from the server that received it to the one that is to keep it: the body of a PUT.

It is a batch of one record, exactly as `docs/formats/journal.md` describes it, with offset 0 and the message id in the
place of the segment id: so every byte is under a checksum, and a record that went astray is known as such.
"""

from __future__ import annotations

from mailarray.journal.format import (
    BATCH_HEADER_LENGTH,
    BatchHeader,
    FormatError,
    MessageEntry,
    crc32c,
    decode_batch_header,
    decode_entries,
    encode_message,
)
from mailarray.model.ids import MessageId, SegmentId
from mailarray.model.message import Identity, IncomingMessage

HEAD_LENGTH = BATCH_HEADER_LENGTH
MAX_METADATA = 8 * 1024 * 1024  # bytes of envelope, as in a batch of the writer


def encode_frame(message: IncomingMessage, identity: Identity) -> bytes:
    """All that comes before the body."""
    body = message.body
    id, at = identity
    metadata = encode_message(
        id, at, message.sender, message.deliveries, 0, body.length, body.checksum, message.fingerprint
    )
    return BatchHeader(SegmentId(id), 0, 0, 1, len(metadata), body.length, crc32c(metadata)).encode() + metadata


def decode_head(data: bytes, id: MessageId) -> BatchHeader:
    """From the first HEAD_LENGTH bytes. Raises FormatError."""
    head = decode_batch_header(data, SegmentId(id), 0)
    if head.entries != 1:
        raise FormatError(f"one record is expected, not {head.entries}")
    if head.metadata_length > MAX_METADATA:
        raise FormatError(f"an envelope of {head.metadata_length} bytes is longer than {MAX_METADATA}")
    return head


def decode_record(head: BatchHeader, metadata: bytes, id: MessageId) -> MessageEntry:
    """From the metadata that follows the head. Raises FormatError."""
    (entry,) = decode_entries(metadata, head)
    if not isinstance(entry, MessageEntry) or entry.id != id:
        raise FormatError("the record is not the message that was announced")
    return entry
