"""Identifiers. All are 16 bytes, written as 32 hexadecimal digits wherever a person or HTTP sees them.

Message and segment ids begin with the milliseconds since 1970, so that database indexes grow at one end;
the rest is random. Nothing may read the time back out of an id: clocks jump.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import NewType

MessageId = NewType("MessageId", bytes)  # one accepted message; also a tombstone record's own id
SegmentId = NewType("SegmentId", bytes)
VolumeId = NewType("VolumeId", bytes)  # one directory, from its first use; a wiped volume is a new one
IncarnationId = NewType("IncarnationId", bytes)  # one run of a writer process

ID_LENGTH = 16
MAX_INDEX = 65_535  # the journal writes a placement's index in two bytes
_RANDOM_BYTES = 10
_POOL_BYTES = 4000


class _Pool:
    """Random bytes of the kernel, fetched by the page: a system call for each message would be a tenth of its journal.

    Not for use across a fork: no process of the array forks after it began to make ids.
    """

    def __init__(self) -> None:
        self._bytes = b""
        self._position = 0

    def take(self) -> bytes:
        """_RANDOM_BYTES that nobody else gets."""
        start = self._position
        if start + _RANDOM_BYTES > len(self._bytes):
            self._bytes, start = os.urandom(_POOL_BYTES), 0
        self._position = start + _RANDOM_BYTES
        return self._bytes[start : self._position]


_pool = _Pool()


def _timed() -> bytes:
    return (time.time_ns() // 1_000_000).to_bytes(6, "big") + _pool.take()


def new_message_id() -> MessageId:
    """An id for ever unique."""
    return MessageId(_timed())


def new_segment_id() -> SegmentId:
    """An id for ever unique."""
    return SegmentId(_timed())


def new_segment_id_beside(segment: SegmentId) -> SegmentId:
    """An id for ever unique, near that one in order: what a compacted segment holds is as old as its first input."""
    return SegmentId(segment[: ID_LENGTH - _RANDOM_BYTES] + _pool.take())


def new_volume_id() -> VolumeId:
    """An id for ever unique."""
    return VolumeId(os.urandom(ID_LENGTH))


def new_incarnation_id() -> IncarnationId:
    """An id for ever unique."""
    return IncarnationId(os.urandom(ID_LENGTH))


@dataclass(frozen=True, slots=True, order=True)
class PlacementId:
    """A message in one mailbox: the id of the journalled record that made it, and the mailbox's index in it.

    No rebuild changes it, so it is POP3's UIDL (RFC 1939 section 7: 1 to 70 printable characters).
    """

    record: bytes
    index: int

    def __str__(self) -> str:
        return f"{self.record.hex()}.{self.index}"

    @classmethod
    def parse(cls, text: str) -> PlacementId:
        """Parse `str(placement)`. Raises ValueError."""
        record, _, index = text.partition(".")
        raw = bytes.fromhex(record)
        if len(raw) != ID_LENGTH or not 0 <= int(index) <= MAX_INDEX:
            raise ValueError(f"{text!r} is not a placement id")
        return cls(raw, int(index))


def parse_id(text: str) -> bytes:
    """Parse 32 hexadecimal digits. Raises ValueError with a sentence."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != ID_LENGTH:
        raise ValueError(f"{text!r} is not an id of 32 hexadecimal digits")
    return raw
