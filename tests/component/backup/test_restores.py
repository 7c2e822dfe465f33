"""Into servers with the production parts: refused when it would mix mail, gone on with after an interruption."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mailarray.backup import restoring
from mailarray.backup.manifest import Manifest
from mailarray.backup.opening import open_store
from mailarray.backup.restoring import NotEmpty, Restored, restore
from mailarray.backup.running import RunningArray
from mailarray.backup.source import SourceError
from mailarray.backup.store import Store
from mailarray.backup.taking import take
from mailarray.catalog.catalog import CatalogClosed
from mailarray.catalog.rows import FlagRow
from mailarray.contract.settings import StorageSettings
from mailarray.journal.disk import Disk
from mailarray.model.ids import SegmentId, VolumeId
from mailarray.model.message import Committed
from tests.support.array_of_three import TOKEN, Array, fast_clocks
from tests.support.segments import random_body

ANNA, BEN = "anna@mail.example", "ben@mail.example"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    fast_clocks(monkeypatch)
    monkeypatch.setattr("mailarray.backup.restoring.LOOK_SECONDS", 0.02)


def array_in(path: Path, servers: int = 3) -> Array:
    path.mkdir(exist_ok=True)
    (path / "token").write_text(TOKEN)
    return Array(path, [Disk() for _ in range(servers)], StorageSettings(reserve=0, mirror_timeout=2.0))


def reached(array: Array) -> RunningArray:
    return RunningArray(array.table_file, array.table_file.with_name("token"), 2)


@pytest.fixture
async def array(tmp_path: Path) -> AsyncIterator[Array]:
    """With mail, some of it flagged."""
    started = array_in(tmp_path / "old")
    await started.start()
    for number in range(9):
        boxes = (ANNA, BEN) if number % 3 == 0 else (ANNA,)
        assert isinstance(await started.servers[number % 3].deliver(random_body(2000), *boxes), Committed)
    await readable(started, ANNA, 9)
    await readable(started, BEN, 3)
    yield started
    await started.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "target"))


async def backed_up(array: Array, store: Store, scratch: Path, *, catalog: bool = True) -> Manifest:
    async with reached(array) as source:
        return await take(store, source, await array.catalog() if catalog else None, None, scratch, lambda *_: None)


async def into(array: Array, store: Store, backup: Manifest, scratch: Path, *, add: bool = False) -> Restored:
    async with reached(array) as there:
        return await restore(store, backup, there, await array.catalog(), scratch, lambda *_: None, None, add=add)


async def readable(array: Array, mailbox: str, count: int) -> None:
    """Until the catalog has so many messages for a reader."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(CatalogClosed):  # it has just been made
                if len(await contents(array, mailbox)) >= count:
                    return
            await asyncio.sleep(0.02)


async def contents(array: Array, mailbox: str) -> set[str]:
    return {str(entry.placement) for entry in await (await array.catalog()).mailbox(mailbox)}


async def test_flags_come_back_and_uidvalidity_is_raised(array: Array, store: Store, tmp_path: Path) -> None:
    catalog = await array.catalog()
    entries = await catalog.mailbox(ANNA)
    flagged = {str(e.placement): 1 + i for i, e in enumerate(entries[::2])}
    rows = [FlagRow((0, 0), ANNA, e.placement, flagged[str(e.placement)]) for e in entries[::2]]
    assert await catalog.set_flags(rows) == len(rows)
    await catalog.raise_uidvalidity(2_000_000_000)
    backup = await backed_up(array, store, tmp_path)
    assert not backup.troubles and backup.flags is not None and backup.flags.rows == len(rows)
    boxes = {box: await contents(array, box) for box in (ANNA, BEN)}
    old = {row.id for row in await catalog.volumes()}
    assert len(old) == 3
    for server in array.servers:
        await server.kill()
    new = array_in(tmp_path / "new", servers=4)
    try:
        await new.start()
        await new.settled()
        done = await into(new, store, backup, tmp_path)
        assert done.flags == len(rows)
        fresh = await new.catalog()
        assert {str(row.placement): row.flags for row in await fresh.flags()} == flagged
        assert {box: await contents(new, box) for box in (ANNA, BEN)} == boxes
        assert (await fresh.state()).uidvalidity > 2_000_000_000
        assert (await fresh.counts()).under_replicated_segments == 0
        assert (await fresh.counts()).unsealed_segments == 0
        # With the catalog away, and after a rebuild, nobody waits for the volumes that are named in headers for ever.
        await new.until(lambda: all(s.agent is not None and s.agent.memory.gone >= old for s in new.servers))
        again = await backed_up(new, store, tmp_path)
        assert again.copied_bytes == 0 and again.segments == backup.segments, "the same segments, byte for byte"
    finally:
        await new.close()


