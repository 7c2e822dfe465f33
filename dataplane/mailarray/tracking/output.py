"""The file of one compacted segment, from its first record to its name.

    segments/ID.output     means nothing to anybody but this file; removed at a start

Invariants (rules 5, 22 to 24):

- What is written are records of the inputs, with their ids; each body is read with its checksum on the way, and all is
  read through once more from this disk before it gets a segment's name.
- The closing record is alone in the last batch, and the segment ends with it: no part of an output passes for one.
- The file is durable before it has the name of a segment; then L is remembered durably. A crash leaves an `.output`, or
  the whole segment: with its L, or unsealed and ending where L would be.

Blocking calls, one at a time, in the sidecar's threads; none after `close`, as in copying.py. Used by compacting.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from mailarray.journal.carried import Carried
from mailarray.journal.closing import read_closing
from mailarray.journal.disk import SyncPoint
from mailarray.journal.fence import Fence, save_fence
from mailarray.journal.format import (
    BATCH_HEADER_LENGTH,
    BatchHeader,
    FormatError,
    SegmentHeader,
    crc32c,
    encode_closing,
)
from mailarray.journal.scan import CHUNK, survey
from mailarray.journal.volume import Volume
from mailarray.model.ids import SegmentId, new_message_id

Source = tuple[Carried, int]  # a record, and a descriptor of the segment that it stands in


class Output:
    """See the module."""

    def __init__(self, volume: Volume, header: SegmentHeader) -> None:
        """Raises OSError."""
        self.header = header
        self.size = 0
        self.records = 0  # messages and records of tombstones
        self._volume = volume
        self._lock = threading.Lock()
        self._closed = False
        self._inputs: list[int] = []
        self._fd = volume.disk.create(volume.output_path(header.segment))

    def take_input(self, fd: int) -> int:
        """A descriptor of one's own, which stays readable when its segment is dropped meanwhile; closed with this."""
        own = os.dup(fd)
        self._inputs.append(own)
        return own

    def next_of(self, batches: Iterator[list[Source]]) -> list[Source]:
        """The next batch, read from the inputs; none at the end. Raises FormatError, UnknownRecord, OSError."""
        with self._open():
            return next(batches, [])

    def add(self, batch: Sequence[Source]) -> None:
        """One batch of records with their bodies. Raises FormatError when a body is damaged, OSError."""
        metadata, length = [], 0
        for record, _ in batch:
            metadata.append(record.moved(length))
            length += record.body_length
        with self._open():
            self._write_batch(len(batch), b"".join(metadata), length, _bodies(batch))
            self.records += len(batch)

    def end(self, supersedes: Sequence[SegmentId]) -> None:
        """The closing record. Raises OSError."""
        with self._open():
            closing = encode_closing(new_message_id(), time.time_ns() // 1000, supersedes)
            self._write_batch(1, closing, 0, ())

    def problem(self, supersedes: Sequence[SegmentId]) -> str | None:
        """Why this is not what it should be, or None. Every checksum is looked at. Raises OSError."""
        with self._open():
            found = survey(self._fd, self.header.segment, sealed_length=self.size)
            if found.damages:
                return found.damages[0].reason
            if found.header != self.header or found.length != self.size or found.file_length != self.size:
                return f"it holds {found.length} of {self.size} bytes"
            if read_closing(self._fd, self.header.segment, self.size) != tuple(supersedes):
                return "it does not end with its closing record"
        return None

    def finish(self, epoch: int) -> None:
        """Durable under the segment's name, and L remembered. Raises OSError."""
        volume, segment = self._volume, self.header.segment
        with self._open():
            volume.disk.sync(self._fd, SyncPoint.OUTPUT_FILE)
            volume.disk.rename(volume.output_path(segment), volume.segment_path(segment))
            # Its last step syncs the directory, and with it the name from the line before.
            save_fence(volume, segment, Fence(fenced=True, sealed_length=self.size, epoch=epoch, whole=True))

    def close(self) -> None:
        """Close all files, and remove what was not finished."""
        with self._lock:
            self._closed = True
            self._volume.disk.close(self._fd)
            for fd in self._inputs:
                os.close(fd)
            with contextlib.suppress(OSError):
                self._volume.disk.remove(self._volume.output_path(self.header.segment))

    def _write_batch(self, entries: int, metadata: bytes, bodies_length: int, bodies: Iterable[bytes]) -> None:
        prefix = self.header.encode() if self.size == 0 else b""
        start = self.size + len(prefix)
        frame = BatchHeader(
            self.header.segment, start, self.size, entries, len(metadata), bodies_length, crc32c(metadata)
        )
        position = self.size
        pending, size = [prefix + frame.encode(), metadata], len(prefix) + BATCH_HEADER_LENGTH + len(metadata)
        for piece in bodies:
            pending.append(piece)
            size += len(piece)
            if size >= CHUNK:
                self._volume.disk.write(self._fd, pending, position)
                position, pending, size = position + size, [], 0
        if pending:
            self._volume.disk.write(self._fd, pending, position)
        self.size = position + size

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, "the compaction was given up")
            yield


def _bodies(batch: Sequence[Source]) -> Iterator[bytes]:
    for record, fd in batch:
        left, position, checksum = record.body_length, record.body_at, 0
        while left:
            piece = os.pread(fd, min(CHUNK, left), position)
            if not piece:
                raise FormatError(f"the body of message {record.id.hex()} is cut off")
            checksum = crc32c(piece, checksum)
            left -= len(piece)
            position += len(piece)
            yield piece
        if checksum != record.body_crc:
            raise FormatError(f"the body of message {record.id.hex()} is damaged")
