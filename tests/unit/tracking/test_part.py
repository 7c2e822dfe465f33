"""The file of one copy: past the page cache and through it, gone on with, damaged, on a disk that fails."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from mailarray.journal.disk import DIRECT_BLOCK, Disk, SyncPoint
from mailarray.journal.format import FormatError
from mailarray.journal.scan import survey
from mailarray.journal.volume import Volume
from mailarray.tracking import part as part_module
from mailarray.tracking.part import Part
from tests.support.segments import Made, made, mail, volume

PIECE = 4 * DIRECT_BLOCK


class CachedDisk(Disk):
    """As on a file system that knows no other way."""

    def bypass_cache(self, fd: int, bypass: bool) -> bool:
        return False


class PickyDisk(Disk):
    """Takes the wish, and then no block of ours."""

    def __init__(self) -> None:
        self.bypassing = False

    def bypass_cache(self, fd: int, bypass: bool) -> bool:
        self.bypassing = bypass
        return bypass

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> None:
        if self.bypassing:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        super().write(fd, buffers, offset)


DISKS = (Disk, CachedDisk, PickyDisk)


def example() -> Made:
    segment = made()
    for size in (9000, 1, 0, 40_000, 20_000, 7):
        segment.add([mail(os.urandom(size))])
    return segment


def aligned(data: bytes) -> memoryview:
    view = memoryview(mmap.mmap(-1, max(1, len(data))))[: len(data)]
    view[:] = data
    return view


def put(part: Part, data: bytes, piece: int = PIECE) -> None:
    while part.size < len(data):
        part.append(aligned(data[part.size : part.size + piece]))


def begin(tmp_path: Path, disk: Disk, segment: Made) -> tuple[Volume, Part]:
    where = volume(tmp_path / "volume", disk)
    return where, Part(where, segment.header.segment)


@pytest.mark.parametrize("disk", DISKS)
@pytest.mark.parametrize("piece", [PIECE, 1000, PIECE + 1])
def test_all_bytes_get_the_segments_name(tmp_path: Path, disk: type[Disk], piece: int) -> None:
    segment = example()
    where, part = begin(tmp_path, disk(), segment)
    put(part, segment.data, piece)
    assert part.problem(None, len(segment.data)) is None
    part.finish(len(segment.data), 1)
    part.close()
    assert where.segment_path(segment.header.segment).read_bytes() == segment.data
    assert where.list_copies() == []
    with where.segment_path(segment.header.segment).open("rb") as file:
        assert survey(file.fileno(), segment.header.segment, sealed_length=len(segment.data)).damages == []


def test_large_blocks_pass_the_page_cache_by(tmp_path: Path) -> None:
    segment = example()
    where, part = begin(tmp_path, Disk(), segment)
    if not part._direct:
        pytest.skip("this file system cannot write past the page cache")
    part.append(aligned(segment.data[:PIECE]))
    assert part._direct and part._unsynced == 0
    put(part, segment.data)
    assert part._unsynced < DIRECT_BLOCK  # the end
    part.close()
    assert where.copy_path(segment.header.segment).read_bytes() == segment.data


def test_through_the_cache_there_is_a_sync_behind_each_stretch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_module, "STRETCH", 2 * PIECE)
    disk, synced = CachedDisk(), []
    segment = example()
    _, part = begin(tmp_path, disk, segment)
    monkeypatch.setattr(disk, "sync", lambda fd, point: synced.append(point))
    put(part, segment.data)
    assert synced == [SyncPoint.COPY_FILE] * (len(segment.data) // (2 * PIECE))
    part.close()


@pytest.mark.parametrize("disk", DISKS)
def test_a_bad_byte_is_never_written(tmp_path: Path, disk: type[Disk]) -> None:
    segment = example()
    damaged = bytearray(segment.data)
    damaged[2 * PIECE] ^= 1
    where, part = begin(tmp_path, disk(), segment)
    with pytest.raises(FormatError, match="damaged"):
        put(part, bytes(damaged), len(damaged))
    assert where.copy_path(segment.header.segment).stat().st_size == 0
    part.empty()
    put(part, segment.data)
    assert part.problem(None, len(segment.data)) is None
    part.close()


def test_too_short_and_too_long_are_not_whole(tmp_path: Path) -> None:
    segment = example()
    _, part = begin(tmp_path, Disk(), segment)
    last = segment.batches[-1]
    put(part, segment.data[: last.start])
    assert "holds" in (part.problem(None, len(segment.data)) or "")
    part.append(aligned(segment.data[last.start : last.end]))
    assert part.problem(None, len(segment.data)) is None
    assert "holds" in (part.problem(None, last.start) or "")
    part.append(aligned(segment.data[last.start :][:10]))  # as a batch begins, but none is to be there
    assert "holds" in (part.problem(None, len(segment.data)) or "")
    part.close()


@pytest.mark.parametrize("disk", DISKS)
def test_what_an_earlier_run_left_is_gone_on_with(tmp_path: Path, disk: type[Disk]) -> None:
    segment = example()
    left = 2 * PIECE + 100
    volume(tmp_path / "volume").copy_path(segment.header.segment).write_bytes(segment.data[:left])
    where, part = begin(tmp_path, disk(), segment)
    part.resume(len(segment.data))
    assert part.size == 2 * PIECE
    put(part, segment.data)
    assert part.problem(None, len(segment.data)) is None
    part.close()
    assert where.copy_path(segment.header.segment).read_bytes() == segment.data


@pytest.mark.parametrize("what", ["damaged", "longer"])
def test_what_is_no_part_of_it_is_begun_anew(tmp_path: Path, what: str) -> None:
    segment = example()
    left = bytearray(segment.data[: 3 * PIECE])
    if what == "damaged":
        left[5000] ^= 1
    else:
        left = bytearray(segment.data + b"x")
    volume(tmp_path / "volume").copy_path(segment.header.segment).write_bytes(left)
    _, part = begin(tmp_path, Disk(), segment)
    part.resume(len(segment.data))
    assert part.size == 0
    put(part, segment.data)
    assert part.problem(None, len(segment.data)) is None
    part.close()


def test_after_close_nothing_is_written(tmp_path: Path) -> None:
    segment = example()
    _, part = begin(tmp_path, Disk(), segment)
    part.close()
    with pytest.raises(OSError, match="given up"):
        part.append(aligned(segment.data[:PIECE]))
