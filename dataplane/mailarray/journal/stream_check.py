"""Checking a segment while its bytes come in, in order, before they are written: the bytes are still in the
processor's cache, and nothing has to be read again.

Invariant: everything below `length` is whole good batches of exactly this segment: each byte was covered by its
checksum (docs/formats/journal.md). What comes behind is the begin of a batch of which more is wanted.

Looks at what mirrors look at, too (`format.list_bodies`): the entries' texts are not taken apart. Refuses, for good, at
the first byte that does not fit; a reader that goes on behind damage is `scan.walk`. No input or output. Used by copies
of whole segments (tracking/part.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mailarray.journal.format import (
    BATCH_HEADER_LENGTH,
    MAX_SEGMENT_HEADER,
    FormatError,
    SegmentHeader,
    crc32c,
    decode_batch_header,
    decode_segment_header,
    list_bodies,
)
from mailarray.model.ids import SegmentId

_HEADER_LENGTH = slice(10, 12)  # where the segment header says how long it is
_FIRST_BYTES = 12


class StreamCheck:
    """See the module."""

    def __init__(self, segment: SegmentId) -> None:
        self.segment = segment
        self.header: SegmentHeader | None = None
        self.position = 0  # bytes seen
        self.length = 0  # end of the last whole batch, or of the header
        self._head = bytearray()  # of what has to be whole before it can be looked at: headers, metadata
        self._wanted = _FIRST_BYTES
        self._then: Callable[[bytes], None] = self._first_bytes
        self._bodies: Iterator[tuple[int, int, bytes]] = iter(())
        self._batch_end = 0
        self._body_left = 0
        self._body_crc = self._expected_crc = 0
        self._body_id = b""

    def feed(self, data: memoryview) -> None:
        """The next bytes. Raises FormatError; after that, nothing more may come."""
        at, end = 0, len(data)
        while at < end:
            if self._body_left:
                stop = min(end, at + self._body_left)
                self._body_crc = crc32c(data[at:stop], self._body_crc)
                self._body_left -= stop - at
                if not self._body_left:
                    self._body_ends()
            else:
                stop = min(end, at + self._wanted - len(self._head))
                self._head += data[at:stop]
                while len(self._head) == self._wanted and not self._body_left:  # metadata may be of no length
                    head, self._head = bytes(self._head), bytearray()
                    self._then(head)
            at = stop
        self.position += end

    def _expect(self, count: int, then: Callable[[bytes], None]) -> None:
        self._wanted, self._then = count, then

    def _first_bytes(self, head: bytes) -> None:
        length = int.from_bytes(head[_HEADER_LENGTH], "big")
        if not _FIRST_BYTES < length <= MAX_SEGMENT_HEADER:
            raise FormatError("this is no segment, or its header is damaged")
        self._expect(length - _FIRST_BYTES, lambda rest: self._segment_header(head + rest))

    def _segment_header(self, head: bytes) -> None:
        header = decode_segment_header(head)
        if header.segment != self.segment:
            raise FormatError("its header is another segment's")
        self.header, self.length = header, header.length
        self._expect(BATCH_HEADER_LENGTH, self._batch_header)

    def _batch_header(self, head: bytes) -> None:
        batch = decode_batch_header(head, self.segment, self.length)

        def metadata(data: bytes) -> None:
            self._bodies, self._batch_end = iter(list_bodies(data, batch)), batch.end
            self._next_body()

        self._expect(batch.metadata_length, metadata)

    def _next_body(self) -> None:
        self._body_crc = 0
        self._body_left, self._expected_crc, self._body_id = next(self._bodies, (0, 0, b""))
        if not self._body_left:
            self.length = self._batch_end
            self._expect(BATCH_HEADER_LENGTH, self._batch_header)

    def _body_ends(self) -> None:
        if self._body_crc != self._expected_crc:
            raise FormatError(f"the body of message {self._body_id.hex()} is damaged")
        self._next_body()
