"""Copies of whole segments among sidecars in one process: repair, drain, return, rebuild. Bytes are read from disks."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import pytest

from mailarray.catalog.rows import MailboxEntry
from mailarray.contract import paths
from mailarray.contract.settings import StorageSettings
from mailarray.journal.disk import Disk
from mailarray.journal.format import Tombstone
from mailarray.model.ids import VolumeId
from mailarray.model.message import Committed
from mailarray.tracking.process import Agent
from tests.support.array_of_three import TOKEN, Array, ArrayServer, bytes_on, fast_clocks
from tests.support.segments import random_body

ANNA = "anna@mail.example"
SEGMENT = 20_000  # bytes: a few messages fill one, so that there are many


@pytest.fixture
async def array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Array]:
    fast_clocks(monkeypatch)
    storage = StorageSettings(reserve=0, mirror_timeout=2.0, segment_size=SEGMENT)
    made = Array(tmp_path, [Disk() for _ in range(4)], storage)
    yield made
    await made.close()


class Sent:
    """What was acknowledged, and must be read."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def deliver(self, array: Array, indexes: Sequence[int], rounds: int = 6) -> None:
        for _ in range(rounds):
            for index in indexes:
                body = random_body(3000)
                for _ in range(200):
                    if isinstance(await array.servers[index].deliver(body, ANNA), Committed):
                        self.bodies.append(body)
                        break
                    await asyncio.sleep(0.02)
                else:
                    raise AssertionError("never accepted")


async def entries(array: Array) -> list[MailboxEntry]:
    return await (await array.catalog()).mailbox(ANNA)


async def readable_twice(array: Array, sent: Sent, among: Sequence[ArrayServer], copies: int = 2) -> None:
    """Each message once in the mailbox, and on at least two of those disks."""
    listed = await entries(array)
    bodies = []
    for entry in listed:
        found = bytes_on(entry, among)
        assert len(found) >= copies, f"message {entry.uid} is on {len(found)} disks"
        bodies.append(found[0])
    assert sorted(bodies) == sorted(sent.bodies)


def drained(server: ArrayServer) -> bool:
    progress = server.agent.status()["drain"] if server.agent is not None else None
    return bool(progress and progress["done"])


async def registered(array: Array, sent: Sent) -> None:
    """Until readers find as many messages as there should be."""
    async with asyncio.timeout(60):
        while len(await entries(array)) != len(sent.bodies):  # noqa: ASYNC110 (a database tells nobody)
            await asyncio.sleep(0.02)


async def reset(array: Array, running: Sequence[ArrayServer]) -> None:
    """Drop the catalog's rows, and wait until the sidecars have told everything again."""
    epoch = await (await array.catalog()).reset()
    await array.until(
        lambda: all(s.agent is not None and s.agent.link.state and s.agent.link.state.epoch == epoch for s in running)
    )
    await array.settled(servers=running)


async def retired(array: Array) -> set[VolumeId]:
    return {row.id for row in await (await array.catalog()).volumes() if row.retired}


async def test_a_drained_server_goes_and_comes_back(array: Array) -> None:
    await array.start()
    await array.settled(servers=())
    sent = Sent()
    await sent.deliver(array, range(4))
    await registered(array, sent)
    leaving, others = array.servers[0], array.servers[1:]
    assert leaving.writer is not None and leaving.agent is not None
    await array.push(mail_0="Draining")
    assert leaving.writer.draining
    stay = asyncio.create_task(sent.deliver(array, (1, 2, 3)))  # the others go on
    seen = []

    def progressed() -> bool:
        assert leaving.agent is not None
        seen.append(leaving.agent.status()["drain"])
        return drained(leaving)

    await array.until(progressed)
    await stay
    first = next(p for p in seen if p)
    assert (
        {"seconds_left"} <= first.keys() and first["segments_left"] > 0 and not first["done"] and first["waiting_for"]
    )
    assert seen[-1]["segments_left"] == seen[-1]["bytes_left"] == 0 and seen[-1]["bytes_total"] > 10_000
    await registered(array, sent)
    own = leaving.agent.volume.id
    await array.until(lambda: leaving.agent is not None and own in leaving.agent.memory.retired)
    assert await retired(array) == {own}
    held = set(leaving.agent.shelf.holdings)
    await leaving.kill()
    await readable_twice(array, sent, others)

    # Meanwhile: more mail, and deletions of mail that the drained volume holds.
    await sent.deliver(array, (1, 2, 3))
    await registered(array, sent)
    victims = [e for e in await entries(array) if any(own in place.members for place in e.locations)][:3]
    assert victims
    gone = [bytes_on(victim, others)[0] for victim in victims]
    outcome = await others[0].expunge(*(Tombstone(v.placement, v.message, ANNA) for v in victims))
    assert isinstance(outcome, Committed)
    sent.bodies = [body for body in sent.bodies if body not in gone]
    await registered(array, sent)

    await array.push(mail_0="Serving")
    await leaving.start()
    await sent.deliver(array, (0,))
    await registered(array, sent)
    await array.until(lambda: leaving.agent is not None and not leaving.agent.settler.unsettled)
    assert leaving.agent.status()["drain"] is None
    assert await retired(array) == set() and held <= set(leaving.agent.shelf.holdings)
    await readable_twice(array, sent, array.servers)
    # A catalog made anew from all journals, the returned one's included, resurrects and doubles nothing.
    await asyncio.gather(*(server.kill_writer() for server in array.servers))
    await reset(array, array.servers)
    await readable_twice(array, sent, array.servers)