async def test_everything_that_was_acknowledged_before_is_in_it(array: Array, store: Store, tmp_path: Path) -> None:
    """Without a wait between the acknowledgement and the backup, while mail goes on coming."""
    sending = True

    async def send() -> None:
        while sending:
            await array.servers[0].deliver(random_body(500), BEN)

    background = asyncio.create_task(send())
    try:
        for _ in range(5):
            assert isinstance(await array.servers[1].deliver(random_body(100), "last@mail.example"), Committed)
            backup = await backed_up(array, store, tmp_path)
            acknowledged = backup.segments
    finally:
        sending = False
        await background
    await readable(array, "last@mail.example", 5)
    last = await (await array.catalog()).mailbox("last@mail.example")
    places = {(s.segment, s.length) for s in acknowledged}
    ends = dict(places)
    assert len(last) == 5
    for entry in last:
        assert any(w.segment in ends and w.offset + w.length <= ends[w.segment] for w in entry.locations)


async def test_a_backup_without_the_catalog(array: Array, store: Store, tmp_path: Path) -> None:
    backup = await backed_up(array, store, tmp_path, catalog=False)
    assert backup.flags is None and backup.segments
    with_it = await backed_up(array, store, tmp_path)
    assert {s.segment for s in backup.segments} == {s.segment for s in with_it.segments} and not with_it.missing


async def test_too_few_servers_answer(array: Array, store: Store, tmp_path: Path) -> None:
    await array.servers[2].kill()
    backup = await backed_up(array, store, tmp_path)  # one of three may be away: the others have its mail
    assert not backup.missing
    await array.servers[1].kill()
    with pytest.raises(SourceError, match="2 of 3 servers do not answer"):
        await backed_up(array, store, tmp_path)


async def test_an_array_with_mail_is_refused(array: Array, store: Store, tmp_path: Path) -> None:
    backup = await backed_up(array, store, tmp_path)
    with pytest.raises(NotEmpty, match="holds mail already"):
        await into(array, store, backup, tmp_path)


async def test_an_interrupted_restore_is_gone_on_with(
    array: Array, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = await backed_up(array, store, tmp_path)
    boxes = {box: await contents(array, box) for box in (ANNA, BEN)}
    assert len(backup.segments) >= 3
    for server in array.servers:
        await server.kill()
    new = array_in(tmp_path / "new")
    try:
        await new.start()
        await new.settled()
        real, brought = RunningArray.bring, 0

        async def bring(self: RunningArray, volume: VolumeId, segment: SegmentId, length: int, file: Path) -> None:
            nonlocal brought
            if brought == 3:
                raise ConnectionAbortedError
            brought += 1
            await real(self, volume, segment, length, file)

        monkeypatch.setattr(RunningArray, "bring", bring)
        with pytest.raises(ConnectionAbortedError):
            await into(new, store, backup, tmp_path)
        monkeypatch.setattr(RunningArray, "bring", real)
        await into(new, store, backup, tmp_path)
        assert {box: await contents(new, box) for box in (ANNA, BEN)} == boxes
        assert isinstance(await new.servers[0].deliver(b"new", BEN), Committed)
        await readable(new, BEN, len(boxes[BEN]) + 1)
        with pytest.raises(NotEmpty):
            await into(new, store, backup, tmp_path)
        await into(new, store, backup, tmp_path, add=True)
        assert len(await contents(new, BEN)) == len(boxes[BEN]) + 1
    finally:
        await new.close()


async def test_a_sidecar_takes_nothing_but_whole_segments(array: Array, tmp_path: Path) -> None:
    async with reached(array) as there:
        listing = await there.listing()
        segment = next(iter(next(iter(listing.values()))))
        volume = next(volume for volume, rows in listing.items() if segment not in rows)
        backup = await backed_up(array, open_store(str(tmp_path / "t")), tmp_path)
        stored = next(s for s in backup.segments if s.segment == segment)
        good = (tmp_path / "t" / stored.name).read_bytes()
        file = tmp_path / "bad"
        for bad in (good[:-1], good[:200] + b"?" + good[201:], good + b"x"):
            file.write_bytes(bad)
            with pytest.raises(SourceError, match="does not take segment"):
                await there.bring(volume, segment, len(bad), file)
        assert segment not in (await there.listing())[volume]
        file.write_bytes(good)
        for _ in range(2):  # again: it is there
            await there.bring(volume, segment, len(good), file)
        assert (await there.listing())[volume][segment].replica
    assert restoring.refusal(listing, backup) is not None
