"""What crashes and losses left behind comes to rest: several sidecars; journals are made by hand, or by writers."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from mailarray.catalog.catalog import CatalogClosed, SealRefused
from mailarray.catalog.rows import SegmentFacts
from mailarray.journal.disk import Disk
from mailarray.journal.fence import Fence, load_fence, save_fence
from mailarray.journal.volume import Volume, open_volume
from mailarray.model.message import Committed
from tests.support.array_of_three import Array
from tests.support.segments import Made, made, mail, put_file

ANNA = "anna@mail.example"


def volumes(array: Array) -> list[Volume]:
    return [open_volume(Path(server.settings.volume), Disk()) for server in array.servers]


def facts(segment: Made) -> SegmentFacts:
    header = segment.header
    return SegmentFacts(header.segment, header.writer, header.incarnation, 0, header.members, header.copies)


def files(array: Array, segment: Made) -> list[bytes]:
    return [volume.segment_path(segment.header.segment).read_bytes() for volume in volumes(array)[:2]]


def scene(array: Array) -> Made:
    own, mirror, _ = volumes(array)
    segment = made(own.id, mirror.id)
    for body in (b"one", b"two", b"three"):
        segment.add([mail(body, ANNA)])
    return segment


async def start(array: Array, *indices: int) -> None:
    for index in indices:
        await array.servers[index].start_sidecar()


async def bodies(array: Array) -> list[int]:
    return [entry.length for entry in await (await array.catalog()).mailbox(ANNA)]


async def test_a_short_member_is_filled(array: Array) -> None:
    segment = scene(array)
    own, mirror, _ = volumes(array)
    put_file(own, segment.header.segment, segment.data)
    put_file(mirror, segment.header.segment, segment.data[: segment.batches[2].start + 9])
    await start(array, 0, 1, 2)
    await array.settled()
    assert files(array, segment) == [segment.data, segment.data]
    assert await bodies(array) == [3, 3, 5]
    fence = load_fence(mirror, segment.header.segment)
    assert (fence.sealed_length, fence.whole, fence.cut) == (len(segment.data), True, True)


async def test_a_member_without_a_byte_is_filled(array: Array) -> None:
    segment = scene(array)
    own, mirror, _ = volumes(array)
    put_file(mirror, segment.header.segment, segment.data)
    put_file(own, segment.header.segment, segment.data[:1])  # the writer crashed in its first batch
    await start(array, 0, 1, 2)
    await array.settled()
    assert await bodies(array) == [3, 3, 5]
    await array.until(lambda: files(array, segment) == [segment.data, segment.data])


@pytest.mark.parametrize("fenced", [False, True])
async def test_a_member_that_never_saw_its_segment_is_filled(array: Array, fenced: bool) -> None:
    """The writer's first batch did not get there, and the segment was sealed with what the writer had."""
    segment = scene(array)
    own, mirror, _ = volumes(array)
    put_file(own, segment.header.segment, segment.data)
    if fenced:
        save_fence(mirror, segment.header.segment, Fence(fenced=True))
    await start(array, 0, 1, 2)
    path = mirror.segment_path(segment.header.segment)
    await array.until(lambda: path.exists() and path.read_bytes() == segment.data)
    await array.settled()
    fence = load_fence(mirror, segment.header.segment)
    assert (fence.sealed_length, fence.whole) == (len(segment.data), True)
    await array.servers[0].kill()
    assert await bodies(array) == [3, 3, 5]


async def test_a_member_that_never_saw_its_segment_can_be_drained(array: Array) -> None:
    """It fetches nothing any more, and has nothing to lose: two others hold the segment."""
    segment = scene(array)
    own, mirror, other = volumes(array)
    put_file(own, segment.header.segment, segment.data)
    save_fence(mirror, segment.header.segment, Fence(fenced=True))
    await array.push(mail_1="Draining")
    await start(array, 0, 2)
    path = other.segment_path(segment.header.segment)
    await array.until(path.exists)  # the segment is sealed, and mail-1 does not count as a holder
    await start(array, 1)

    def drained() -> bool:
        agent = array.servers[1].agent
        return bool(agent and agent.drainer.progress and agent.drainer.progress["done"])

    await array.until(drained)
    assert not mirror.segment_path(segment.header.segment).exists()
    assert path.read_bytes() == segment.data


