"""One segment is copied from another sidecar: crashes at every sync, sources that break off or lie, full disks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mailarray.contract.settings import StorageSettings
from mailarray.journal.disk import Disk, SyncPoint
from mailarray.journal.fence import Fence, load_fence, save_fence
from mailarray.journal.volume import Volume, open_volume
from mailarray.model.ids import VolumeId, new_volume_id
from mailarray.tracking.copying import Pace
from mailarray.tracking.peers import Peers, PeerUnreachable
from tests.support.array_of_three import Array, ArrayServer, fast_clocks
from tests.support.powercut import PowerCutDisk
from tests.support.segments import Made, made, mail, put_file, random_body

ANNA = "anna@mail.example"
POINTS = (SyncPoint.COPY_FILE, SyncPoint.FENCE_FILE, SyncPoint.FENCE_NAME)


@pytest.fixture
async def array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Array]:
    fast_clocks(monkeypatch)
    monkeypatch.setattr("mailarray.tracking.copying.PIECE", 4096)  # a segment comes in several pieces
    made_array = Array(tmp_path, [Disk(), PowerCutDisk(), Disk()], StorageSettings(reserve=0, mirror_timeout=2.0))
    yield made_array
    await made_array.close()


def volume_of(server: ArrayServer) -> Volume:
    return open_volume(Path(server.settings.volume), Disk())


def sealed(array: Array, *holders: int) -> Made:
    """A segment of those servers, and of a member that nobody knows; sealed, as its fence files say."""
    volumes = [volume_of(array.servers[index]) for index in holders]
    members = [v.id for v in volumes]
    segment = made(*members, *([] if len(members) > 1 else [new_volume_id()]))
    for _ in range(5):
        segment.add([mail(random_body(3000), ANNA)])
    for volume in volumes:
        put_file(volume, segment.header.segment, segment.data)
        save_fence(volume, segment.header.segment, Fence(True, len(segment.data), 1, False, True))
    return segment


def is_told(array: Array, index: int, segment: Made) -> Callable[[], bool]:
    """The server has a copy at rest: durable, and known to the catalog."""

    def told() -> bool:
        agent = array.servers[index].agent
        if agent is None or agent.link.state is None:
            return False
        holding = agent.shelf.holdings.get(segment.header.segment)
        # An attempt that failed leaves an empty one, which is at rest, too.
        return holding is not None and holding.readable > 0 and holding.settled_epoch == agent.link.state.epoch

    return told


async def holders(array: Array, segment: Made) -> set[VolumeId]:
    rows = await (await array.catalog()).segments([segment.header.segment])
    row = rows[segment.header.segment]
    return {*row.facts.members, *row.replicas}


def on_disk(volume: Volume, segment: Made) -> bytes | None:
    path = volume.segment_path(segment.header.segment)
    return path.read_bytes() if path.exists() else None


async def test_a_copy_is_whole_fenced_and_told(array: Array) -> None:
    segment = sealed(array, 0)
    await array.servers[0].start_sidecar()
    await array.servers[1].start_sidecar()
    await array.until(is_told(array, 1, segment))
    volume = volume_of(array.servers[1])
    assert on_disk(volume, segment) == segment.data
    fence = load_fence(volume, segment.header.segment)
    assert (fence.fenced, fence.sealed_length, fence.whole) == (True, len(segment.data), True)
    assert volume.list_copies() == []
    assert volume.id in await holders(array, segment)
    target = array.servers[1].agent  # the segment is years old, and was read through as it was copied
    assert target is not None and target.scrubber.oldest() < 3600


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
async def test_a_power_cut_at_each_sync(array: Array, point: SyncPoint, seed: int) -> None:
    segment = sealed(array, 0)
    server = array.servers[1]
    disk = server.disk
    assert isinstance(disk, PowerCutDisk)
    fresh: list[PowerCutDisk] = []

    def cut(seen: SyncPoint) -> None:
        if seen is point and not fresh:
            fresh.append(disk.power_cut(seed, keep=seed > 0))

    disk.hook = cut
    await array.servers[0].start_sidecar()
    await server.start_sidecar()
    await array.until(lambda: fresh)
    await server.kill_sidecar()
    volume = volume_of(server)
    left = on_disk(volume, segment)
    assert left in (None, segment.data)  # never part of a segment under its name
    assert left is not None or volume.id not in await holders(array, segment)
    server.disk = fresh[0]
    await server.start_sidecar()
    await array.until(is_told(array, 1, segment))
    assert on_disk(volume, segment) == segment.data
    assert volume.list_copies() == []
    assert volume.id in await holders(array, segment)


@pytest.mark.parametrize("omitted", [(), (SyncPoint.COPY_FILE,), (SyncPoint.FENCE_NAME,)])
async def test_what_was_told_survives_a_power_cut_thanks_to_these_syncs(
    array: Array, omitted: tuple[SyncPoint, ...]
) -> None:
    segment = sealed(array, 0)
    server = array.servers[1]
    server.disk = disk = PowerCutDisk(frozenset(omitted))
    await array.servers[0].start_sidecar()
    await server.start_sidecar()
    await array.until(is_told(array, 1, segment))
    disk.power_cut()
    await server.kill_sidecar()
    assert (on_disk(volume_of(server), segment) == segment.data) == (not omitted)


async def test_a_copy_is_gone_on_with_and_one_that_nobody_wants_is_removed(
    array: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = sealed(array, 0)
    volume = volume_of(array.servers[1])
    half = 9000  # of which whole blocks are kept
    volume.copy_path(segment.header.segment).write_bytes(segment.data[:half])
    unwanted = made()
    volume.copy_path(unwanted.header.segment).write_bytes(b"x")
    asked: list[int] = []
    fetch = Peers.fetch_into

    async def watched(self: Peers, volume: VolumeId, of: object, start: int, buffer: memoryview) -> int:
        asked.append(start)
        return await fetch(self, volume, of, start, buffer)  # type: ignore[arg-type]

    monkeypatch.setattr(Peers, "fetch_into", watched)
    await array.servers[0].start_sidecar()
    await array.servers[1].start_sidecar()
    await array.until(is_told(array, 1, segment))
    assert min(asked) == 8192
    assert on_disk(volume, segment) == segment.data
    await array.until(lambda: volume.list_copies() == [])


async def test_a_source_with_other_bytes_is_not_believed(array: Array) -> None:
    segment = sealed(array, 0, 2)
    damaged = bytearray(segment.data)
    damaged[-10] ^= 1
    first = (0, 2)[segment.header.segment[-1] % 2]  # the one that is asked first
    put_file(volume_of(array.servers[first]), segment.header.segment, bytes(damaged))
    for server in array.servers:
        await server.start_sidecar()
    await array.until(lambda: all(s.agent and s.agent.link.up for s in array.servers))
    agent = array.servers[1].agent
    assert agent is not None
    holding = None
    for server in (array.servers[0], array.servers[2]):
        assert server.agent is not None
        holding = server.agent.shelf.holdings[segment.header.segment]
    assert holding is not None and holding.facts is not None
    copied = await agent.repairer._copier.copy(holding.facts, len(segment.data), 1, holding.facts.members)
    assert copied
    assert on_disk(agent.volume, segment) == segment.data


async def test_a_source_that_breaks_off_is_left_for_the_next(array: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = sealed(array, 0, 2)
    for server in array.servers:
        await server.start_sidecar()
    agent = array.servers[1].agent
    assert agent is not None
    fetch = Peers.fetch_into
    breaking = segment.header.members[segment.header.segment[-1] % 2]

    async def broken(self: Peers, volume: VolumeId, of: object, start: int, buffer: memoryview) -> int:
        if volume == breaking and start > 5000:
            raise PeerUnreachable("the cable was pulled")
        return await fetch(self, volume, of, start, buffer)  # type: ignore[arg-type]

    monkeypatch.setattr(Peers, "fetch_into", broken)
    await array.until(lambda: agent.link.up)
    holding = array.servers[0].agent.shelf.holdings[segment.header.segment] if array.servers[0].agent else None
    assert holding is not None and holding.facts is not None
    assert await agent.repairer._copier.copy(holding.facts, len(segment.data), 1, holding.facts.members)
    assert on_disk(agent.volume, segment) == segment.data


async def test_a_byte_that_changes_on_the_way_is_seen(array: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = sealed(array, 0)
    fetch = Peers.fetch_into
    changed: list[int] = []

    async def noisy(self: Peers, volume: VolumeId, of: object, start: int, buffer: memoryview) -> int:
        count = await fetch(self, volume, of, start, buffer)  # type: ignore[arg-type]
        if start > 5000 and not changed:
            changed.append(start)
            buffer[100] ^= 1
        return count

    monkeypatch.setattr(Peers, "fetch_into", noisy)
    await array.servers[0].start_sidecar()
    await array.servers[1].start_sidecar()
    await array.until(is_told(array, 1, segment))
    assert changed
    assert on_disk(volume_of(array.servers[1]), segment) == segment.data


async def test_a_source_that_holds_less_than_it_should_is_left(array: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = sealed(array, 0, 2)
    first = (0, 2)[segment.header.segment[-1] % 2]  # the one that is asked first
    put_file(volume_of(array.servers[first]), segment.header.segment, segment.data[:9000])
    for server in array.servers:
        await server.start_sidecar()
    agent = array.servers[1].agent
    assert agent is not None
    await array.until(lambda: all(s.agent and s.agent.link.up for s in array.servers))
    facts = next(
        holding.facts
        for s in array.servers
        if s.agent and (holding := s.agent.shelf.holdings.get(segment.header.segment)) and holding.facts
    )
    if not agent.shelf.holds(facts.id):
        await agent.copier.copy(facts, len(segment.data), 1, segment.header.members)
    await array.until(is_told(array, 1, segment))
    assert on_disk(agent.volume, segment) == segment.data


async def test_a_copy_that_is_cancelled_is_gone_on_with(array: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = sealed(array, 0)
    fetch, reached = Peers.fetch_into, asyncio.Event()

    async def halting(self: Peers, volume: VolumeId, of: object, start: int, buffer: memoryview) -> int:
        if start > 5000 and not reached.is_set():
            reached.set()
            await asyncio.Event().wait()
        return await fetch(self, volume, of, start, buffer)  # type: ignore[arg-type]

    monkeypatch.setattr(Peers, "fetch_into", halting)
    await array.servers[0].start_sidecar()
    await array.servers[1].start_sidecar()
    async with asyncio.timeout(30):
        await reached.wait()
    await array.servers[1].kill_sidecar()
    volume = volume_of(array.servers[1])
    assert volume.copy_path(segment.header.segment).stat().st_size == 8192
    assert on_disk(volume, segment) is None
    await array.servers[1].start_sidecar()
    await array.until(is_told(array, 1, segment))
    assert on_disk(volume, segment) == segment.data


async def test_what_a_failed_sync_left_is_never_gone_on_with(array: Array) -> None:
    segment = sealed(array, 0)
    disk = array.servers[1].disk
    failed: list[bool] = []
    volume = volume_of(array.servers[1])

    def fail(point: SyncPoint) -> None:
        if point is SyncPoint.COPY_FILE and not failed:
            failed.append(True)
            raise OSError(5, os.strerror(5))

    assert isinstance(disk, PowerCutDisk)
    disk.hook = fail
    removed: list[str] = []
    remove = disk.remove

    def watched(path: Path) -> None:
        removed.append(path.name)
        remove(path)

    disk.remove = watched  # type: ignore[method-assign]
    await array.servers[0].start_sidecar()
    await array.servers[1].start_sidecar()
    await array.until(lambda: on_disk(volume, segment) == segment.data, 30)
    await array.until(is_told(array, 1, segment))
    assert volume.copy_path(segment.header.segment).name in removed
    assert on_disk(volume, segment) == segment.data


async def test_a_disk_below_its_reserve_says_so_and_goes_on_later(
    array: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = sealed(array, 0)
    free = [1 << 40]
    monkeypatch.setattr(Volume, "free_bytes", lambda self: free[0])
    await array.servers[0].start_sidecar()
    await array.servers[1].start_sidecar()
    agent = array.servers[1].agent
    assert agent is not None
    agent.repairer._reserve = agent.repairer._copier._reserve = 1000
    free[0] = 5000  # room above the reserve, but not for the segment
    await array.until(lambda: "enlarge" in (agent.status()["copying"]["problem"] or ""))
    free[0] = 500
    await array.until(lambda: "full" in (agent.status()["copying"]["problem"] or ""))
    assert on_disk(agent.volume, segment) is None
    free[0] = 1 << 40
    await array.until(is_told(array, 1, segment))
    assert agent.status()["copying"]["problem"] is None


async def test_a_write_that_finds_the_disk_full_gives_its_room_back(array: Array) -> None:
    segment = sealed(array, 0)
    disk = array.servers[1].disk
    full = [True]
    write = disk.write

    def no_space(fd: int, buffers: object, offset: int) -> None:
        if full[0] and offset >= 8000:
            raise OSError(28, os.strerror(28))
        write(fd, buffers, offset)  # type: ignore[arg-type]

    disk.write = no_space  # type: ignore[method-assign]
    await array.servers[0].start_sidecar()
    await array.servers[1].start_sidecar()
    agent = array.servers[1].agent
    assert agent is not None
    await array.until(lambda: "full" in (agent.status()["copying"]["problem"] or ""))
    full[0] = False
    await array.until(is_told(array, 1, segment))
    assert on_disk(agent.volume, segment) == segment.data


async def test_copies_keep_to_their_rate() -> None:
    pace = Pace(rate=100_000)
    started = asyncio.get_running_loop().time()
    await asyncio.gather(*(pace.take(2_000) for _ in range(10)))
    assert 0.15 < asyncio.get_running_loop().time() - started < 1.0
