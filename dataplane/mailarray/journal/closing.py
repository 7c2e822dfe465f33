"""The closing record of a compacted segment, found from the segment's end (rule 23).

Invariant: a closing record counts as one only when it is alone in the very last batch below L, whole and with the right
checksums. Anything else that looks like it is mail.

Read by the sidecar for every sealed segment at its start, so it takes two small reads. Writes nothing.
"""

from __future__ import annotations

import os

from mailarray.journal.format import CLOSING_LENGTH, ClosingEntry, FormatError, closing_batch_length, closing_count
from mailarray.journal.scan import read_batch
from mailarray.model.ids import SegmentId


def read_closing(fd: int, segment: SegmentId, sealed_length: int) -> tuple[SegmentId, ...]:
    """The segments that this one stands for; none for a segment that was not compacted, or not to its end. Blocking."""
    if sealed_length < closing_batch_length(1):
        return ()
    last = os.pread(fd, CLOSING_LENGTH, sealed_length - CLOSING_LENGTH)
    count = closing_count(last) if len(last) == CLOSING_LENGTH else None
    start = sealed_length - closing_batch_length(count or 0)
    if count is None or start <= 0:
        return ()
    try:
        batch = read_batch(fd, segment, start, sealed_length)
    except FormatError:
        return ()
    if len(batch.entries) != 1 or batch.header.entries != 1 or batch.header.end != sealed_length:
        return ()
    entry = batch.entries[0]
    return entry.supersedes if isinstance(entry, ClosingEntry) else ()