async def test_a_length_that_only_a_lost_volume_held_is_lowered_by_who_never_saw_it(array: Array) -> None:
    segment = scene(array)
    own, mirror, _ = volumes(array)
    catalog = await array.catalog()
    await start(array, 1, 2)
    await catalog.propose_seal(facts(segment), len(segment.data), 1)
    await catalog.mark_lost(own.id)

    async with asyncio.timeout(15):
        while (await catalog.segments([segment.header.segment]))[segment.header.segment].sealed_length:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await array.settled(servers=array.servers[1:])
    assert not mirror.segment_path(segment.header.segment).exists()


async def test_an_empty_fenced_member_is_filled(array: Array) -> None:
    """It was fenced before its first batch came, and another member sealed the segment with more."""
    segment = scene(array)
    own, mirror, _ = volumes(array)
    put_file(own, segment.header.segment, segment.data)
    save_fence(mirror, segment.header.segment, Fence(fenced=True))
    await start(array, 1)
    await asyncio.sleep(0.2)  # it is at rest before anybody else says anything
    await start(array, 0, 2)
    path = mirror.segment_path(segment.header.segment)
    await array.until(lambda: path.exists() and path.read_bytes() == segment.data)
    await array.settled()


async def test_a_length_that_only_an_empty_member_is_left_of_is_lowered(array: Array) -> None:
    segment = scene(array)
    own, mirror, _ = volumes(array)
    save_fence(mirror, segment.header.segment, Fence(fenced=True))
    catalog = await array.catalog()
    await catalog.propose_seal(facts(segment), len(segment.data), 1)
    await catalog.mark_lost(own.id)
    await start(array, 1, 2)

    async def lowered() -> None:
        while (await catalog.segments([segment.header.segment]))[segment.header.segment].sealed_length:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    await asyncio.wait_for(lowered(), 15.0)
    await array.settled(servers=array.servers[1:])


async def test_a_length_that_nobody_holds_any_more_is_lowered(array: Array) -> None:
    segment = scene(array)
    own, mirror, _ = volumes(array)
    short = segment.batches[2].start
    for volume in (own, mirror):
        put_file(volume, segment.header.segment, segment.data[:short])
    await (await array.catalog()).propose_seal(facts(segment), len(segment.data), 1)
    await start(array, 0)
    await asyncio.sleep(0.5)
    states = await (await array.catalog()).segments([segment.header.segment])
    assert states[segment.header.segment].sealed_length == len(segment.data)  # the mirror was not reached
    await start(array, 1, 2)
    await array.settled()
    states = await (await array.catalog()).segments([segment.header.segment])
    assert states[segment.header.segment].sealed_length == short
    assert await bodies(array) == [3, 3]


async def test_a_damaged_batch_is_mended(array: Array) -> None:
    segment = scene(array)
    own, mirror, _ = volumes(array)
    data = bytearray(segment.data)
    data[segment.batches[1].start + 70] ^= 1
    put_file(own, segment.header.segment, bytes(data))
    put_file(mirror, segment.header.segment, segment.data)
    await start(array, 0, 1, 2)
    await array.settled()
    assert files(array, segment) == [segment.data, segment.data]
    assert await bodies(array) == [3, 3, 5]


async def deliver(array: Array, body: bytes, index: int = 0) -> None:
    """To one server, again and again, as a sender does."""
    for _ in range(200):
        if isinstance(await array.servers[index].deliver(body, ANNA), Committed):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("never accepted")


