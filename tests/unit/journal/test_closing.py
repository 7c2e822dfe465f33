"""The closing record, found from the end; and records carried into another segment, read by a second reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailarray.journal.carried import UnknownRecord, carried
from mailarray.journal.closing import read_closing
from mailarray.journal.disk import Disk
from mailarray.journal.format import FormatError, SegmentHeader, encode_closing
from mailarray.journal.scan import read_frames, survey
from mailarray.journal.volume import Volume
from mailarray.model.ids import SegmentId, new_incarnation_id, new_message_id, new_segment_id, new_volume_id
from mailarray.tracking.output import Output, Source
from tests.support.segments import Made, made, mail, put_file, random_body, tombstone, volume
from tests.unit.journal import independent_reader


def closed(segment: Made, *named: SegmentId) -> Made:
    segment.add(extra=encode_closing(new_message_id(), 1, named), extra_entries=1)
    return segment


def closing_of(where: Volume, segment: Made, length: int | None = None) -> tuple[SegmentId, ...]:
    path = put_file(where, segment.header.segment, segment.data)
    with path.open("rb") as file:
        return read_closing(file.fileno(), segment.header.segment, length or len(segment.data))


@pytest.mark.parametrize("count", [1, 2, 300])
def test_it_is_found_from_the_end(count: int, tmp_path: Path) -> None:
    named = [new_segment_id() for _ in range(count)]
    segment = made()
    segment.add([mail()])
    where = volume(tmp_path)
    assert closing_of(where, segment) == ()
    before = len(segment.data)
    assert closing_of(where, closed(segment, *named)) == tuple(named)
    assert closing_of(where, segment, before) == ()  # L below it: it does not count
    segment.add([mail()])
    assert closing_of(where, segment) == ()  # not the last one


def test_mail_is_not_taken_for_one(tmp_path: Path) -> None:
    where = volume(tmp_path)
    pretender = closed(made(), new_segment_id())
    segment = made()
    segment.add([mail(pretender.data)])  # a body that ends like a compacted segment
    assert closing_of(where, segment) == ()
    segment = closed(made(), new_segment_id())
    damaged = bytearray(segment.data)
    damaged[-10] ^= 1
    segment.data = bytes(damaged)
    assert closing_of(where, segment) == ()
    segment = made()
    segment.add([mail()], extra=encode_closing(new_message_id(), 1, [new_segment_id()]), extra_entries=1)
    assert closing_of(where, segment) == ()  # not alone in its batch


def sources(where: Volume, output: Output, segment: Made) -> list[Source]:
    path = put_file(where, segment.header.segment, segment.data)
    with path.open("rb") as file:
        fd = output.take_input(file.fileno())
    frames = read_frames(fd, segment.header.segment, segment.header.length, len(segment.data))
    return [(record, fd) for frame, metadata in frames for record in carried(metadata, frame)]


def output_on(where: Volume) -> Output:
    header = SegmentHeader(new_segment_id(), where.id, new_incarnation_id(), 0, 1, 2, (where.id,))
    return Output(where, header)


def test_what_is_carried_reads_the_same_to_a_second_reader(tmp_path: Path) -> None:
    where = volume(tmp_path)
    segment, named = made(), new_segment_id()
    mails = [mail(random_body(n), "a@x", "b@x") for n in (0, 1, 3000, 2_500_000)]
    stone = tombstone(mails[0], 1)
    segment.add(mails[:3])
    segment.add(mails[3:], [stone])
    output = output_on(where)
    every = sources(where, output, closed(segment, new_segment_id()))
    assert len(every) == 5  # the input's closing record is not carried
    output.add([every[2], every[0], every[4]])
    output.add([every[3], every[1]])
    output.end([named])
    assert output.problem([named]) is None
    assert output.problem([new_segment_id()]) is not None
    output.finish(3)
    output.close()
    assert where.list_outputs() == []
    data = where.segment_path(output.header.segment).read_bytes()
    header = independent_reader.read_header(data)
    length = header["length"]
    assert isinstance(length, int)
    first, at = independent_reader.read_batch(data, length, header["segment"])
    second, at = independent_reader.read_batch(data, at, header["segment"])
    last, at = independent_reader.read_batch(data, at, header["segment"])
    assert at == len(data)
    assert [r["id"] for r in first + second][:2] == [mails[2].id, mails[0].id]
    bodies = {r["id"]: r["body"] for r in first + second if r["kind"] == 1}
    assert bodies == {m.id: m.body for m in mails}
    assert [r["tombstones"] for r in first + second if r["kind"] == 2][0] == [  # noqa: RUF015
        (stone.placement.record, stone.placement.index, stone.message, stone.mailbox.encode())
    ]
    assert [r["kind"] for r in last] == [3]


def test_a_damaged_body_stops_it_and_nothing_is_left(tmp_path: Path) -> None:
    where = volume(tmp_path)
    segment = made()
    segment.add([mail(random_body(5000))])
    output = output_on(where)
    damaged = bytearray(segment.data)
    damaged[-1] ^= 1
    segment.data = bytes(damaged)
    with pytest.raises(FormatError, match="damaged"):
        output.add(sources(where, output, segment))
    output.close()
    assert where.list_outputs() == [] and output.header.segment not in where.list_segments()
    with pytest.raises(OSError):
        output.end([new_segment_id()])


def test_a_segment_with_unknown_records_is_not_for_compaction(tmp_path: Path) -> None:
    where = volume(tmp_path)
    segment = made()
    unknown = bytearray(encode_closing(new_message_id(), 1, [new_segment_id()]))
    unknown[4] = 4
    segment.add([mail()], extra=bytes(unknown), extra_entries=1)
    with pytest.raises(UnknownRecord):
        sources(where, output_on(where), segment)


def test_an_empty_output_holds_its_closing_record(tmp_path: Path) -> None:
    where = volume(tmp_path, Disk())
    output, named = output_on(where), new_volume_id()
    output.end([SegmentId(named)])
    assert output.problem([SegmentId(named)]) is None
    output.finish(1)
    output.close()
    with where.segment_path(output.header.segment).open("rb") as file:
        assert survey(file.fileno(), output.header.segment).messages == 0
