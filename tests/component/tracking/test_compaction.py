"""Expunged mail's space comes back: worn segments among three sidecars in one process. Bytes are read from disks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from mailarray.catalog.catalog import MailboxEntry
from mailarray.contract.settings import StorageSettings
from mailarray.journal.closing import read_closing
from mailarray.journal.disk import Disk
from mailarray.journal.fence import load_fence
from mailarray.journal.format import Tombstone, crc32c
from mailarray.journal.inspect import verify
from mailarray.journal.volume import Volume, read_volume
from mailarray.model.ids import MessageId, PlacementId, SegmentId
from mailarray.model.message import Committed
from tests.support.array_of_three import Array, ArrayServer, fast_clocks
from tests.support.segments import random_body

ANNA, BEN = "anna@mail.example", "ben@mail.example"
BOXES = (ANNA, BEN)
SEGMENT = 20_000  # bytes: a few messages fill one, so that there are many


@pytest.fixture
async def array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Array]:
    fast_clocks(monkeypatch)
    storage = StorageSettings(reserve=0, mirror_timeout=2.0, segment_size=SEGMENT, compact_least=1)
    made = Array(tmp_path, [Disk() for _ in range(3)], storage)
    yield made
    await made.close()


class Ledger:
    """What was acknowledged: mail, and its deletion."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.mail: dict[PlacementId, tuple[str, bytes]] = {}  # what must be read
        self.deleted: set[PlacementId] = set()
        self.uids: dict[PlacementId, int] = {}

    async def deliver(self, rounds: int, *boxes: str, indexes: Sequence[int] = (0, 1, 2)) -> None:
        for _ in range(rounds):
            for index in indexes:
                body = random_body(3000)
                id = await self._deliver(self.array.servers[index], body, boxes or (ANNA,))
                for position, box in enumerate(boxes or (ANNA,)):
                    self.mail[PlacementId(id, position)] = (box, body)

    async def _deliver(self, server: ArrayServer, body: bytes, boxes: Sequence[str]) -> MessageId:
        for _ in range(200):
            outcome = await server.deliver(body, *boxes)
            if isinstance(outcome, Committed):
                return outcome.id
            await asyncio.sleep(0.02)
        raise AssertionError("never accepted")

    async def expunge(self, *placements: PlacementId, index: int = 0) -> None:
        stones = [Tombstone(p, MessageId(p.record), self.mail[p][0]) for p in placements]
        assert isinstance(await self.array.servers[index].expunge(*stones), Committed)
        for placement in placements:
            del self.mail[placement]
            self.deleted.add(placement)

    async def registered(self) -> None:
        """Until readers find what they should."""
        async with asyncio.timeout(15):
            while sum([len(box) for box in (await self.entries()).values()]) != len(self.mail):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def entries(self) -> dict[str, list[MailboxEntry]]:
        catalog = await self.array.catalog()
        return {box: await catalog.mailbox(box) for box in BOXES}

    async def check(self, among: Sequence[ArrayServer] | None = None, copies: int = 2) -> None:
        """Each message once, under the UIDL that it had, on so many disks, byte for byte; nothing that was deleted."""
        found = {}
        for box, listed in (await self.entries()).items():
            for entry in listed:
                assert entry.placement not in found, "a placement twice"
                bodies = bytes_on(entry, among or self.array.servers)
                assert len(bodies) >= copies, f"message {entry.message.hex()} is on {len(bodies)} disks"
                found[entry.placement] = (box, bodies[0])
        assert found.keys() & self.deleted == set(), "deleted mail is back"
        assert found == self.mail


def volume_of(server: ArrayServer) -> Volume:
    return read_volume(Path(server.settings.volume), Disk())


def bytes_on(entry: MailboxEntry, among: Sequence[ArrayServer]) -> list[bytes]:
    found = []
    for server in among:
        volume = volume_of(server)
        for place in entry.locations:
            path = volume.segment_path(place.segment)
            if volume.id in place.members and path.exists():
                body = path.read_bytes()[place.offset : place.offset + place.length]
                if len(body) == entry.length and crc32c(body) == entry.checksum:
                    found.append(body)
                    break
    return found


def segments_on(server: ArrayServer) -> dict[SegmentId, int]:
    """Files, by their length."""
    volume = volume_of(server)
    return {s: p.stat().st_size for s in volume.list_segments() if (p := volume.segment_path(s)).exists()}


def closings_on(server: ArrayServer) -> dict[SegmentId, tuple[SegmentId, ...]]:
    volume = volume_of(server)
    found = {}
    for segment, size in segments_on(server).items():
        with volume.segment_path(segment).open("rb") as file:
            if named := read_closing(file.fileno(), segment, size):
                found[segment] = named
    return found


async def worn_and_left(array: Array, ledger: Ledger, share: float = 0.8) -> dict[str, int]:
    """Many segments of which most is deleted; answers how many bytes each server held."""
    await ledger.deliver(8, ANNA)
    await ledger.deliver(2, ANNA, BEN)
    await ledger.registered()
    before = {server.settings.server: sum(segments_on(server).values()) for server in array.servers}
    dice = random.Random(7)
    whole = {p.record for p in ledger.mail}
    victims = {record for record in whole if dice.random() < share}
    await ledger.expunge(*(p for p in ledger.mail if p.record in victims))
    await ledger.registered()
    return before


async def at_rest(array: Array) -> bool:
    """Nothing is worn, pending or superseded any more."""
    catalog = await array.catalog()
    for server in array.servers:
        agent = server.agent
        if agent is None:
            continue
        if agent.superseder.pending() or agent.dropper.pending or await catalog.worn_segments(agent.volume.id, 50):
            return False
    return True


async def compacted(array: Array, seconds: float = 30.0) -> None:
    """Until there is nothing left to do, seen twice."""
    async with asyncio.timeout(seconds):
        while not any(closings_on(s) for s in array.servers):  # noqa: ASYNC110 (a disk tells nobody)
            await asyncio.sleep(0.05)
        for _ in range(2):
            while not await at_rest(array):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.3)


async def test_the_space_of_deleted_mail_comes_back_on_all_servers(array: Array) -> None:
    await array.start()
    ledger = Ledger(array)
    before = await worn_and_left(array, ledger)
    for server in array.servers:
        await server.kill_writer()
    await compacted(array)
    await array.settled()
    catalog = await array.catalog()
    for server in array.servers:
        left = segments_on(server)
        assert sum(left.values()) < 0.5 * before[server.settings.server]
        assert server.agent is not None and server.agent.dropper.reclaimed > 0
        assert all(report.sound for report in verify(volume_of(server)))
        for segment in volume_of(server).list_segments():
            fence = load_fence(volume_of(server), segment)
            assert fence.dropped == (segment not in left)
    await ledger.check()
    stands = {segment for server in array.servers for segment in segments_on(server)}
    for listed in (await ledger.entries()).values():
        assert {place.segment for entry in listed for place in entry.locations} <= stands
    counts = await catalog.counts()
    assert counts.messages == len({p.record for p in ledger.mail})
    assert counts.under_replicated_segments == 0
    assert counts.tombstones == len(ledger.deleted)

    # The journals alone make the same catalog.
    epoch = await catalog.reset()
    await array.until(
        lambda: all(s.agent and s.agent.link.state and s.agent.link.state.epoch == epoch for s in array.servers)
    )
    await array.settled()
    await ledger.check()
    again = await catalog.counts()
    assert (again.messages, again.tombstones) == (counts.messages, counts.tombstones)
    told = {row.segment for row in await catalog.superseded_since(0)}
    assert told == set().union(*(named for s in array.servers for named in closings_on(s).values()))