async def readable(array: Array, count: int) -> None:
    """Until readers find that many messages."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(CatalogClosed):
                if len(await bodies(array)) == count:
                    return
            await asyncio.sleep(0.02)


async def test_an_acknowledged_length_is_never_sealed_below(array: Array) -> None:
    await array.start()
    await deliver(array, b"one")
    await readable(array, 1)
    writer = array.servers[0].writer
    assert writer is not None and writer.segment is not None
    header = writer.segment.header
    wanted = SegmentFacts(header.segment, header.writer, header.incarnation, 0, header.members, header.copies)
    with pytest.raises(SealRefused):
        await (await array.catalog()).propose_seal(wanted, header.length, 1)


async def test_a_rebuilt_catalog_opens_while_mail_comes_in(array: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("watching", "following"):  # nobody dies here: a moment without a turn must not seal anything
        monkeypatch.setattr(f"mailarray.tracking.{module}.SILENCE", 30.0)
    await array.start()
    for index in range(3):
        await deliver(array, b"one", index)
    await readable(array, 3)
    await (await array.catalog()).reset()
    with contextlib.suppress(CatalogClosed):  # or all was told again already
        assert len(await bodies(array)) == 3
    await deliver(array, b"two")
    await readable(array, 4)
    for server in array.servers:  # still the same segments, never sealed
        assert server.writer is not None and server.writer.segment is not None


async def test_damaged_bytes_are_not_taken_from_another_member(array: Array) -> None:
    segment = scene(array)
    own, mirror, _ = volumes(array)
    length = len(segment.data)
    last = segment.batches[2]
    put_file(own, segment.header.segment, segment.data[:-1] + b"!")
    save_fence(own, segment.header.segment, Fence(True, length, 1, False, True))
    put_file(mirror, segment.header.segment, segment.data[: last.start])
    await (await array.catalog()).propose_seal(facts(segment), length, 1)
    await start(array, 0, 1, 2)
    await asyncio.sleep(0.5)
    assert files(array, segment)[1] == segment.data[: last.start]
    states = await (await array.catalog()).segments([segment.header.segment])
    assert states[segment.header.segment].sealed_length == length  # and nothing was given up


async def test_a_sidecar_that_starts_during_a_first_batch_leaves_it_alone(array: Array) -> None:
    await array.start()
    await deliver(array, b"warm")
    server, mirrors = array.servers[0], array.servers[1:]
    await server.kill_writer()
    await server.start_writer()
    assert server.writer is not None and server.agent is not None
    gate = asyncio.Event()
    original = type(server.agent.receiver).put

    async def slow(*arguments: Any) -> Any:
        await gate.wait()
        return await original(*arguments)

    for one in mirrors:
        assert one.agent is not None
        one.agent.receiver.put = slow.__get__(one.agent.receiver)  # type: ignore[method-assign]
    before = set(server.agent.volume.list_segments())
    waiting = asyncio.create_task(deliver(array, b"first"))
    async with asyncio.timeout(5):
        while not (new := set(server.agent.volume.list_segments()) - before):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await server.kill_sidecar()
    await server.start_sidecar()
    await asyncio.sleep(0.2)  # several words of the writer
    (segment,) = new
    assert server.agent.shelf.holdings[segment].member is None  # still the writer's
    gate.set()
    await waiting


async def test_mail_survives_the_loss_of_its_writers_volume(array: Array) -> None:
    await array.start()
    await deliver(array, b"one")
    await readable(array, 1)
    lost = array.servers[0]
    assert lost.agent is not None
    await (await array.catalog()).mark_lost(lost.agent.volume.id)
    await lost.kill()
    await (await array.catalog()).reset()
    await readable(array, 1)
    for server in array.servers[1:]:
        assert server.agent is not None
    await array.servers[1].kill_writer()
    await array.servers[2].kill_writer()
    await array.settled(servers=array.servers[1:])
