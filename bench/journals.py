"""Journals full of messages, written by the production journal code, without a mail server around.

Two members of one replica set get the same bytes, as a writer and its mirror have them. Bodies are tiny: a
rebuild reads them as well, but it is the records that it is measured by.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench.addresses import SENDER, mailbox
from mailarray.journal.disk import Disk
from mailarray.journal.format import BatchHeader, SegmentHeader, crc32c, encode_message
from mailarray.journal.member import Member
from mailarray.journal.volume import Volume, open_volume
from mailarray.model.ids import ID_LENGTH, IncarnationId, new_incarnation_id, new_message_id, new_segment_id

_SEGMENT_MESSAGES = 50_000
_BATCH_MESSAGES = 50
_BODY = 200  # bytes


def write(volumes: list[Path], messages: int) -> None:
    """Append so many messages to new segments whose replica set is these volumes; the first one is the writer's."""
    members = [open_volume(path, Disk()) for path in volumes]
    incarnation = new_incarnation_id()
    for begin in range(0, messages, _SEGMENT_MESSAGES):
        _write_segment(members, incarnation, begin, min(_SEGMENT_MESSAGES, messages - begin))


def _write_segment(volumes: list[Volume], incarnation: IncarnationId, first: int, messages: int) -> None:
    header = SegmentHeader(
        segment=new_segment_id(),
        writer=volumes[0].id,
        incarnation=incarnation,
        worker=0,
        created_at=time.time_ns() // 1000,
        copies=len(volumes),
        members=tuple(volume.id for volume in volumes),
    )
    stream = bytearray(header.encode())
    for begin in range(0, messages, _BATCH_MESSAGES):
        _add_batch(stream, header, first + begin, min(_BATCH_MESSAGES, messages - begin))
    for index, volume in enumerate(volumes):
        member = Member(volume, header.segment, own=index == 0)
        member.append(header, [bytes(stream)], 0, len(stream), len(stream))
        member.close()


def _add_batch(stream: bytearray, header: SegmentHeader, first: int, messages: int) -> None:
    entries: list[bytes] = []
    bodies: list[bytes] = []
    offset = 0
    now = time.time_ns() // 1000
    for number in range(first, first + messages):
        body = b"Subject: benchmark\r\n\r\n" + os.urandom(_BODY // 2 - ID_LENGTH).hex().encode() + b"\r\n"
        box = mailbox(number + 1)
        entries.append(encode_message(new_message_id(), now, SENDER, [(box, box)], offset, len(body), crc32c(body)))
        bodies.append(body)
        offset += len(body)
    metadata, text = b"".join(entries), b"".join(bodies)
    batch = BatchHeader(
        segment=header.segment,
        offset=len(stream),
        acknowledged=len(stream),
        entries=messages,
        metadata_length=len(metadata),
        bodies_length=len(text),
        metadata_crc=crc32c(metadata),
    )
    stream += batch.encode() + metadata + text
