"""One member of a replica set: what it takes, what it refuses, and what it never says too early."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import pytest

from mailarray.journal.disk import Disk, SyncPoint
from mailarray.journal.fence import FenceAnswer, load_fence
from mailarray.journal.member import BrokenError, FencedError, GapError, Member
from mailarray.journal.volume import VolumeError
from tests.support.segments import Made, made, mail, volume


class Recorder(Disk):
    """Notes the calls, and fails one on demand."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail: str | None = None

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call == self.fail:
            raise OSError(errno.EIO, "Input/output error")

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> None:
        self._note("write")
        super().write(fd, buffers, offset)

    def sync(self, fd: int, point: SyncPoint) -> None:
        self._note(point.name)
        super().sync(fd, point)

    def sync_directory(self, path: Path, point: SyncPoint) -> None:
        self._note(point.name)
        super().sync_directory(path, point)


def append(member: Member, segment: Made, *bodies: bytes) -> None:
    piece = segment.add([mail(body) for body in bodies or (b"x",)])
    end = len(segment.data)
    member.append(segment.header, [piece[:10], piece[10:]], end - len(piece), end, end - len(piece))


@pytest.fixture
def disk() -> Recorder:
    return Recorder()


@pytest.fixture
def segment() -> Made:
    return made()


@pytest.fixture
def member(tmp_path: Path, disk: Recorder, segment: Made) -> Member:
    where = volume(tmp_path, disk)
    disk.calls.clear()
    return Member(where, segment.header.segment, own=False)


def test_the_first_batch_is_synced_with_its_name_and_later_ones_without(
    member: Member, disk: Recorder, segment: Made
) -> None:
    append(member, segment)
    assert disk.calls == ["write", "MIRROR_BATCH", "MIRROR_SEGMENT_NAME"]
    disk.calls.clear()
    append(member, segment)
    assert disk.calls == ["write", "MIRROR_BATCH"]
    assert member.length == member.readable == len(segment.data)
    assert member.acknowledged == segment.batches[0].end
    assert member.volume.segment_path(member.segment).read_bytes() == segment.data


@pytest.mark.parametrize("broken", ["write", "MIRROR_BATCH", "MIRROR_SEGMENT_NAME"])
def test_after_a_failure_nothing_is_taken_and_no_call_repeated(
    member: Member, disk: Recorder, segment: Made, broken: str
) -> None:
    disk.fail = broken
    with pytest.raises(OSError):
        append(member, segment)
    disk.fail = None
    calls = list(disk.calls)
    assert member.length == 0 and member.header is None
    with pytest.raises(BrokenError, match="failed"):
        member.check_append(0)
    assert disk.calls == calls
    assert member.fence().length == 0  # what was not made durable is not answered for


def test_a_failed_sync_of_a_later_batch_keeps_the_length_of_the_ones_before(
    member: Member, disk: Recorder, segment: Made
) -> None:
    append(member, segment)
    disk.fail = "MIRROR_BATCH"
    with pytest.raises(OSError):
        append(member, segment)
    assert member.length == segment.batches[0].end


def test_offsets(member: Member, segment: Made) -> None:
    with pytest.raises(GapError):
        member.check_append(1)
    append(member, segment)
    member.check_append(len(segment.data))
    with pytest.raises(GapError):
        member.check_append(len(segment.data) + 1)
    assert member.same_bytes(5, segment.data[5:50])
    assert not member.same_bytes(5, segment.data[6:51])


def test_a_fence_is_durable_before_it_is_answered(member: Member, disk: Recorder, segment: Made) -> None:
    append(member, segment)
    disk.calls.clear()
    answer = member.fence()
    assert disk.calls == ["write", "FENCE_FILE", "FENCE_NAME"]
    assert answer == FenceAnswer(member.volume.id, len(segment.data), None, 0, False)
    assert FenceAnswer.parse(answer.render()) == answer
    with pytest.raises(FencedError):
        member.check_append(len(segment.data))
    disk.calls.clear()
    assert member.fence() == answer and disk.calls == []


def test_a_fence_that_cannot_be_written_is_not_answered(member: Member, disk: Recorder) -> None:
    for point in ("FENCE_FILE", "FENCE_NAME"):
        disk.fail = point
        with pytest.raises(OSError):
            member.fence()
        assert not member.fence_state.fenced


def test_a_fence_without_a_file_outlives_a_restart(member: Member) -> None:
    assert member.fence().length == 0
    again = Member.recover(member.volume, member.segment, own=False)
    with pytest.raises(FencedError):
        again.check_append(0)
    assert member.volume.list_segments() == [member.segment]


def test_a_remembered_length_fences_and_hides_what_is_past_it(member: Member, disk: Recorder, segment: Made) -> None:
    append(member, segment)
    append(member, segment)
    first = segment.batches[0].end
    member.remember(first, 2)
    assert (member.readable, member.length) == (first, len(segment.data))
    assert member.volume.segment_path(member.segment).stat().st_size == len(segment.data)  # not truncated
    answer = member.fence()
    assert (answer.sealed_length, answer.epoch, answer.length) == (first, 2, len(segment.data))
    disk.calls.clear()
    member.remember(first, 2)
    assert disk.calls == []
    member.remember(len(segment.data), 3)  # the catalog's word overrides
    assert load_fence(member.volume, member.segment).sealed_length == len(segment.data)


def test_recovery_syncs_before_it_offers(member: Member, disk: Recorder, segment: Made) -> None:
    append(member, segment)
    disk.calls.clear()
    again = Member.recover(member.volume, member.segment, own=False)
    assert disk.calls == ["RECOVERED", "RECOVERED"]
    assert (again.length, again.header) == (len(segment.data), segment.header)
    disk.fail = "RECOVERED"
    with pytest.raises(OSError):
        Member.recover(member.volume, member.segment, own=False)


def test_a_damaged_fence_file_is_an_error_that_says_what_to_do(member: Member) -> None:
    member.fence()
    for text in ("", "{", "[]", '{"fenced": true}'):
        member.volume.fence_path(member.segment).write_text(text)
        with pytest.raises(VolumeError, match=r"is damaged: .*; move the file away and seal the segment again"):
            Member.recover(member.volume, member.segment, own=False)


@pytest.mark.parametrize("raw", [None, {}, [], {"volume": "00"}, {"volume": "00" * 16, "length": None}])
def test_an_answer_that_makes_no_sense_is_refused(raw: object) -> None:
    with pytest.raises(ValueError):
        FenceAnswer.parse(raw)
