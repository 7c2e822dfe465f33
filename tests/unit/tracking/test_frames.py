"""A PUT is taken only when it is whole, good batches of its segment that stand where it says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailarray.journal.format import FormatError
from mailarray.tracking.receiving import check_frames
from tests.support.segments import made, mail, tombstone


def test_first_and_later_batches() -> None:
    segment = made()
    one = mail(b"one")
    first = segment.add([one])
    second = segment.add([mail(b"two"), mail(b"")], [tombstone(one)])
    assert check_frames(first, 0, None) == (segment.header, 0)
    assert check_frames(second, len(first), segment.header) == (segment.header, len(first))
    assert check_frames(segment.data, 0, None) == (segment.header, len(first))  # as a fill fetches them
    with pytest.raises(FormatError, match="first bytes are missing"):
        check_frames(second, len(first), None)
    for offset in (len(first) - 1, len(first) + 1):
        with pytest.raises(FormatError, match="another place"):
            check_frames(second, offset, segment.header)
    with pytest.raises(FormatError, match="another place"):
        check_frames(second, len(first), made().header)


def test_every_cut_is_refused_but_the_ones_between_batches() -> None:
    segment = made()
    for body in (b"one", b"", b"three" * 20):
        segment.add([mail(body)])
    ends = {segment.header.length, *(batch.end for batch in segment.batches)}
    for cut in range(len(segment.data)):
        if cut in ends:
            check_frames(segment.data[:cut], 0, None)
        else:
            with pytest.raises(FormatError):
                check_frames(segment.data[:cut], 0, None)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_every_flipped_bit_is_refused(data: st.DataObject) -> None:
    segment = made()
    for body in (b"one", b"two" * 30):
        segment.add([mail(body)])
    raw = bytearray(segment.data)
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(FormatError):
        check_frames(bytes(raw), 0, None)
