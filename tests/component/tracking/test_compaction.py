"""Expunged mail's space comes back: worn segments among three sidecars in one process. Bytes are read from disks."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mailarray.catalog.rows import MailboxEntry, TombstoneRow
from mailarray.contract.settings import StorageSettings
from mailarray.journal.closing import read_closing
from mailarray.journal.disk import Disk, SyncPoint
from mailarray.journal.fence import load_fence
from mailarray.journal.format import Tombstone
from mailarray.journal.inspect import verify
from mailarray.model.ids import MessageId, PlacementId, SegmentId
from mailarray.model.message import Committed
from mailarray.tracking.dropping import Dropper
from mailarray.tracking.fencing import NotMember
from mailarray.tracking.proof import Prover
from tests.support.array_of_three import Array, ArrayServer, bytes_on, fast_clocks, volume_of
from tests.support.powercut import PowerCutDisk
from tests.support.segments import random_body

ANNA, BEN = "anna@mail.example", "ben@mail.example"
BOXES = (ANNA, BEN)
SEGMENT = 20_000  # bytes: a few messages fill one, so that there are many
PERCENT = 1  # however the messages fall into segments, every deleted one makes its segment worn


@pytest.fixture
async def array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Array]:
    fast_clocks(monkeypatch)
    storage = StorageSettings(
        reserve=0, mirror_timeout=2.0, segment_size=SEGMENT, compact_least=1, compact_percent=PERCENT
    )
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
        if agent.superseder.pending() or agent.dropper.pending or await catalog.worn_segments(agent.volume.id, PERCENT):
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
    await started(array)
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
    await reset(array, array.servers)
    await ledger.check()
    again = await catalog.counts()
    assert (again.messages, again.tombstones) == (counts.messages, counts.tombstones)
    told = {row.segment for row in await catalog.superseded_since(0)}
    assert told == set().union(*(named for s in array.servers for named in closings_on(s).values()))


async def test_a_later_holder_notes_what_the_catalog_knows_to_count(
    array: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    await started(array)
    ledger = Ledger(array)
    await worn_and_left(array, ledger)
    for server in array.servers:
        await server.kill_writer()
    await compacted(array)

    async def nothing_proved(*_: object) -> str:
        return "somebody is away"

    monkeypatch.setattr(Prover, "missing", nothing_proved)
    empty = array.servers[0]
    await empty.kill()
    outputs = closings_on(empty)
    shutil.rmtree(empty.settings.volume)
    await empty.start_sidecar()
    await array.until(lambda: outputs and all(load_fence(volume_of(empty), output).counts for output in outputs), 30)


async def reset(array: Array, running: Sequence[ArrayServer]) -> None:
    """Drop the catalog's rows, and wait until those sidecars have told everything again."""
    epoch = await (await array.catalog()).reset()
    await array.until(
        lambda: all(s.agent is not None and s.agent.link.state and s.agent.link.state.epoch == epoch for s in running)
    )
    await array.settled(servers=running)


async def started(array: Array) -> None:
    """With a catalog that is open."""
    await array.start()
    await array.until(lambda: all(s.agent and s.agent.link.state and s.agent.link.state.open for s in array.servers))


async def only_writer(array: Array, ledger: Ledger, index: int = 0) -> tuple[SegmentId, ArrayServer]:
    """Mail of one writer in one sealed segment, most of it deleted; answers the segment and its mirror's server."""
    await started(array)
    writer = array.servers[index].writer
    assert writer is not None
    await ledger.deliver(5, ANNA, indexes=(index,))
    assert writer.segment is not None
    segment, mirror = writer.segment.header.segment, writer.segment.links[0].server.name
    await ledger.registered()
    return segment, next(s for s in array.servers if s.settings.server == mirror)


def gone_from(array: Array, segment: SegmentId, *servers: ArrayServer) -> bool:
    return not any(segment in segments_on(server) for server in servers or array.servers)


@pytest.mark.parametrize("restored", [False, True], ids=["", "catalog made anew meanwhile"])
async def test_a_server_that_comes_back_with_an_input_drops_it(array: Array, restored: bool) -> None:
    ledger = Ledger(array)
    segment, stale = await only_writer(array, ledger)
    await stale.kill()
    others = [server for server in array.servers if server is not stale]
    victims = list(ledger.mail)[:4]
    await ledger.expunge(*victims)
    await ledger.registered()
    for server in others:
        await server.kill_writer()
    await array.until(lambda: gone_from(array, segment, *others), 30)
    assert segment in segments_on(stale)
    await ledger.check(others)
    if restored:
        await reset(array, others)
        await ledger.check(others)
    await stale.start()
    await array.until(lambda: gone_from(array, segment), 30)
    await stale.kill_writer()
    await array.settled()
    await ledger.check()
    fence = load_fence(volume_of(stale), segment)
    assert fence.dropped and fence.fenced
    # Nothing brings it back: not a late batch, not a fence, not a copy, not a restart.
    agent = stale.agent
    assert agent is not None
    said = await agent.receiver.put(segment, 0, 0, b"", 0)
    assert said.status == 423
    with pytest.raises(NotMember):
        await agent.fencer.fence(segment)
    assert agent.shelf.holds(segment) and agent.shelf.adopt_left(segment) is None
    await stale.kill_sidecar()
    volume_of(stale).segment_path(segment).write_bytes(b"what a power cut brought back")
    await stale.start_sidecar()
    assert gone_from(array, segment)
    await reset(array, array.servers)
    await ledger.check()


