"""A writer that starts while its sidecar holds the lock for a moment."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest

from mailarray.journal.disk import Disk
from mailarray.journal.volume import Volume, VolumeError, open_volume
from mailarray.smtp import process


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return open_volume(tmp_path / "volume", Disk())


async def test_it_waits_until_the_lock_is_free_and_says_so_once(
    volume: Volume, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LOCK_AGAIN", 0.01)
    caplog.set_level(logging.INFO)
    tries = 0
    real = volume.try_lock_writer

    def counted() -> int | None:
        nonlocal tries
        tries += 1
        return real()

    with volume.writer_locked() as locked:
        assert locked
        monkeypatch.setattr(volume, "try_lock_writer", counted)
        waiting = asyncio.create_task(process.lock_writer(volume))
        async with asyncio.timeout(10):
            while tries < 3:  # noqa: ASYNC110 (nothing tells of a try)
                await asyncio.sleep(0.01)
        assert not waiting.done()
    lock = await asyncio.wait_for(waiting, 10)
    assert real() is None
    os.close(lock)
    assert [record.message for record in caplog.records] == ["waits for the writer's lock"]


async def test_another_writer_is_said_after_a_while(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    assert process.LOCK_PATIENCE == 15.0
    monkeypatch.setattr(process, "LOCK_PATIENCE", 0.2)
    with volume.writer_locked(), pytest.raises(VolumeError, match=r"another writer uses the volume .*; stop it, or"):
        await process.lock_writer(volume)
