"""Overload is answered at once: memory that waits for its commit is bounded, spooled text costs none."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailarray.contract.mirroring_table import MirroringTable
from mailarray.contract.settings import StorageSettings
from mailarray.journal.disk import Disk
from mailarray.journal.spool import MEMORY_LIMIT
from mailarray.journal.volume import open_volume
from mailarray.mirroring.announce import Announcer
from mailarray.mirroring.mirrors import Mirrors
from mailarray.mirroring.writer import BUSY, JournalWriter
from mailarray.model.message import Delivery, IncomingMessage


@pytest.mark.parametrize(("size", "expected"), [(1000, None), (5000, BUSY), (MEMORY_LIMIT + 1, None)])
async def test_only_memory_counts_as_pending(tmp_path: Path, size: int, expected: object) -> None:
    mirrors = Mirrors("mail-0", MirroringTable(1, (), {}), "token", 1.0)
    writer = JournalWriter(
        open_volume(tmp_path / "volume", Disk()), mirrors, StorageSettings(copies=1), Announcer(tmp_path), 4000
    )
    body = writer.open_body()
    body.write(b"x" * size)
    deliveries = (Delivery("ann@mail.example", "ann@mail.example"),)
    writer.submit(IncomingMessage("", deliveries, body.finish()), lambda outcome: None)
    assert writer.refusal() == expected
