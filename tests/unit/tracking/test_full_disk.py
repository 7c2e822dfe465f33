"""A full disk: what is on it is served, nothing new is promised."""

from __future__ import annotations

import errno
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mailarray.journal.disk import Disk, SyncPoint
from mailarray.journal.member import BrokenError, Member
from mailarray.journal.volume import Volume, open_volume
from mailarray.tracking.local_index import LocalIndex
from mailarray.tracking.shelf import Shelf
from tests.support.segments import made, mail, put_file


class FullDisk(Disk):
    """Takes no new file."""

    def replace_file(self, path: Path, data: bytes, file_point: SyncPoint, name_point: SyncPoint) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))


def torn_segment(tmp_path: Path) -> tuple[Volume, Member, int]:
    """A segment with one whole batch and a torn one, recovered on a disk that is full by now."""
    volume = open_volume(tmp_path / "volume", Disk())
    segment = made(volume.id)
    whole = len(segment.add([mail(b"one")]))
    segment.add([mail(b"two")])
    put_file(volume, segment.header.segment, segment.data[:-5])
    return volume, Member.recover(Volume(volume.path, volume.id, FullDisk()), segment.header.segment, True), whole


def test_a_torn_tail_that_cannot_be_noted_is_left_and_promises_nothing(tmp_path: Path) -> None:
    volume, member, whole = torn_segment(tmp_path)
    assert member.length == member.readable == whole
    assert volume.segment_path(member.segment).stat().st_size > whole
    with pytest.raises(BrokenError):
        member.check_append(whole)
    with pytest.raises(OSError, match="No space left"):
        member.fence()


async def test_a_mailbox_is_found_when_the_index_cannot_be_written(tmp_path: Path) -> None:
    volume, member, _ = torn_segment(tmp_path)
    shelf = Shelf(volume, ThreadPoolExecutor(1))
    await shelf.open()
    await shelf.recover(shelf.holdings[member.segment])
    index = LocalIndex(shelf)
    await index.open()
    index._close()
    file = f"file:{volume.path / 'index.sqlite'}?mode=ro"
    index._database = sqlite3.connect(file, uri=True, isolation_level=None, check_same_thread=False)
    found = await index.mailbox("anna@mail.example")
    assert len(found["messages"]) == 1
    await index.close()
