"""A byte that flips on a disk is found and mended, byte for byte; what nobody can mend is named."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mailarray.catalog.rows import MailboxEntry
from mailarray.contract import paths
from mailarray.contract.settings import StorageSettings
from mailarray.journal.disk import Disk
from mailarray.journal.format import BATCH_HEADER_LENGTH, crc32c
from mailarray.journal.scan import read_batches, read_segment_header
from mailarray.journal.volume import open_volume
from mailarray.model.ids import SegmentId, new_segment_id
from mailarray.model.message import Committed
from mailarray.tracking.peers import PeerUnreachable
from mailarray.tracking.scrub_memory import ScrubMemory
from tests.support.array_of_three import Array, ArrayServer, fast_clocks

ANNA, BEN = "anna@mail.example", "ben@mail.example"
BODIES = [b"one" * 100, b"two" * 200, b"three" * 50]


@pytest.fixture
async def array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Array]:
    fast_clocks(monkeypatch)
    made = Array(tmp_path, [Disk(), Disk()], StorageSettings(reserve=0, mirror_timeout=2.0, scrub_rate=1 << 30))
    await made.start()
    for body in BODIES:
        assert isinstance(await made.servers[0].deliver(body, ANNA, BEN), Committed)
    for server in made.servers:
        await server.kill_writer()
    await made.settled(30)
    yield made
    await made.close()


def the_segment(server: ArrayServer) -> tuple[SegmentId, Path]:
    assert server.agent is not None
    volume = server.agent.volume
    (segment,) = [s for s in volume.list_segments() if volume.segment_path(s).exists()]
    return segment, volume.segment_path(segment)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def places(path: Path) -> dict[str, int]:
    """Where a byte of each kind stands."""
    with path.open("rb") as file:
        header = read_segment_header(file.fileno())
        batches = list(read_batches(file.fileno(), header, 0, path.stat().st_size))
    second = batches[1].header
    return {
        "segment header": 20,
        "batch header": second.offset + 9,
        "metadata": second.offset + BATCH_HEADER_LENGTH + 30,
        "body": second.bodies_offset + 5,
        "first batch": header.length + 1,
        "last byte": path.stat().st_size - 1,
        "magic of the last batch": batches[-1].header.offset,
    }


async def until(true: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def bodies_read(array: Array, server: ArrayServer) -> list[bytes]:
    """As a reader does it: from this server, and from the other one when the checksum is wrong."""
    catalog = await array.catalog()
    entries: list[MailboxEntry] = await catalog.mailbox(ANNA)
    found = []
    for entry in entries:
        (place,) = entry.locations
        for one in (server, *array.servers):
            assert one.agent is not None
            other = array.servers[1 - array.servers.index(one)].agent
            assert other is not None
            try:
                body = await other.peers.fetch(
                    one.agent.volume.id, place.segment, place.offset, place.offset + place.length
                )
            except PeerUnreachable:
                continue
            if crc32c(body) == entry.checksum:
                found.append(body)
                break
    return found


KINDS = ["segment header", "batch header", "metadata", "body", "first batch", "last byte", "magic of the last batch"]


@pytest.mark.parametrize("restarted", [False, True], ids=["while it runs", "before a start"])
@pytest.mark.parametrize("holder", [0, 1], ids=["writer", "mirror"])
async def test_a_flipped_byte_is_mended(array: Array, holder: int, restarted: bool) -> None:
    server = array.servers[holder]
    _, path = the_segment(server)
    good = path.read_bytes()
    wheres = places(path)
    assert list(wheres) == KINDS
    for number, (kind, offset) in enumerate(wheres.items(), 1):
        if restarted:
            await server.kill_sidecar()
        flip(path, offset)
        assert path.read_bytes() != good
        if restarted:
            await server.start_sidecar()
            await until(lambda: server.agent is not None and server.agent.link.up)
            number = 1
        assert server.agent is not None
        scrubber = server.agent.scrubber
        assert await bodies_read(array, server) == BODIES, kind
        assert scrubber.scrub_now() == {"segments": 1, "bytes": len(good)}
        await until(lambda: scrubber.mended >= number)  # noqa: B023
        assert path.read_bytes() == good, kind
        assert restarted or scrubber.damaged == scrubber.mended
        await until(lambda: scrubber.status()["asked_for_left"] == 0)  # noqa: B023
        assert await bodies_read(array, server) == BODIES, kind
        assert scrubber.status()["lost"] == []
        await array.settled(30)


async def test_bodies_that_are_damaged_in_different_places_mend_each_other(array: Array) -> None:
    paths_of = [the_segment(server)[1] for server in array.servers]
    good = paths_of[0].read_bytes()
    wheres = places(paths_of[0])
    flip(paths_of[0], wheres["body"])
    flip(paths_of[1], wheres["last byte"])
    for server in array.servers:
        assert server.agent is not None
        server.agent.scrubber.scrub_now()
    await until(lambda: all(path.read_bytes() == good for path in paths_of))


@pytest.mark.parametrize("kind", ["body", "metadata"])
async def test_what_nobody_can_mend_is_named(array: Array, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    for server in array.servers:
        path = the_segment(server)[1]
        flip(path, places(path)[kind])
    catalog = await array.catalog()
    second = (await catalog.mailbox(ANNA))[1].message
    agent = array.servers[0].agent
    assert agent is not None
    agent.scrubber.scrub_now()
    await until(lambda: agent.scrubber.lost)
    (lost,) = agent.status()["scrub"]["lost"]
    assert agent.status()["scrub"]["damaged_segments"] == 1
    assert lost["message"] == second.hex() and sorted(lost["mailboxes"]) == [ANNA, BEN]
    assert "message damaged on every replica that answers" in caplog.text
    assert agent.scrubber.damaged == 1 and agent.scrubber.mended == 0
    # Another replica is good again: the next look mends it, and nothing is lost any more.
    path = the_segment(array.servers[1])[1]
    flip(path, places(the_segment(array.servers[0])[1])[kind] if kind == "body" else _second_metadata(path))
    agent.scrubber.scrub_now()
    await until(lambda: agent.scrubber.mended == 1)
    await until(lambda: not agent.scrubber.lost)
    assert agent.scrubber.unmended() == 0


def _second_metadata(path: Path) -> int:
    with path.open("rb") as file:
        header = read_segment_header(file.fileno())
        first = next(iter(read_batches(file.fileno(), header, 0, path.stat().st_size)))
    return first.header.end + BATCH_HEADER_LENGTH + 30


async def test_it_is_asked_for_over_the_internal_port_and_remembers_what_it_saw(array: Array) -> None:
    server = array.servers[0]
    assert server.agent is not None
    segment, path = the_segment(server)
    scrubber = server.agent.scrubber
    assert 0 <= scrubber.oldest() < 60  # not read yet: since it was begun
    before = scrubber.bytes
    raw = await server.agent.peers._json("POST", str(server.settings.sidecar), paths.SCRUB)
    assert raw == {"segments": 1, "bytes": path.stat().st_size}
    await until(lambda: scrubber.bytes - before == path.stat().st_size)
    await until(lambda: scrubber.current is None)
    await server.kill_sidecar()
    volume = open_volume(Path(server.settings.volume), Disk())
    assert ScrubMemory(volume).last(segment, 0.0) > time.time() - 60
    await server.start_sidecar()
    assert server.agent is not None
    assert server.agent.scrubber._next() is None  # nothing is due


async def test_everything_comes_round_within_the_interval(array: Array) -> None:
    agent = array.servers[0].agent
    assert agent is not None
    scrubber = agent.scrubber
    assert scrubber._next() is None
    begun = scrubber._now
    scrubber._now = lambda: begun() + 8 * 86400
    holding = scrubber._next()
    assert holding is not None
    assert await scrubber.scrub(holding)
    scrubber._memory.note(holding.segment, time.time())
    scrubber._now = begun
    assert scrubber._next() is None


async def test_a_time_that_is_still_to_come_counts_as_never(tmp_path: Path) -> None:
    """The clock of whoever began the segment, or of this server, was ahead: it is read when asked."""
    segment = new_segment_id()
    memory = ScrubMemory(open_volume(tmp_path, Disk()))
    ahead = time.time() + 20 * 86_400
    assert memory.last(segment, ahead) == 0.0
    memory.note(segment, ahead)
    assert memory.last(segment, 0.0) == 0.0
    memory.note(segment, time.time())
    assert memory.last(segment, ahead) > time.time() - 60
