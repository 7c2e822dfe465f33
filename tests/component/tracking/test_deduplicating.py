"""A sender that never heard the 250 delivers once more, to whichever server: one copy stays, also after a rebuild."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mailarray.contract.settings import StorageSettings
from mailarray.journal.disk import Disk
from mailarray.model.message import Committed, Delivery, IncomingMessage, Outcome
from mailarray.smtp.fingerprint import Fingerprint
from mailarray.tracking import deduplicating
from mailarray.tracking.rebuild import rebuild
from tests.support.array_of_three import Array, fast_clocks

ANNA, BEN = "anna@mail.example", "ben@mail.example"
TEXT = b"Message-ID: <1@far.example>\r\n\r\nhello\r\n"


@pytest.fixture
async def array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Array]:
    fast_clocks(monkeypatch)
    monkeypatch.setattr(deduplicating, "INTERVAL", 0.1)
    made = Array(
        tmp_path, [Disk() for _ in range(3)], StorageSettings(reserve=0, mirror_timeout=2.0, duplicate_window=3600.0)
    )
    await made.start()
    await made.until(lambda: all(s.agent and s.agent.link.state and s.agent.link.state.open for s in made.servers), 30)
    yield made
    await made.close()


async def deliver(array: Array, index: int, text: bytes, *mailboxes: str, fingerprint_of: bytes = b"") -> bytes:
    """As the intake does it: trace lines on top that are never the same twice."""
    trace = f"Received: by mail-{index}; {time.time_ns()}\r\n".encode()
    found = Fingerprint(0)
    found.feed(fingerprint_of or text)
    writer = array.servers[index].writer
    assert writer is not None
    spool = writer.open_body()
    spool.write(trace + text)
    heard: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    deliveries = tuple(Delivery(mailbox, mailbox) for mailbox in mailboxes)
    writer.submit(IncomingMessage("s@far.example", deliveries, spool.finish(), found.finish()), heard.set_result)
    outcome = await heard
    assert isinstance(outcome, Committed)
    return outcome.id


async def mailbox(array: Array, name: str, true: Callable[[list[bytes]], bool], seconds: float = 20) -> list[bytes]:
    catalog = await array.catalog()
    deadline = time.monotonic() + seconds
    while True:
        held: list[bytes] = [entry.message for entry in await catalog.mailbox(name)]
        if true(held):
            return held
        assert time.monotonic() < deadline, held
        await asyncio.sleep(0.02)


async def test_one_of_several_deliveries_stays_and_stays_the_same_after_a_rebuild(array: Array) -> None:
    first = await deliver(array, 0, TEXT, ANNA, BEN)
    await mailbox(array, BEN, lambda held: held == [first])
    await deliver(array, 1, TEXT, ANNA, BEN)
    await deliver(array, 2, TEXT, ANNA, BEN)
    last = await deliver(array, 2, TEXT.replace(b"<1@", b"<2@"), ANNA)
    await mailbox(array, ANNA, lambda held: held == [first, last])
    await mailbox(array, BEN, lambda held: held == [first])
    catalog = await array.catalog()
    for server in array.servers:
        assert server.agent is not None
        deadline = time.monotonic() + 20
        while await catalog.owed_duplicates(server.agent.volume.id, 10):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
    for server in array.servers:
        await server.kill_writer()
    await array.settled(30)
    for server in array.servers:
        await server.kill()
    volumes = [(server.settings.server, Path(server.settings.volume)) for server in array.servers]
    await rebuild(catalog, volumes, lambda done, total: None)
    for server in array.servers:
        await server.start_sidecar()
    await array.settled(30)
    assert {entry.message for entry in await catalog.mailbox(ANNA)} == {first, last}
    assert {entry.message for entry in await catalog.mailbox(BEN)} == {first}


async def test_a_copy_stays_whose_text_is_another_one_after_all(array: Array) -> None:
    first = await deliver(array, 0, TEXT, ANNA)
    await mailbox(array, ANNA, lambda held: held == [first])
    forged = TEXT.replace(b"hello", b"HELLO")
    second = await deliver(array, 1, forged, ANNA, fingerprint_of=TEXT)
    agent = array.servers[1].agent
    assert agent is not None
    catalog = await array.catalog()
    await mailbox(array, ANNA, lambda held: len(held) == 2)
    deadline = time.monotonic() + 20
    while await catalog.owed_duplicates(agent.volume.id, 10):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert {entry.message for entry in await catalog.mailbox(ANNA)} == {first, second}


async def test_nothing_is_dropped_while_too_few_volumes_hold_the_other_one_or_somebody_reads(array: Array) -> None:
    catalog = await array.catalog()
    first = await deliver(array, 0, TEXT, ANNA)
    await mailbox(array, ANNA, lambda held: held == [first])
    assert await catalog.acquire_lease(ANNA, "a reader", 60.0)
    second = await deliver(array, 1, TEXT, ANNA)
    await mailbox(array, ANNA, lambda held: len(held) == 2)
    await asyncio.sleep(0.3)  # it looks three times meanwhile
    assert len(await catalog.mailbox(ANNA)) == 2
    agent = array.servers[1].agent
    assert agent is not None
    agent.deduplicator._copies = 3  # more than there are
    await catalog.release_lease(ANNA, "a reader")
    await asyncio.sleep(0.3)
    assert {entry.message for entry in await catalog.mailbox(ANNA)} == {first, second}
    agent.deduplicator._copies = 2
    await mailbox(array, ANNA, lambda held: held == [first])