async def test_a_segment_sealed_without_a_server_is_whole_when_it_returns(array: Array) -> None:
    await array.start()
    sent = Sent()
    await sent.deliver(array, (1,), 1)
    writer = array.servers[1].writer
    assert writer is not None and writer.segment is not None
    mirror = next(s for s in array.servers if s.settings.server == writer.segment.links[0].server.name)
    segment = writer.segment.header.segment
    await mirror.kill()
    await sent.deliver(array, (1,), 2)
    await array.until(lambda: array.servers[1].agent and segment in array.servers[1].agent.shelf.holdings)
    running = [server for server in array.servers if server is not mirror]
    await registered(array, sent)
    await mirror.start()
    for server in array.servers:
        await server.kill_writer()
    await array.settled()
    assert running
    await readable_twice(array, sent, array.servers)


async def test_a_wiped_server_is_rebuilt_under_a_new_volume(array: Array) -> None:
    await array.start()
    sent = Sent()
    await sent.deliver(array, range(4))
    await registered(array, sent)
    wiped = array.servers[2]
    assert wiped.agent is not None
    old = wiped.agent.volume.id
    await wiped.kill()
    shutil.rmtree(wiped.settings.volume)
    await wiped.start()
    assert wiped.agent is not None and wiped.agent.volume.id != old

    def rebuilt() -> bool:
        assert wiped.agent is not None
        progress = wiped.agent.status()["rebuild"]
        return bool(progress and progress["done"])

    await array.until(rebuilt)
    catalog = await array.catalog()
    assert {row.id for row in await catalog.volumes() if row.lost} == {old}
    assert (await catalog.counts()).under_replicated_segments == 0
    await readable_twice(array, sent, array.servers)
    # With the catalog away, too, nobody waits for the lost volume beside another one that is silent.
    await array.until(lambda: all(s.agent is not None and s.agent.memory.gone == {old} for s in array.servers))
    status = wiped.agent.status()
    assert status["rebuild"]["segments_total"] == status["segments"]["replicas"] > 0
    assert status["rebuild"]["bytes_total"] > 0 == status["rebuild"]["bytes_left"]
    agents = [s.agent for s in array.servers if s.agent is not None]
    await array.until(lambda: all(agent.status()["under_replicated"] == 0 for agent in agents))

    # After a reset the copies are told again by those that hold them, and nobody is waited for.
    for server in array.servers:
        await server.kill_writer()
    await array.settled()
    await reset(array, array.servers)
    assert (await catalog.counts()).under_replicated_segments == 0
    await readable_twice(array, sent, array.servers)


async def test_a_catalog_restored_to_before_lost_volumes_began_opens(array: Array) -> None:
    """Two of them, one after the other: one alone is allowed to be missing."""
    await array.start()
    sent = Sent()
    await sent.deliver(array, range(4))
    await registered(array, sent)
    for server in array.servers[2:]:
        younger = await replaced(array, server)
        await array.until(lambda id=younger: all(id in a.memory.servers for a in agents(array)))  # type: ignore[misc]
        await sent.deliver(array, range(4), rounds=2)  # headers name it
        await replaced(array, server, forgotten=younger)
        await array.until(lambda: all(a.link.state is not None and a.link.state.open for a in agents(array)))
        await registered(array, sent)
        await array.until(lambda server=server: whole(array, server), 60)  # type: ignore[misc]
        async with asyncio.timeout(60):  # before the next one is harmed
            while (await (await array.catalog()).counts()).under_replicated_segments:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    for server in array.servers:
        await server.kill_writer()
    await array.settled(30.0)
    await readable_twice(array, sent, array.servers)


async def replaced(array: Array, server: ArrayServer, forgotten: VolumeId | None = None) -> VolumeId:
    """An empty disk instead of its own. `forgotten`: of this volume the catalog, made anew, never heard."""
    await server.kill()
    if forgotten is not None:
        await (await array.catalog()).reset()
        with contextlib.closing(sqlite3.connect(array.catalog_url.removeprefix("sqlite:///"))) as rows, rows:
            assert rows.execute("DELETE FROM volumes WHERE id = ?", (forgotten,)).rowcount == 1
    shutil.rmtree(server.settings.volume)
    await server.start()
    assert server.agent is not None
    return server.agent.volume.id


def whole(array: Array, server: ArrayServer) -> bool:
    """Whether that server has all back, and nobody knows of anything that is short."""
    assert server.agent is not None
    rebuild = server.agent.status()["rebuild"]
    return bool(rebuild and rebuild["done"]) and not any(a.status()["under_replicated"] for a in agents(array))


def agents(array: Array) -> list[Agent]:
    return [server.agent for server in array.servers if server.agent is not None]