async def test_two_that_compact_the_same_segment_at_once_lose_and_double_nothing(array: Array) -> None:
    ledger = Ledger(array)
    segment, mirror = await only_writer(array, ledger)
    for server in array.servers:
        assert server.agent is not None
        server.agent.compactor._storage = StorageSettings(compact_percent=100)
        await server.kill_writer()
    await array.settled()
    await (await array.catalog()).expunge(
        [TombstoneRow(p, MessageId(p.record), ledger.mail[p][0]) for p in list(ledger.mail)[:3]]
    )
    for placement in list(ledger.mail)[:3]:
        del ledger.mail[placement]
    agents = [array.servers[0].agent, mirror.agent]
    inputs = []
    for agent in agents:
        assert agent is not None
        found = await agent.compactor._look_into(segment)
        assert found is not None and len(found.dead) == 3
        inputs.append(found)
    outputs = await asyncio.gather(
        *(a.compactor.compact([i], a.link.epoch) for a, i in zip(agents, inputs, strict=True) if a)
    )
    assert None not in outputs
    await array.until(lambda: gone_from(array, segment), 30)
    await array.settled()
    await ledger.check()
    listed = (await ledger.entries())[ANNA]
    assert {frozenset(place.segment for place in entry.locations) for entry in listed} == {frozenset(outputs)}


async def nothing() -> None:
    """Instead of work."""


