"""The local index: what is damaged is begun anew, at a start and later; nobody's mail is listed in part."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mailarray.journal.disk import Disk
from mailarray.journal.volume import Volume, open_volume
from mailarray.tracking.local_index import LocalIndex
from mailarray.tracking.shelf import Shelf
from tests.support.segments import made, mail, put_file

ANNA = "anna@mail.example"
MESSAGES = 400
PAGE = 4096


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    opened = open_volume(tmp_path / "volume", Disk())
    segment = made(opened.id)
    for number in range(MESSAGES):
        segment.add([mail(b"body", ANNA, f"box{number}@mail.example")])
    put_file(opened, segment.header.segment, segment.data)
    return opened


async def opened_index(volume: Volume) -> LocalIndex:
    shelf = Shelf(volume, ThreadPoolExecutor(1))
    await shelf.open()
    for holding in list(shelf):
        await shelf.recover(holding)
    index = LocalIndex(shelf)
    await index.open()
    return index


async def listed(index: LocalIndex, mailbox: str) -> int:
    return len((await index.mailbox(mailbox))["messages"])


@pytest.mark.parametrize("page", [0, 1, 2, 5], ids=["header", "segments", "other tables", "leaf"])
async def test_a_damaged_file_is_begun_anew(volume: Volume, page: int) -> None:
    index = await opened_index(volume)
    assert await listed(index, ANNA) == MESSAGES
    await index.close()
    path = volume.path / "index.sqlite"
    data = bytearray(path.read_bytes())
    assert len(data) > 8 * PAGE
    data[page * PAGE : (page + 1) * PAGE] = b"\xff" * PAGE
    path.write_bytes(data)
    index = await opened_index(volume)
    for mailbox, count in ((ANNA, MESSAGES), *((f"box{number}@mail.example", 1) for number in range(MESSAGES))):
        assert await listed(index, mailbox) == count
    await index.close()
    index = await opened_index(volume)  # the new file is a good one
    assert await listed(index, ANNA) == MESSAGES
    await index.close()


async def test_the_order_of_writes_is_kept(volume: Volume) -> None:
    """Without it a power cut leaves an index that looks whole and lacks mail."""
    index = await opened_index(volume)
    assert index._database is not None
    assert index._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert index._database.execute("PRAGMA synchronous").fetchone() == (1,)
    await index.close()
