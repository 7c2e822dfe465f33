"""Fuzz target: no bytes make the journal's decoders raise anything but FormatError, or give out more than there is.

`one_input` is run by hypothesis in the suite, and by atheris: `python -m tests.fuzz.fuzz_journal`.
"""

from __future__ import annotations

import contextlib
import os
import sys

from mailarray.journal.format import (
    BATCH_MAGIC,
    BatchHeader,
    FormatError,
    MessageEntry,
    SegmentHeader,
    crc32c,
    decode_batch_header,
    decode_entries,
    decode_segment_header,
)
from mailarray.journal.scan import survey
from mailarray.model.ids import IncarnationId, SegmentId, VolumeId
from mailarray.tracking.receiving import check_frames

SEGMENT = SegmentId(b"segment of fuzz.")
_HEADER = SegmentHeader(
    SEGMENT, VolumeId(b"volume of writer"), IncarnationId(bytes(16)), 0, 0, 2, (VolumeId(b"volume of writer"),)
)


def one_input(data: bytes) -> None:
    """The bytes as a segment, as a batch, as the metadata of a batch whose checksum is right, and as a file."""
    with contextlib.suppress(FormatError):
        decode_segment_header(data)
    for raw in (data, BATCH_MAGIC + b"\0\0\0\0" + SEGMENT + data):
        with contextlib.suppress(FormatError):
            decode_batch_header(raw, SEGMENT, 0)
        with contextlib.suppress(FormatError):
            check_frames(raw, 0, None)
    if len(data) > 2:
        metadata = data[2:]
        header = BatchHeader(SEGMENT, _HEADER.length, 0, data[0], len(metadata), data[1], crc32c(metadata))
        try:
            for entry in decode_entries(metadata, header):
                if isinstance(entry, MessageEntry):
                    assert entry.body_offset + entry.body_length <= header.bodies_length
        except FormatError:
            pass
        _as_file(_HEADER.encode() + header.encode() + metadata + bytes(data[1]))
    _as_file(data)


def _as_file(data: bytes) -> None:
    fd = os.memfd_create("fuzz")
    try:
        os.write(fd, data)
        found = survey(fd, SEGMENT)
        assert found.length <= found.file_length == len(data)
    finally:
        os.close(fd)


def main() -> None:
    """Run under atheris."""
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