async def test_a_replica_seals_what_it_remembers_when_all_members_are_gone(array: Array) -> None:
    await array.start()
    sent = Sent()
    await sent.deliver(array, (0,))
    for server in array.servers:
        await server.kill_writer()
    await array.settled()
    for index in (0, 1):  # one after the other, each time the others hold two copies of everything
        await array.push(**{f"mail_{index}": "Draining"})
        await array.until(lambda index=index: drained(array.servers[index]))  # type: ignore[misc]
    for index in (0, 1):
        await array.servers[index].kill()
    await reset(array, array.servers[2:])
    await readable_twice(array, sent, array.servers[2:])


async def test_a_drain_that_cannot_be_safe_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_clocks(monkeypatch)
    array = Array(tmp_path, [Disk(), Disk()], StorageSettings(reserve=0, mirror_timeout=2.0))
    try:
        await array.start()
        sent = Sent()
        await sent.deliver(array, (0, 1), 2)
        await array.push(mail_0="Draining")
        leaving = array.servers[0].agent
        assert leaving is not None

        def said() -> str:
            progress = leaving.status()["drain"]
            return progress["waiting_for"] or "" if progress else ""

        await array.until(lambda: "add servers" in said())
        assert not drained(array.servers[0])
        await array.push(mail_0="Serving")
        await array.until(lambda: leaving.status()["drain"] is None)
        await sent.deliver(array, (0, 1), 2)
        await registered(array, sent)
    finally:
        await array.close()


async def test_a_holder_that_does_not_have_it_proves_nothing(array: Array) -> None:
    """The catalog believes in a copy that the disk does not hold: the drain does not."""
    await array.start()
    sent = Sent()
    await sent.deliver(array, (0,), 2)
    for server in array.servers:
        await server.kill_writer()
    await array.settled()
    leaving = array.servers[0]
    assert leaving.agent is not None
    catalog = await array.catalog()
    states = await catalog.segments(list(leaving.agent.shelf.holdings))
    for server in array.servers[1:]:
        assert server.agent is not None
        for state in states.values():
            assert state.sealed_length is not None
            await catalog.add_replica(state.facts.id, server.agent.volume.id, state.sealed_length)
    await array.push(mail_0="Draining")
    await asyncio.sleep(0.5)
    assert not drained(leaving)
    assert "confirm" in leaving.agent.status()["drain"]["waiting_for"]
    assert await retired(array) == set()


async def test_a_draining_server_takes_no_new_copies_and_answers_no_fence_for_a_replica(array: Array) -> None:
    await array.start()
    sent = Sent()
    await sent.deliver(array, range(4), 2)
    await array.push(mail_3="Draining")
    await array.until(lambda: drained(array.servers[3]))
    server, segment = next(
        (s, h.segment)
        for s in array.servers[:3]
        if s.agent is not None
        for h in s.agent.shelf
        if h.is_replica(s.agent.volume.id)
    )
    assert server.agent is not None
    own = server.agent.volume.id.hex()
    last = array.servers[3]
    assert last.agent is not None
    put = f"http://{last.settings.sidecar}{paths.segment_path(last.agent.volume.id.hex(), '01' * 16)}?offset=0"
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        async with http.post(f"http://{server.settings.sidecar}{paths.fence_path(own, segment.hex())}") as response:
            assert response.status == 404 and "not a member" in await response.text()
        async with http.put(put, data=b"x") as response:
            assert response.status == 503
        async with http.get(f"http://{last.settings.sidecar}{paths.READY}", headers={"Authorization": ""}) as response:
            assert response.status == 200
        async with http.post(f"http://{last.settings.writer}{paths.TOMBSTONES}", json=[]) as response:
            assert response.status == 503 and "draining" in await response.text()


async def test_a_volume_is_not_repaired_while_a_server_has_mail_that_the_catalog_never_heard_of(array: Array) -> None:
    await array.start()
    await array.settled()
    sent = Sent()
    teller = array.servers[0]
    await teller.kill_sidecar()  # so that nobody registers what it accepts
    await sent.deliver(array, (0,), rounds=1)
    assert teller.writer is not None and teller.writer.segment is not None
    mirrors = teller.writer.segment.header.members[1:]
    lost = next(s for s in array.servers if s.agent is not None and s.agent.volume.id in mirrors)
    assert lost.agent is not None
    volume = lost.agent.volume.id
    await lost.kill()
    await teller.kill()
    shutil.rmtree(lost.settings.volume)
    await lost.start()
    others = [server for server in array.servers if server is not teller]

    def repaired(server: ArrayServer) -> bool:
        return server.agent is not None and volume in server.agent.memory.repaired

    for server in others:
        agent = server.agent
        assert agent is not None
        await array.until(lambda: volume in agent.repairer._losses._clean[1])  # noqa: B023 (awaited here)
        for _ in range(4):
            before = agent.repairer._looked_at
            await array.until(lambda: agent.repairer._looked_at != before)  # noqa: B023 (awaited here)
    assert not any(repaired(server) for server in others)
    await teller.start()
    await array.until(lambda: all(repaired(server) for server in array.servers), 30)
    await registered(array, sent)
    await readable_twice(array, sent, array.servers)
