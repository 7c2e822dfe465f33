"""Copies too many, among sidecars in one process: they go, and all that was sent stays on two disks."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mailarray.contract.settings import StorageSettings
from mailarray.journal.disk import Disk
from mailarray.journal.inspect import verify
from mailarray.model.ids import SegmentId, VolumeId
from mailarray.tracking.peers import PeerUnreachable
from mailarray.tracking.process import Agent
from mailarray.tracking.shelf import Shelf
from tests.component.tracking.test_repair import ANNA, SEGMENT, Sent, entries, readable_twice, registered
from tests.support.array_of_three import Array, fast_clocks, volume_of

PATIENCE = 0.4  # seconds


@pytest.fixture
async def array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Array]:
    fast_clocks(monkeypatch)
    storage = StorageSettings(reserve=0, mirror_timeout=2.0, segment_size=SEGMENT, surplus_after=PATIENCE)
    made = Array(tmp_path, [Disk() for _ in range(4)], storage)
    yield made
    await made.close()


def agents(array: Array) -> list[Agent]:
    return [server.agent for server in array.servers if server.agent is not None]


def on_disks(array: Array) -> dict[SegmentId, set[VolumeId]]:
    """By the files themselves."""
    found: dict[SegmentId, set[VolumeId]] = {}
    for volume in map(volume_of, array.servers):
        for segment in volume.list_segments():
            if volume.segment_path(segment).exists():
                found.setdefault(segment, set()).add(volume.id)
    return found


def too_many(array: Array) -> list[SegmentId]:
    return [segment for segment, volumes in on_disks(array).items() if len(volumes) > 2]


def hold_off(array: Array, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Nobody stays, as they say, until the answer is called."""
    for agent in agents(array):
        monkeypatch.setattr(agent.returner, "refusing", lambda: "the test says so")

    def go_on() -> None:
        for agent in agents(array):
            monkeypatch.setattr(agent.returner, "refusing", agent.leaves)

    return go_on


async def away_and_back(array: Array) -> Sent:
    """mail-0 drains until all that it has is elsewhere, and serves again: third copies of all that it has."""
    sent = Sent()
    await array.start()
    await array.settled(servers=())
    await sent.deliver(array, range(4))
    await registered(array, sent)
    await array.push(mail_0="Draining")

    def drained() -> bool:
        progress = agents(array)[0].status()["drain"]
        return bool(progress and progress["done"])

    await array.until(drained)
    assert not too_many(array) or not any(agent.returner.given_back for agent in agents(array))
    await array.push(mail_0="Serving")
    return sent


async def none_too_many(array: Array, seconds: float = 30.0) -> None:
    def done() -> bool:
        known = all(a.link.state is not None and not a.status()["surplus"]["segments"] for a in agents(array))
        return known and not too_many(array)

    await array.until(done, seconds)


