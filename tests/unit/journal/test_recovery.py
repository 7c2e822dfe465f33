"""A segment after a crash, against a dumb oracle: the list of batches that were written.

What must hold whatever the disk did (rule 11): no wrong byte is given out, damage is never taken for a torn tail when
a valid batch follows or the mark is past it, and nothing but the damaged batch is lost from view.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailarray.journal.fence import Fence, load_fence, save_fence
from mailarray.journal.format import MessageEntry, TombstonesEntry
from mailarray.journal.member import Member
from mailarray.journal.scan import Batch, Survey, find_batch, survey, walk
from mailarray.journal.volume import Volume
from tests.support.segments import Made, made, mail, put_file, tombstone, volume


def build(seed: int, batches: int = 4) -> Made:
    dice = random.Random(seed)
    segment = made()
    earlier: list[Any] = []
    for _ in range(batches):
        mails = [mail(dice.randbytes(dice.choice((0, 1, 40, 300)))) for _ in range(dice.randint(0, 3))]
        dead = [tombstone(dice.choice(earlier))] if earlier and dice.random() < 0.5 else []
        segment.add(mails or [mail(b"x")], dead)
        earlier += segment.batches[-1].mails
    return segment


def look(data: bytes, segment: Made, sealed_length: int | None = None) -> tuple[list[Batch], Survey]:
    fd = os.memfd_create("segment")
    try:
        os.write(fd, data)
        report = Survey()
        found = list(walk(fd, segment.header.segment, report, sealed_length=sealed_length))
        for batch in found:  # what is given out is what was written
            for entry in batch.entries:
                if isinstance(entry, MessageEntry):
                    body = os.pread(fd, entry.body_length, batch.header.bodies_offset + entry.body_offset)
                    assert body == written(segment, batch)[entry.id].body
    finally:
        os.close(fd)
    return found, report


def written(segment: Made, batch: Batch) -> dict[bytes, Any]:
    made_batch = next(b for b in segment.batches if b.start == batch.header.offset)
    assert made_batch.end == batch.header.end
    ids = [e.id for e in batch.entries if isinstance(e, MessageEntry)]
    assert ids == [m.id for m in made_batch.mails]
    dead = [t for e in batch.entries if isinstance(e, TombstonesEntry) for t in e.tombstones]
    assert dead == list(made_batch.tombstones)
    return {m.id: m for m in made_batch.mails}


def starts(found: list[Batch]) -> list[int]:
    return [batch.header.offset for batch in found]


def test_a_whole_segment_gives_back_every_batch() -> None:
    segment = build(1, 6)
    found, report = look(segment.data, segment)
    assert starts(found) == [b.start for b in segment.batches]
    assert (report.length, report.damages, report.torn) == (len(segment.data), [], False)
    assert report.acknowledged == segment.batches[-2].end


def test_a_crash_at_every_byte_of_the_last_batch_loses_only_what_was_not_acknowledged(tmp_path: Path) -> None:
    segment = build(2)
    last = segment.batches[-1]
    for cut in range(last.start, last.end):
        found, report = look(segment.data[:cut], segment)
        assert starts(found) == [b.start for b in segment.batches[:-1]]
        assert (report.length, report.damages) == (last.start, [])
        assert report.torn == (cut > last.start)
    for cut in range(last.start + 1, last.end, 5):  # zeros where the power went: the length was durable, the data not
        found, report = look(segment.data[:cut] + bytes(last.end - cut), segment)
        if segment.data[: last.end] != segment.data[:cut] + bytes(last.end - cut):
            assert report.length == last.start and report.damages == [] and report.torn


def test_a_crash_at_every_byte_of_the_first_batch() -> None:
    segment = build(3, 1)
    for cut in range(len(segment.data)):
        found, report = look(segment.data[:cut], segment)
        assert found == []
        assert report.length == 0  # a header without a batch is a segment that nobody has written to


def test_a_flipped_byte_anywhere_costs_one_batch_at_most() -> None:
    segment = build(4)
    batches = segment.batches
    print("bytes", len(segment.data))
    for at in range(len(segment.data)):
        data = bytearray(segment.data)
        data[at] ^= 0x40
        found, report = look(bytes(data), segment)
        hit = next((i for i, b in enumerate(batches) if b.start <= at < b.end), None)
        expected = [b.start for i, b in enumerate(batches) if i != hit]
        assert starts(found) == expected
        if hit == len(batches) - 1:  # nothing valid follows, and no mark is past it: as good as a torn tail
            assert report.length == batches[hit].start and report.damages == []
        else:
            assert report.length == len(segment.data)
            assert [(d.start, d.end) for d in report.damages] == [
                (0, segment.header.length) if hit is None else (batches[hit].start, batches[hit].end)
            ]


def test_damage_below_a_seal_is_no_torn_tail() -> None:
    segment = build(5)
    last = segment.batches[-1]
    data = bytearray(segment.data)
    data[last.end - 1] ^= 1
    _, report = look(bytes(data), segment, sealed_length=last.end)
    assert report.length == last.end
    assert [(d.start, d.end) for d in report.damages] == [(last.start, last.end)]


def test_a_member_that_is_shorter_than_its_seal_ends_at_a_batch() -> None:
    segment = build(6)
    last = segment.batches[-1]
    for cut in range(last.start, last.end):
        _, report = look(segment.data[:cut], segment, sealed_length=last.end)
        assert (report.length, report.damages) == (last.start, [])


def test_bytes_past_the_seal_are_not_looked_at() -> None:
    segment = build(7)
    second = segment.batches[1]
    found, report = look(segment.data, segment, sealed_length=second.end)
    assert len(found) == 2 and report.length == second.end


def test_a_mail_that_looks_like_a_batch_is_not_taken_for_one() -> None:
    segment = made()
    segment.add([mail(b"innocent")])
    copy = segment.data[segment.header.length :]
    segment.add([mail(b"lead " + copy + copy)])  # a sender who knows a whole batch of this very segment
    segment.add([mail(b"after")])
    data = bytearray(segment.data)
    data[segment.batches[1].start] ^= 1
    found, report = look(bytes(data), segment)
    assert starts(found) == [segment.batches[0].start, segment.batches[2].start]
    assert [(d.start, d.end) for d in report.damages] == [(segment.batches[1].start, segment.batches[1].end)]


def test_a_batch_is_found_across_the_edge_of_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailarray.journal.scan.CHUNK", 64)
    segment = build(8, 5)
    for at in range(0, len(segment.data), 3):
        fd = os.memfd_create("segment")
        os.write(fd, segment.data)
        expected = next((b.start for b in segment.batches if b.start >= at), None)
        assert find_batch(fd, segment.header.segment, at, len(segment.data)) == expected
        os.close(fd)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), st.data())
def test_any_damage_never_gives_out_a_wrong_byte(seed: int, data: st.DataObject) -> None:
    segment = build(seed, 3)
    raw = bytearray(segment.data)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(raw) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=30))
        raw[start : start + len(piece)] = piece
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    found, report = look(bytes(raw), segment)
    assert report.length <= len(raw)
    intact = [b for b in segment.batches if bytes(raw[b.start : b.end]) == segment.data[b.start : b.end]]
    assert starts(found) == [b.start for b in intact]
    covered = [(b.start, b.end) for b in intact] + [(d.start, d.end) for d in report.damages]
    assert report.length <= max((end for _, end in covered), default=0)


# -- a member on a volume -----------------------------------------------------------------------------------------


def recover(where: Volume, segment: Made, limit: int | None = None) -> Member:
    return Member.recover(where, segment.header.segment, own=False, limit=limit)


def test_a_torn_tail_is_cut_once_and_said_for_ever(tmp_path: Path) -> None:
    where, segment = volume(tmp_path), build(9)
    last = segment.batches[-1]
    path = put_file(where, segment.header.segment, segment.data[: last.end - 1])
    member = recover(where, segment)
    assert member.length == last.start == path.stat().st_size
    assert load_fence(where, segment.header.segment).cut
    again = recover(where, segment)
    answer = again.fence()
    assert (answer.length, answer.cut) == (last.start, True)


def test_a_torn_first_batch_is_said_too(tmp_path: Path) -> None:
    where, segment = volume(tmp_path), build(10, 1)
    for cut in (1, 40, segment.header.length, segment.header.length + 30):
        put_file(where, segment.header.segment, segment.data[:cut])
        where.fence_path(segment.header.segment).unlink(missing_ok=True)
        answer = recover(where, segment).fence()
        assert answer.cut and answer.length == 0


def test_a_torn_first_batch_is_no_damage() -> None:
    """A power cut may leave any beginning of it, with zeros in the place of its last pages."""
    segment = build(1, 1)
    for cut in (1, 40, segment.header.length, segment.header.length + 30):
        for rest in (b"", bytes(len(segment.data) - cut)):
            _, report = look(segment.data[:cut] + rest, segment)
            assert report.length == 0 and report.damages == [] and report.torn, cut
            _, report = look(segment.data[:cut] + rest, segment, sealed_length=0)
            assert report.damages == []
            if cut < segment.header.length:
                _, report = look(segment.data[:cut] + rest, segment, sealed_length=len(segment.data))
                assert report.damages != []  # others have it, and so had this one


def test_a_damaged_header_hides_nothing_from_a_fence(tmp_path: Path) -> None:
    where, segment = volume(tmp_path), build(11)
    data = bytearray(segment.data)
    data[20] ^= 1
    path = put_file(where, segment.header.segment, bytes(data))
    member = recover(where, segment)
    assert member.fence().length == len(segment.data) == path.stat().st_size
    assert [(d.start, d.end) for d in member.damages] == [(0, segment.header.length)]


def test_a_segment_of_another_version_is_left_as_it_is(tmp_path: Path) -> None:
    where, segment = volume(tmp_path), made()
    path = put_file(where, segment.header.segment, b"MAILARR\x02 whatever version 2 may be" * 20)
    before = path.read_bytes()
    assert recover(where, segment).fence().cut  # its length alone must not seal
    assert path.read_bytes() == before


def test_what_lies_past_a_failed_sync_is_not_believed(tmp_path: Path) -> None:
    where, segment = volume(tmp_path), build(12)
    put_file(where, segment.header.segment, segment.data)
    member = recover(where, segment, limit=segment.batches[1].end)
    assert member.length == segment.batches[1].end
    assert member.fence().cut


def test_a_sealed_segment_that_was_whole_is_not_read_through(tmp_path: Path) -> None:
    where, segment = volume(tmp_path), build(13)
    put_file(where, segment.header.segment, segment.data)
    member = recover(where, segment)
    member.remember(len(segment.data), 1)
    assert load_fence(where, segment.header.segment).whole
    again = recover(where, segment)
    assert (again.length, again.readable, again.damages) == (len(segment.data), len(segment.data), [])


def test_bytes_below_a_seal_that_were_never_synced_are_looked_through(tmp_path: Path) -> None:
    where, segment = volume(tmp_path), build(14)
    last = segment.batches[-1]
    put_file(where, segment.header.segment, segment.data[: last.start])
    recover(where, segment).remember(last.end, 1)
    put_file(where, segment.header.segment, segment.data[: last.end - 9] + bytes(9))  # a fill that a crash tore
    member = recover(where, segment)
    assert (member.length, member.damages) == (last.start, [])  # missing, and fetched; L may be lowered to it (rule 13)


def test_damage_of_what_was_whole_stays_damage_when_its_fence_says_so(tmp_path: Path) -> None:
    where, segment = volume(tmp_path), build(14)
    last = segment.batches[-1]
    put_file(where, segment.header.segment, segment.data)
    recover(where, segment).remember(last.end, 1)
    put_file(where, segment.header.segment, segment.data[: last.end - 9] + bytes(9))
    whole = load_fence(where, segment.header.segment).whole
    with where.segment_path(segment.header.segment).open("rb") as file:
        report = survey(file.fileno(), segment.header.segment, 0, last.end, whole)
    assert (report.length, len(report.damages)) == (last.end, 1)


def test_promises_survive(tmp_path: Path) -> None:
    where, segment = volume(tmp_path), made()
    id = segment.header.segment
    assert load_fence(where, id) == Fence()
    for fence in (Fence(True), Fence(True, 500, 3, True), Fence(True, 0, 9, False, True)):
        save_fence(where, id, fence)
        assert load_fence(where, id) == fence
