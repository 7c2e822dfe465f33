"""Which segments a sidecar knows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mailarray.journal.disk import Disk
from mailarray.journal.volume import open_volume
from mailarray.model.ids import new_segment_id
from mailarray.tracking.shelf import Shelf
from tests.support.segments import made, mail, put_file


async def test_an_own_segment_that_lived_between_two_words_is_found(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "volume", Disk())
    shelf = Shelf(volume, ThreadPoolExecutor(1))
    await shelf.open()
    segment = made(volume.id)
    segment.add([mail()])
    put_file(volume, segment.header.segment, segment.data)
    holding = shelf.adopt_left(segment.header.segment)
    assert holding is not None and holding.own and holding.member is None
    member = await shelf.recover(holding)
    assert member.length == len(segment.data) and holding.facts is not None
    assert shelf.adopt_left(new_segment_id()) is None


async def test_an_own_segment_whose_only_batch_was_torn_is_not_held(tmp_path: Path) -> None:
    """The others may have its first batch whole: then it is fetched from them (rule 12)."""
    volume = open_volume(tmp_path / "volume", Disk())
    shelf = Shelf(volume, ThreadPoolExecutor(1))
    await shelf.open()
    segment = made(volume.id)
    segment.add([mail()])
    id = segment.header.segment
    put_file(volume, id, segment.data[:40])
    holding = shelf.adopt_left(id)
    assert holding is not None and shelf.holds(id)  # the writer may be writing it
    member = await shelf.recover(holding)
    assert member.length == 0 and holding.own
    assert not shelf.holds(id)


async def test_own_segments_of_writers_that_are_gone_are_found_without_a_word(tmp_path: Path) -> None:
    """The sidecar was stopped from before their begin until after their writer's end."""
    volume = open_volume(tmp_path / "volume", Disk())
    shelf = Shelf(volume, ThreadPoolExecutor(1))
    await shelf.open()
    left, living, copy = made(volume.id), made(volume.id), made()
    for segment in (left, living, copy):
        segment.add([mail()])
        put_file(volume, segment.header.segment, segment.data)
    put_file(volume, new_segment_id(), left.data[:10])  # of which not even the header is there
    headers = await shelf.left_unheard()
    assert {header.segment for header in headers} == {left.header.segment, living.header.segment}
    shelf.adopt_unheard(header for header in headers if header.incarnation != living.header.incarnation)
    assert [holding.segment for holding in shelf] == [left.header.segment]
    (holding,) = shelf
    assert holding.own and (await shelf.recover(holding)).length == len(left.data)
    assert await shelf.left_unheard() == [living.header]
