"""A server on a real file system of 24 MiB that fills up: 452 before it is full, and then everything but new mail.

The tmpfs is mounted for this test alone, which needs root; without it the test is skipped.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailarray.contract.settings import StorageSettings
from mailarray.journal.disk import Disk
from mailarray.journal.format import Tombstone, crc32c
from mailarray.mirroring.link import LinkState
from mailarray.model.ids import MessageId, PlacementId
from mailarray.model.message import Committed, Refused
from mailarray.tracking.peers import Peers
from tests.support.array_of_three import TOKEN, Array, fast_clocks

ANNA = "anna@mail.example"
SIZE, RESERVE = 24 << 20, 4 << 20
BODY = 96 << 10
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A mounted tmpfs, for the volume of mail-0."""
    place = tmp_path / "mail-0"
    place.mkdir()
    if _libc.mount(b"none", bytes(place), b"tmpfs", 0, f"size={SIZE}".encode()):
        pytest.skip(f"no tmpfs can be mounted here: {os.strerror(ctypes.get_errno())}")
    try:
        yield tmp_path
    finally:
        assert _libc.umount2(bytes(place), _MNT_DETACH) == 0


@pytest.mark.timeout(120)
async def test_a_volume_that_fills_up_loses_nothing_and_goes_on_with_all_but_mail(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_clocks(monkeypatch)
    dice = random.Random(7)
    array = Array(small, [Disk() for _ in range(3)], StorageSettings(reserve=RESERVE, mirror_timeout=3.0))
    first, second, _ = array.servers
    said: dict[MessageId, bytes] = {}
    try:
        await array.start()

        async def deliver(index: int, body: bytes) -> Refused | None:
            outcome = await array.servers[index].deliver(body, ANNA)
            if isinstance(outcome, Committed):
                said[outcome.id] = body
                return None
            assert isinstance(outcome, Refused)
            return outcome

        refused = None
        for _ in range(SIZE // BODY + 10):
            bodies = [dice.randbytes(dice.randrange(BODY)) for _ in range(4)]
            answers = await asyncio.gather(*(deliver(0, body) for body in bodies))
            refused = next((answer for answer in answers if answer is not None), None)
            if refused is not None:
                break
        assert refused is not None and (refused.code, refused.status) == (452, "4.3.1")
        volume = first.writer.volume if first.writer else None
        assert volume is not None
        assert 0 < volume.free_bytes() < RESERVE + (1 << 20)
        # Others take mail, and leave the full one; what they still bring it stops at half of the reserve.
        assert second.writer is not None
        deadline = asyncio.get_running_loop().time() + 60
        link = second.writer.mirrors.links["mail-0"]
        while link.state is LinkState.READY:
            assert asyncio.get_running_loop().time() < deadline
            assert await deliver(1, dice.randbytes(BODY)) is None
            await link.probe()
        for _ in range(20):
            assert await deliver(1, dice.randbytes(BODY)) is None
        assert volume.free_bytes() >= RESERVE // 2 - BODY
        # It expunges, for itself and for others,
        gone = list(said)[::3]
        for message in gone:
            outcome = await first.expunge(Tombstone(PlacementId(message, 0), message, ANNA))
            assert isinstance(outcome, Committed), outcome
            del said[message]
        # is started again, seals and registers,
        for server in array.servers:
            await server.kill()
        for server in array.servers:
            await server.start()
        for server in array.servers:
            await server.kill_writer()
        await array.settled(60)
        # and serves reads: every message that was acknowledged, once, and nothing that was deleted.
        catalog = await array.catalog()
        found = {entry.message: entry for entry in await catalog.mailbox(ANNA)}
        assert found.keys() == said.keys()
        peers = Peers("", TOKEN, lambda: array.table)
        try:
            own = [e for e in found.values() if any(volume.id in place.members for place in e.locations)]
            assert len(own) > 20
            for entry in own[:40]:
                place = next(place for place in entry.locations if volume.id in place.members)
                body = await peers.fetch(volume.id, place.segment, place.offset, place.offset + place.length)
                assert body == said[entry.message] and crc32c(body) == entry.checksum
        finally:
            await peers.close()
        assert first.agent is not None and first.agent.status()["full"] is True
    finally:
        await array.close()
