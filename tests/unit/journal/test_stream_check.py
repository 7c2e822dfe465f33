"""A segment that comes in pieces: good ones pass however they are cut, and no byte can be changed without a word."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailarray.journal.format import FormatError, encode_closing
from mailarray.journal.stream_check import StreamCheck
from mailarray.model.ids import new_message_id, new_segment_id
from tests.support.segments import Made, made, mail, tombstone


def example() -> Made:
    """All kinds of entries, empty bodies and an empty batch."""
    segment = made()
    one = mail(b"one" * 50)
    segment.add([one, mail(b""), mail(b"three")])
    segment.add([], [tombstone(one)])
    segment.add([])
    segment.add([mail(b"")])
    segment.add([mail(b"x" * 300)], [tombstone(one)])
    segment.add(extra=encode_closing(new_message_id(), 1, [new_segment_id()]), extra_entries=1)
    return segment


def fed(check: StreamCheck, data: bytes, *cuts: int) -> StreamCheck:
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        check.feed(memoryview(data)[start:end])
    return check


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2000), max_size=12))
def test_a_good_segment_passes_however_it_is_cut(cuts: list[int]) -> None:
    segment = example()
    check = fed(StreamCheck(segment.header.segment), segment.data, *sorted(min(c, len(segment.data)) for c in cuts))
    assert check.header == segment.header
    assert check.length == check.position == len(segment.data)


def test_byte_by_byte_the_length_is_that_of_the_last_whole_batch() -> None:
    segment = example()
    check = StreamCheck(segment.header.segment)
    ends = [segment.header.length, *(batch.end for batch in segment.batches)]
    for position in range(len(segment.data)):
        check.feed(memoryview(segment.data)[position : position + 1])
        assert check.position == position + 1
        assert check.length == max((end for end in ends if end <= position + 1), default=0)


@pytest.mark.parametrize("seed", range(5))
def test_no_byte_can_be_changed(seed: int) -> None:
    segment, dice = example(), random.Random(seed)
    for position in range(len(segment.data)):
        changed = bytearray(segment.data)
        changed[position] ^= 1 << dice.randrange(8)
        check = StreamCheck(segment.header.segment)
        try:
            fed(check, bytes(changed), dice.randrange(len(changed)))
        except FormatError:
            continue
        # A length that became longer waits for more: then it is the end that is missing.
        assert check.length < len(segment.data), f"byte {position} was changed, and nobody saw it"


def test_another_segment_is_refused() -> None:
    with pytest.raises(FormatError, match="another segment's"):
        fed(StreamCheck(new_segment_id()), example().data)
    with pytest.raises(FormatError, match="no segment"):
        fed(StreamCheck(new_segment_id()), b"\0" * 200)


def test_a_batch_of_another_place_is_refused() -> None:
    segment = example()
    again = segment.data[segment.batches[0].start : segment.batches[0].end]
    with pytest.raises(FormatError, match="another place"):
        fed(StreamCheck(segment.header.segment), segment.data + again)
