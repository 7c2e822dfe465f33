"""Reading goes on with the catalog away, closed or hanging (rules 19 and 20)."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from mailarray.access import expunge, maildrop, sidecars
from tests.support.access_fakes import MAILBOX, PASSWORD, FakeArray
from tests.support.pop3_dialog import Client


@pytest.mark.parametrize("state", ["away", "closed", "hangs"])
async def test_the_sidecars_list_the_mailbox(array: FakeArray, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (maildrop, expunge):
        monkeypatch.setattr(module, "CATALOG_PATIENCE", 0.05)
    placements = [array.deliver(b"%d\r\n" % i, on=((0, 1), (1, 2), (2, 0))[i % 3]) for i in range(7)]
    await array.start()
    setattr(array.catalog, state, True)
    async with Client(array.port) as client:
        assert await client.log_in(MAILBOX, PASSWORD) == "+OK 7 messages (21 octets)"
        assert await client.ask("UIDL") == "+OK 7 messages"
        uidl = (await client.text()).decode().split()
        assert uidl[1::2] == [str(p) for p in placements]
        assert [await client.retrieve(n) for n in range(1, 8)] == [b"%d\r\n" % i for i in range(7)]
        assert (await client.ask("DELE 2")).startswith("+OK")
        assert await client.ask("QUIT") == "+OK bye"
    async with Client(array.port) as client:
        assert await client.log_in(MAILBOX, PASSWORD) == "+OK 6 messages (18 octets)"


async def test_what_a_tombstone_anywhere_names_is_not_listed(array: FakeArray) -> None:
    gone = array.deliver(b"gone\r\n", on=(0, 1))
    array.deliver(b"kept\r\n", on=(0, 1))
    array.servers[2].tombstones.append({"placement": str(gone)})
    await array.start()
    array.catalog.away = True
    async with Client(array.port) as client:
        assert await client.log_in(MAILBOX, PASSWORD) == "+OK 1 messages (6 octets)"


@pytest.mark.parametrize("fault", ["stopped", "hanging"])
async def test_one_silent_server_of_two_copies_is_borne(array: FakeArray, fault: str) -> None:
    for i in range(6):
        array.deliver(b"%d\r\n" % i, on=((0, 1), (1, 2), (2, 0))[i % 3])
    await array.start()
    array.catalog.away = True
    if fault == "stopped":
        await array.servers[0].stop()
    else:
        array.servers[0].hangs = True
    began = time.monotonic()
    async with Client(array.port) as client:
        assert (await client.log_in(MAILBOX, PASSWORD)).startswith("+OK 6 messages")
        assert [await client.retrieve(n) for n in range(1, 7)] == [b"%d\r\n" % i for i in range(6)]
    assert time.monotonic() - began < 1.5


async def test_never_half_a_mailbox(array: FakeArray) -> None:
    array.deliver(b"x\r\n", on=(0, 1))
    await array.start()
    array.catalog.away = True
    await array.servers[0].stop()
    await array.servers[2].stop()
    async with Client(array.port) as client:
        answer = await client.log_in(MAILBOX, PASSWORD)
        assert answer == "-ERR [SYS/TEMP] the mailbox cannot be read whole now, try again later"


async def test_a_member_volume_that_nobody_has_counts_as_silent(array: FakeArray) -> None:
    array.deliver(b"x\r\n", on=(0, 1))
    array.servers[0].volume = type(array.servers[0].volume)(b"\x77" * 16)  # its disk was wiped
    array.servers[0].listing.clear()
    await array.start()
    array.catalog.away = True
    async with Client(array.port) as client:
        assert await client.log_in(MAILBOX, PASSWORD) == "+OK 1 messages (3 octets)"
    await array.servers[2].stop()
    async with Client(array.port) as client:
        assert (await client.log_in(MAILBOX, PASSWORD)).startswith("-ERR [SYS/TEMP]")


async def test_the_process_serves_before_the_catalog_was_ever_reached(array: FakeArray) -> None:
    array.deliver(b"x\r\n")
    reached = asyncio.Event()

    async def connect() -> object:
        await reached.wait()
        return array.catalog

    array._connect = connect  # type: ignore[assignment, method-assign]
    from mailarray.access import server

    before, server.CATALOG_START_SECONDS = server.CATALOG_START_SECONDS, 0.05
    try:
        await array.start()
    finally:
        server.CATALOG_START_SECONDS = before
    async with Client(array.port) as client:
        assert await client.log_in(MAILBOX, PASSWORD) == "+OK 1 messages (3 octets)"
        await client.ask("QUIT")
    reached.set()
    await asyncio.sleep(0)
    async with Client(array.port) as client:
        assert await client.log_in(MAILBOX, PASSWORD) == "+OK 1 messages (3 octets)"
        assert array.catalog.leases  # now it is locked for the whole array


async def test_the_lease_is_renewed(array: FakeArray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maildrop, "LEASE_SECONDS", 0.03)
    await array.start()
    async with Client(array.port) as client:
        await client.log_in(MAILBOX, PASSWORD)
        renewed = asyncio.Event()
        acquire = array.catalog.acquire_lease

        async def watched(mailbox: str, holder: str, seconds: float) -> bool:
            renewed.set()
            return await acquire(mailbox, holder, seconds)

        monkeypatch.setattr(array.catalog, "acquire_lease", watched)
        await asyncio.wait_for(renewed.wait(), 5)


async def test_a_session_lists_its_mailbox_once_and_not_for_each_message_that_nobody_has(
    array: FakeArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    listings = 0
    compile_mailbox = sidecars.compile_mailbox

    async def counted(*arguments: Any) -> Any:
        nonlocal listings
        listings += 1
        return await compile_mailbox(*arguments)

    monkeypatch.setattr(maildrop, "compile_mailbox", counted)
    monkeypatch.setattr(maildrop, "AGAIN", 1e6)
    for i in range(20):
        array.deliver(b"%d\r\n" % i)
    await array.start()
    array.catalog.away = True
    async with Client(array.port) as client:
        assert (await client.log_in(MAILBOX, PASSWORD)).startswith("+OK 20 messages")
        for number in (5, 4, 3, 2, 1):  # backwards, so that little is read ahead
            assert await client.retrieve(number) == b"%d\r\n" % (number - 1)
        assert listings == 1
        for server in array.servers:
            server.segments.clear()
        for number in range(15, 21):
            assert (await client.ask(f"RETR {number}")).startswith("-ERR")
        assert listings == 2
    monkeypatch.setattr(maildrop, "AGAIN", 0)
    async with Client(array.port) as client:
        assert (await client.log_in(MAILBOX, PASSWORD)).startswith("+OK 20 messages")
        for number in (15, 16):  # after a while it is looked for again
            assert (await client.ask(f"RETR {number}")).startswith("-ERR")
    assert listings == 5