async def test_with_too_few_copies_the_inputs_stay(array: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailarray.tracking.repairing.Repairer._fetch", lambda *_: nothing())  # nobody copies
    ledger = Ledger(array)
    segment, mirror = await only_writer(array, ledger)
    await ledger.expunge(*list(ledger.mail)[:4])
    for server in array.servers:
        await server.kill_writer()
    await array.until(lambda: any(closings_on(s) for s in array.servers), 30)
    await array.settled()
    await asyncio.sleep(0.5)
    assert segment in segments_on(array.servers[0]) and segment in segments_on(mirror)
    assert not any(s.agent and s.agent.under_replicated() for s in array.servers)
    await ledger.check()


async def test_mail_of_which_the_catalog_knows_nothing_is_kept(array: Array) -> None:
    """Rule 24: only a tombstone lets a record go."""
    ledger = Ledger(array)
    segment, _ = await only_writer(array, ledger)
    unknown = list(ledger.mail)[-1]
    await ledger.expunge(*list(ledger.mail)[:4])
    for server in array.servers:
        await server.kill_writer()
    with sqlite3.connect(array.catalog_url.removeprefix("sqlite:///"), timeout=10) as db:
        for table, column in (("messages", "id"), ("placements", "message")):
            db.execute(f"DELETE FROM {table} WHERE {column} = ?", (unknown.record,))
    await array.until(lambda: gone_from(array, segment), 30)
    await reset(array, array.servers)
    await ledger.check()


async def test_tombstones_outlive_the_segment_that_they_stood_in(array: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 22: their segment is compacted, and a server comes back with the mail that they name."""
    ledger = Ledger(array)
    segment, stale = await only_writer(array, ledger)
    await stale.kill()
    index = next(i for i in (1, 2) if array.servers[i] is not stale)
    others = [server for server in array.servers if server is not stale]
    victims = list(ledger.mail)
    await ledger.deliver(5, BEN, indexes=(index,))
    await ledger.expunge(*victims, index=index)  # beside mail that goes, too
    await ledger.registered()
    stones = {s for server in others for s in segments_on(server)} - {segment}
    await ledger.expunge(*ledger.mail, index=index)
    for server in others:
        await server.kill_writer()
    await array.until(
        lambda: any(gone_from(array, s, *others) for s in stones) and gone_from(array, segment, *others), 30
    )
    monkeypatch.setattr("mailarray.tracking.dropping.Dropper._give_up", lambda *_: nothing())  # it stays to be told
    await stale.start()
    await stale.kill_writer()
    await reset(array, array.servers)
    await ledger.check()
    assert (await (await array.catalog()).counts()).tombstones == len(ledger.deleted)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "point",
    [SyncPoint.OUTPUT_FILE, SyncPoint.FENCE_FILE, SyncPoint.FENCE_NAME, SyncPoint.DROPPED],
    ids=lambda p: p.name,
)
async def test_a_power_cut_at_each_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: SyncPoint, seed: int
) -> None:
    fast_clocks(monkeypatch)
    storage = StorageSettings(reserve=0, mirror_timeout=2.0, segment_size=SEGMENT, compact_least=1)
    disk = PowerCutDisk()
    array = Array(tmp_path, [disk, Disk(), Disk()], storage)
    try:
        ledger = Ledger(array)
        segment, _ = await only_writer(array, ledger)
        server = array.servers[0]
        cuts: list[PowerCutDisk] = []
        skip = [seed if point in (SyncPoint.FENCE_FILE, SyncPoint.FENCE_NAME) else 0]  # which fence of several

        def cut(seen: SyncPoint) -> None:
            if seen is point and not cuts and closed(server):
                skip[0] -= 1
                if skip[0] < 0:
                    cuts.append(disk.power_cut(seed, keep=seed > 0))

        await ledger.expunge(*list(ledger.mail)[:4])
        await ledger.registered()
        for other in array.servers:
            await other.kill_writer()
        disk.hook = cut
        await array.until(lambda: cuts, 30)
        await server.kill()
        server.disk = cuts[0]
        await server.start_sidecar()
        await array.until(lambda: gone_from(array, segment), 30)
        await compacted(array)
        await array.settled()
        await ledger.check()
        for each in array.servers:
            assert all(report.sound for report in verify(volume_of(each)))
            assert volume_of(each).list_outputs() == []
        await reset(array, array.servers)
        await ledger.check()
    finally:
        await array.close()


def closed(server: ArrayServer) -> list[Path]:
    """Files of an output, under either name, and of a segment that is being dropped."""
    folder = Path(server.settings.volume) / "segments"
    return [*folder.glob("*.output"), *(volume_of(server).segment_path(s) for s in closings_on(server))]


async def test_closing_records_repeat_what_their_inputs_stood_for(array: Array) -> None:
    """Rule 23: after two generations a catalog made anew still refuses the first inputs."""
    ledger = Ledger(array)
    segment, stale = await only_writer(array, ledger)
    await stale.kill()
    others = [server for server in array.servers if server is not stale]
    for server in others:
        await server.kill_writer()
    await ledger_expunges(array, ledger, 3)
    await array.until(lambda: gone_from(array, segment, *others), 30)
    (first,) = {s for server in others for s in closings_on(server)}
    await ledger_expunges(array, ledger, 2)  # all that was left: an output with nothing but tombstones and its end
    await array.until(lambda: gone_from(array, first, *others), 30)
    await reset(array, others)
    named = {frozenset(names) for server in others for names in closings_on(server).values()}
    assert named == {frozenset({segment, first})}
    assert {row.segment for row in await (await array.catalog()).superseded_since(0)} == {segment, first}
    await stale.start_sidecar()
    await array.until(lambda: gone_from(array, segment), 30)
    await array.settled()
    await ledger.check()


async def ledger_expunges(array: Array, ledger: Ledger, count: int) -> None:
    """Deletions by a writer that is started for them."""
    server = next(s for s in array.servers if s.agent is not None)
    await server.start_writer()
    await ledger.expunge(*list(ledger.mail)[:count], index=array.servers.index(server))
    await server.kill_writer()
    await ledger.registered()


async def test_a_server_is_drained_only_when_what_it_compacted_counts(
    array: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [False]
    missing = Prover.missing

    async def slow(self: Prover, *arguments: Any) -> str | None:
        return await missing(self, *arguments) if asked[0] else "nobody was asked yet"

    drop = Dropper.look

    async def later(self: Dropper) -> None:
        if array.servers[0].agent is None:  # it is off, for good perhaps: nobody waits for its word
            await drop(self)

    monkeypatch.setattr(Prover, "missing", slow)
    monkeypatch.setattr(Dropper, "look", later)
    ledger = Ledger(array)
    segment, _ = await only_writer(array, ledger)
    await ledger.expunge(*list(ledger.mail)[:4])
    await array.until(lambda: array.servers[0].writer is not None)
    await array.servers[0].kill_writer()
    await array.until(lambda: closings_on(array.servers[0]), 30)
    await array.servers[0].start_writer()
    await array.push(mail_0="Draining")

    def said() -> dict[str, Any]:
        agent = array.servers[0].agent
        return (agent.status()["drain"] if agent is not None else None) or {}

    await array.until(lambda: "does not stand" in (said().get("waiting_for") or ""))
    asked[0] = True
    await array.until(lambda: said().get("done"), 30)
    await array.servers[0].kill()
    await array.until(lambda: gone_from(array, segment, *array.servers[1:]), 30)
    await ledger.check(array.servers[1:])