async def test_copies_too_many_go_and_everything_stays_on_two_disks(
    array: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = await away_and_back(array)

    def given_back() -> int:
        return sum(agent.returner.given_back for agent in agents(array))

    await array.until(given_back)
    await none_too_many(array)
    await array.settled(servers=())
    status = [agent.status()["surplus"] for agent in agents(array)]
    assert sum(s["given_back_bytes"] for s in status) > 10_000
    assert all(s["segments"] == s["bytes"] == 0 and s["problem"] is None for s in status)
    await readable_twice(array, sent, array.servers)
    count = given_back()
    # They do not come back: neither fetched again, nor told, nor after a start.
    await asyncio.gather(*(server.kill_writer() for server in array.servers))
    await array.settled()
    for server in array.servers:
        await server.kill_sidecar()
        await server.start_sidecar()
    await array.settled()
    assert not too_many(array) and given_back() == 0 < count
    catalog = await array.catalog()
    for agent in agents(array):
        assert all(agent.shelf.holds(segment) for segment in await catalog.replicas_on(agent.volume.id))
        found = await agent.index.mailbox(ANNA)
        assert {SegmentId(bytes.fromhex(row["segment"])) for row in found["messages"]} <= set(agent.shelf.holdings)
    await readable_twice(array, sent, array.servers)
    for server in array.servers:
        assert all(report.sound for report in verify(volume_of(server)))


async def test_a_copy_stays_while_one_that_is_needed_does_not_say_that_it_stays(
    array: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = await away_and_back(array)
    go_on = hold_off(array, monkeypatch)
    await array.until(lambda: any(a.returner.problem for a in agents(array)) or not too_many(array))
    before = on_disks(array)
    await array.until(lambda: any("the test says so" in (a.returner.problem or "") for a in agents(array)))
    assert too_many(array) and on_disks(array).keys() >= before.keys()
    await array.until(lambda: not any(holding.leaving for agent in agents(array) for holding in agent.shelf))
    go_on()
    await none_too_many(array)
    await readable_twice(array, sent, array.servers)


async def test_a_catalog_restored_to_before_is_told_what_went(
    array: Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = await away_and_back(array)
    go_on = hold_off(array, monkeypatch)
    await array.until(lambda: any("the test says so" in (a.returner.problem or "") for a in agents(array)))
    await asyncio.gather(*(server.kill_writer() for server in array.servers))
    await array.settled()
    file = Path(array.catalog_url.removeprefix("sqlite:///"))
    saved = tmp_path / "saved.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as live, contextlib.closing(sqlite3.connect(saved)) as copy:
        live.backup(copy)
    go_on()
    await array.until(lambda: any(agent.returner.given_back for agent in agents(array)))
    await none_too_many(array)
    epoch = max(agent.memory.epoch for agent in agents(array))
    for server in array.servers:
        await server.kill_sidecar()
    await (await array.catalog()).close()
    array._catalog = None
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    shutil.copy(saved, file)
    for server in array.servers:
        await server.start_sidecar()
    await array.settled()
    assert min(agent.memory.epoch for agent in agents(array)) > epoch  # noticed
    catalog = await array.catalog()
    for agent in agents(array):
        assert all(agent.shelf.holds(segment) for segment in await catalog.replicas_on(agent.volume.id))
    await none_too_many(array)
    assert len(await entries(array)) == len(sent.bodies)
    await readable_twice(array, sent, array.servers)


async def test_a_copy_that_cannot_be_removed_is_told_again(array: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[SegmentId] = []

    async def fails(self: Any, holding: Any) -> int:
        tried.append(holding.segment)
        raise OSError(errno.EIO, "the disk of the test")

    real = Shelf.give_back
    monkeypatch.setattr(Shelf, "give_back", fails)
    sent = await away_and_back(array)
    await array.until(lambda: tried)
    await asyncio.gather(*(server.kill_writer() for server in array.servers))
    monkeypatch.setattr(Shelf, "give_back", real)
    await none_too_many(array)
    await array.settled()
    await readable_twice(array, sent, array.servers)


async def test_of_two_that_leave_neither_counts_on_the_other(array: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    """The word of one that is marked is that it does not stay; a drain does not count it either."""
    await away_and_back(array)
    go_on = hold_off(array, monkeypatch)
    one, other = agents(array)[1:3]
    found = next(h for h in one.shelf if h.sealed_length and h.readable == h.sealed_length)
    go_on()
    length = found.sealed_length or 0
    await array.until(
        lambda: one.returner.word(found.segment, length)["stays"] or found.segment not in one.shelf.holdings
    )
    own = next(h for h in one.shelf if h.own and h.sealed_length)
    length = own.sealed_length or 0
    await other.peers.stays(one.volume.id, own.segment, length, counts=False)
    own.leaving = True
    with pytest.raises(PeerUnreachable, match="about to be given back"):
        await other.peers.stays(one.volume.id, own.segment, length, counts=False)
    assert (await other.peers.held(one.volume.id))[own.segment] == length
    assert own.segment not in await other.peers.held(one.volume.id, staying=True)
    own.leaving = False
    for wrong in (length - 1, length + 1):
        with pytest.raises(PeerUnreachable, match="not whole"):
            await other.peers.stays(one.volume.id, own.segment, wrong, counts=False)
    with pytest.raises(PeerUnreachable, match="inputs"):
        await other.peers.stays(one.volume.id, own.segment, length, counts=True)
    volume_of(array.servers[1]).segment_path(own.segment).unlink()
    with pytest.raises(PeerUnreachable, match="its file"):
        await other.peers.stays(one.volume.id, own.segment, length, counts=False)
