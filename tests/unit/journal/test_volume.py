"""A volume's identity: made once, durable first, and never guessed."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mailarray.journal.disk import Disk
from mailarray.journal.volume import VolumeError, open_volume, read_volume
from mailarray.model.ids import new_segment_id


def test_the_id_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "volume"
    first = open_volume(path, Disk())
    assert open_volume(path, Disk()).id == first.id == read_volume(path, Disk()).id
    assert json.loads((path / "volume.json").read_text()) == {"format": 1, "volume": first.id.hex()}


def test_two_processes_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: open_volume(tmp_path / "v", Disk()).id, range(16)))
    assert len(ids) == 1


def test_a_wiped_volume_is_another_volume(tmp_path: Path) -> None:
    first = open_volume(tmp_path, Disk())
    (tmp_path / "volume.json").unlink()
    assert open_volume(tmp_path, Disk()).id != first.id


def test_a_volume_that_lost_its_name_but_not_its_segments_gets_no_new_one(tmp_path: Path) -> None:
    volume = open_volume(tmp_path, Disk())
    volume.segment_path(new_segment_id()).write_bytes(b"mail")
    (tmp_path / "volume.json").unlink()
    with pytest.raises(VolumeError, match="is missing, but the volume holds segments; put the file back, or move"):
        open_volume(tmp_path, Disk())
    assert not (tmp_path / "volume.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 1, "volume": "12"}', "\x80"])
def test_a_damaged_name_is_refused(tmp_path: Path, text: str) -> None:
    open_volume(tmp_path, Disk())
    (tmp_path / "volume.json").write_text(text, encoding="latin-1")
    with pytest.raises(VolumeError, match="is damaged"):
        open_volume(tmp_path, Disk())


def test_another_format_is_refused(tmp_path: Path) -> None:
    open_volume(tmp_path, Disk())
    (tmp_path / "volume.json").write_text('{"format": 2, "volume": "' + "00" * 16 + '"}')
    with pytest.raises(VolumeError, match="has format 2; this program knows format 1"):
        open_volume(tmp_path, Disk())


def test_what_is_no_volume(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"is not a volume: it has no volume.json"):
        read_volume(tmp_path, Disk())
    (tmp_path / "file").write_text("")
    with pytest.raises(VolumeError, match=r"cannot be used: .*; check the owner, mode and mount"):
        open_volume(tmp_path / "file", Disk())


def test_only_segments_and_fences_are_listed_oldest_first(tmp_path: Path) -> None:
    volume = open_volume(tmp_path, Disk())
    old, new = sorted((new_segment_id(), new_segment_id()))
    volume.segment_path(new).write_bytes(b"")
    volume.fence_path(new).write_bytes(b"")
    volume.fence_path(old).write_bytes(b"")
    for name in ("x.segment", old.hex() + ".fence.new", old.hex() + ".segment.gz", "README"):
        (volume.segments / name).write_bytes(b"")
    assert volume.list_segments() == [old, new]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    volume = open_volume(tmp_path, Disk())
    lock = volume.try_lock_writer()
    assert lock is not None
    assert volume.try_lock_writer() is None
    with volume.writer_locked() as locked:
        assert not locked
    os.close(lock)
    with volume.writer_locked() as locked:
        assert locked
        assert volume.try_lock_writer() is None
    assert volume.try_lock_writer() is not None
