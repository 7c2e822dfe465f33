"""A sidecar's internal port over real HTTP: what a mirror answers."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mailarray.contract import paths
from mailarray.contract.settings import CatalogSettings
from mailarray.journal.disk import Disk
from mailarray.journal.fence import load_fence
from mailarray.journal.format import BatchHeader, crc32c, encode_message
from mailarray.journal.volume import Volume, open_volume
from mailarray.model.ids import SegmentId, new_message_id, new_segment_id, new_volume_id
from tests.support.array_of_three import TOKEN, Array
from tests.support.segments import Made, made, mail, put_file, tombstone

ANNA = "anna@mail.example"


class Peer:
    """Speaks to one sidecar as writers and other sidecars do."""

    def __init__(self, address: str, volume: Volume) -> None:
        self.address = address
        self.volume = volume
        # A connection for each request: one that began with another method than PUT takes no PUT later.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True), headers={"Authorization": f"Bearer {TOKEN}"}
        )

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self._session.request(method, f"http://{self.address}{path}", **options) as response:
            raw = await response.read()
            return response.status, json.loads(raw) if "json" in response.content_type else raw

    async def put(self, segment: Made | SegmentId, offset: int, data: Any, **options: Any) -> tuple[int, Any]:
        id = segment.header.segment if isinstance(segment, Made) else segment
        path = f"{paths.segment_path(self.volume.id.hex(), id.hex())}?offset={offset}"
        return await self.ask("PUT", path, data=data, **options)

    async def get(self, segment: Made, wanted: str | None = None) -> tuple[int, Any]:
        path = paths.segment_path(self.volume.id.hex(), segment.header.segment.hex())
        return await self.ask("GET", path, headers={"Range": wanted} if wanted else {})

    async def fence(self, segment: SegmentId) -> tuple[int, Any]:
        return await self.ask("POST", paths.fence_path(self.volume.id.hex(), segment.hex()))

    async def close(self) -> None:
        await self._session.close()


@pytest.fixture
async def peer(array: Array) -> AsyncIterator[Peer]:
    """The sidecar of mail-0 runs alone."""
    server = array.servers[0]
    await server.start_sidecar()
    assert server.agent is not None
    made_peer = Peer(str(server.settings.sidecar), server.agent.volume)
    yield made_peer
    await made_peer.close()


def mirrored(peer: Peer) -> Made:
    """A segment of some other writer that has this volume as its mirror."""
    return made(new_volume_id(), peer.volume.id)


async def test_a_mirror_takes_batches_and_gives_them_back(peer: Peer) -> None:
    segment = mirrored(peer)
    first = segment.add([mail(b"one")])
    assert await peer.put(segment, 0, first) == (200, {"length": len(first)})
    second = segment.add([mail(b"two")])
    assert await peer.put(segment, len(first), second) == (200, {"length": len(segment.data)})
    assert peer.volume.segment_path(segment.header.segment).read_bytes() == segment.data
    # a repeated PUT, since its answer was lost
    assert await peer.put(segment, len(first), second) == (200, {"length": len(segment.data)})
    assert await peer.put(segment, 0, first) == (200, {"length": len(segment.data)})
    # the word of an idle writer
    assert await peer.put(segment, len(segment.data), b"") == (200, {"length": len(segment.data)})


async def test_a_gap_and_other_bytes_are_409_and_write_nothing(peer: Peer) -> None:
    segment = mirrored(peer)
    first, second, third = (segment.add([mail(body)]) for body in (b"one", b"two", b"three"))
    status, said = await peer.put(segment, len(first), second)
    assert (status, said["length"]) == (409, 0)
    await peer.put(segment, 0, first)
    status, said = await peer.put(segment, len(first) + len(second), third)
    assert (status, said["length"]) == (409, len(first))
    other = bytearray(first)
    other[-1] ^= 1
    status, said = await peer.put(segment, 0, bytes(other))
    assert (status, said["length"]) == (409, len(first)) and "other bytes" in said["error"]
    status, said = await peer.put(segment, len(first) + 1, b"")
    assert status == 409
    assert peer.volume.segment_path(segment.header.segment).read_bytes() == first


async def test_bad_batches_are_refused_and_write_nothing(peer: Peer) -> None:
    segment = mirrored(peer)
    first = segment.add([mail(b"one")])
    second = bytearray(segment.add([mail(b"two")]))
    await peer.put(segment, 0, first)
    second[-1] ^= 1
    status, said = await peer.put(segment, len(first), bytes(second))
    assert (status, said["length"]) == (400, len(first)) and "is damaged" in said["error"]
    stranger = made()
    status, said = await peer.put(stranger, 0, stranger.add([mail()]))
    assert status == 400 and "not a mirror in the segment's replica set" in said["error"]
    status, _ = await peer.put(new_segment_id(), 0, first)
    assert status == 400
    assert (await peer.get(segment))[1] == first


async def test_a_fenced_segment_is_423_and_stays_so(peer: Peer, array: Array) -> None:
    segment = mirrored(peer)
    first, second = segment.add([mail(b"one")]), segment.add([mail(b"two")])
    await peer.put(segment, 0, first)
    expected = {"volume": peer.volume.id.hex(), "length": len(first), "sealed_length": None, "epoch": 0, "cut": False}
    assert await peer.fence(segment.header.segment) == (200, expected)
    assert (await peer.put(segment, len(first), second))[0] == 423
    assert (await peer.put(segment, len(first), b""))[0] == 423
    await array.servers[0].kill()
    await array.servers[0].start_sidecar()
    status, said = await peer.put(segment, len(first), second)
    assert (status, said["length"]) == (423, len(first))


async def test_a_fence_of_a_segment_without_a_file_is_durable_and_answers_zero(peer: Peer) -> None:
    segment = mirrored(peer)
    status, said = await peer.fence(segment.header.segment)
    assert (status, said["length"]) == (200, 0)
    assert load_fence(peer.volume, segment.header.segment).fenced
    assert (await peer.put(segment, 0, segment.add([mail()])))[0] == 423


async def test_a_fence_of_the_own_writers_newest_segment_is_the_writers_to_answer(peer: Peer, array: Array) -> None:
    server = array.servers[0]
    lock = peer.volume.try_lock_writer()  # a writer runs, and does not answer
    assert lock is not None
    assert (await peer.fence(new_segment_id()))[0] == 503
    os.close(lock)
    assert (await peer.fence(new_segment_id()))[0] == 200
    assert server.agent is not None


async def test_who_may_not(peer: Peer, array: Array) -> None:
    segment = mirrored(peer)
    data = segment.add([mail()])
    other = paths.segment_path(new_volume_id().hex(), segment.header.segment.hex())
    assert (await peer.ask("PUT", other + "?offset=0", data=data))[0] == 404
    assert (await peer.ask("POST", other + "/fence"))[0] == 404
    assert (await peer.ask("GET", paths.VOLUME, headers={"Authorization": "Bearer wrong"}))[0] == 401
    assert (await peer.ask("GET", paths.HEALTH, headers={"Authorization": ""}))[0] == 200
    path = paths.segment_path(peer.volume.id.hex(), segment.header.segment.hex())
    assert (await peer.ask("PUT", path, data=data))[0] == 400
    assert (await peer.ask("PUT", path + "?offset=x", data=data))[0] == 400

    async def chunks() -> AsyncIterator[bytes]:
        yield data

    assert (await peer.put(segment, 0, chunks()))[0] == 411  # nothing was read, so 200 would be a lie
    agent = array.servers[0].agent
    assert agent is not None
    agent.server.stopping = True
    assert (await peer.put(segment, 0, data))[0] == 503
    assert (await peer.ask("GET", paths.VOLUME))[1]["stopping"] is True


async def test_ranges(peer: Peer) -> None:
    segment = mirrored(peer)
    data = segment.add([mail(b"x" * 500)])
    assert (await peer.get(segment))[0] == 404
    await peer.put(segment, 0, data)
    assert await peer.get(segment) == (200, data)
    assert await peer.get(segment, "bytes=10-19") == (206, data[10:20])
    assert await peer.get(segment, "bytes=10-") == (206, data[10:])
    assert await peer.get(segment, f"bytes=10-{len(data) * 2}") == (206, data[10:])
    for wrong in (f"bytes={len(data)}-", "bytes=-5", "lines=1-2"):
        status, said = await peer.get(segment, wrong)
        assert (status, said["length"]) == (416, len(data))


async def test_a_large_put_is_streamed(peer: Peer) -> None:
    piece, count = bytes(range(256)) * 256, 320  # 20 MiB
    size, crc = len(piece) * count, 0
    for _ in range(count):
        crc = crc32c(piece, crc)
    segment = mirrored(peer)
    metadata = encode_message(new_message_id(), 1, "s@out.example", [(ANNA, "")], 0, size, crc)
    header = segment.header
    frame = BatchHeader(header.segment, header.length, 0, 1, len(metadata), size, crc32c(metadata))
    head = header.encode() + frame.encode() + metadata

    async def body(flip: int = -1) -> AsyncIterator[bytes]:
        yield head
        for at in range(count):
            yield piece if at != flip else bytes(len(piece))

    length = {"headers": {"Content-Length": str(len(head) + size)}}
    assert (await peer.put(segment, 0, body(flip=99), **length))[0] == 400
    tracemalloc.start()
    assert await peer.put(segment, 0, body(), **length) == (200, {"length": len(head) + size})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 1024 * 1024
    path = paths.segment_path(peer.volume.id.hex(), header.segment.hex())
    status, back = await peer.ask("GET", path, headers={"Range": f"bytes={len(head)}-"})
    assert status == 206 and len(back) == size and crc32c(back) == crc


async def test_a_mailbox_from_the_local_index(peer: Peer, array: Array) -> None:
    agent = array.servers[0].agent
    await array.until(lambda: agent is not None and agent.memory.heard)
    segment = mirrored(peer)
    kept, gone = mail(b"kept", ANNA, "ben@mail.example"), mail(b"gone", ANNA)
    await peer.put(segment, 0, segment.add([kept, gone]))
    before = len(segment.data)
    await peer.put(segment, before, segment.add(tombstones=[tombstone(gone)]))
    status, said = await peer.ask("GET", paths.mailbox_path(ANNA))
    assert (status, said["volume"]) == (200, peer.volume.id.hex())
    assert said["tombstones"] == [f"{gone.id.hex()}.0"]
    by_id = {row["message"]: row for row in said["messages"]}
    assert set(by_id) == {kept.id.hex(), gone.id.hex()}  # the reader drops what a tombstone names
    row = by_id[kept.id.hex()]
    assert row["members"] == [member.hex() for member in segment.header.members]
    where = f"bytes={row['offset']}-{row['offset'] + row['length'] - 1}"
    assert await peer.get(segment, where) == (206, b"kept")
    assert crc32c(b"kept") == row["checksum"]
    assert (await peer.ask("GET", paths.mailbox_path("nobody@mail.example")))[1]["messages"] == []


async def test_a_lost_volume_takes_part_in_nothing_new(peer: Peer, array: Array) -> None:
    """It is no copy for ever, also when its server is back: neither as a mirror nor as a writer."""
    agent = array.servers[0].agent
    assert agent is not None
    segment = mirrored(peer)
    assert (await peer.put(segment, 0, segment.add([mail()])))[0] == 200
    agent.memory.lost = frozenset({peer.volume.id})
    assert (await peer.ask("GET", paths.VOLUME))[1]["stopping"] is True
    fresh = mirrored(peer)
    assert (await peer.put(fresh, 0, fresh.add([mail()])))[0] == 503
    before = len(segment.data)
    assert (await peer.put(segment, before, segment.add([mail()])))[0] == 200  # what it takes part in goes on
    agent.memory.lost = frozenset({fresh.header.writer})
    assert (await peer.put(fresh, 0, fresh.data))[0] == 503
    assert not peer.volume.segment_path(fresh.header.segment).exists()


async def test_a_mailbox_is_not_listed_while_an_own_segment_is_unknown(array: Array) -> None:
    """With the catalog away, and a writer that does not start: after a while its segments are the sidecar's."""
    server = array.servers[0]
    own = open_volume(Path(server.settings.volume), Disk())
    segment = made(own.id, new_volume_id())
    segment.add([mail(b"one", ANNA)])
    put_file(own, segment.header.segment, segment.data)
    server.settings = replace(server.settings, catalog=CatalogSettings(url=f"sqlite:///{'/nowhere' * 3}"))
    await server.start_sidecar()
    assert server.agent is not None
    peer = Peer(str(server.settings.sidecar), server.agent.volume)
    try:
        assert (await peer.ask("GET", paths.mailbox_path(ANNA)))[0] == 503
        server.agent.memory.heard = True
        await array.until(lambda: server.agent is not None and server.agent.follower.knows_all)
        status, said = await peer.ask("GET", paths.mailbox_path(ANNA))
        assert (status, len(said["messages"])) == (200, 1)
        assert said["named"] == [segment.header.members[1].hex()]
    finally:
        await peer.close()
