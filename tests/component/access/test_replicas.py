"""Messages come from whichever replica gives them; a damaged one is never handed out."""

from __future__ import annotations

import asyncio
import time

import pytest

from mailarray.access import array as array_module
from mailarray.access import replicas
from mailarray.model.ids import VolumeId
from tests.support.access_fakes import MAILBOX, PASSWORD, FakeArray
from tests.support.pop3_dialog import Client

SMALL = b"Subject: small\r\n\r\nhello\r\n"
LARGE = b"Subject: large\r\n\r\n" + (b"." + b"x" * 997 + b"\r\n") * 1500  # 1.5 MB: read in pieces
HOPED = 1.0  # seconds in which a message must come from the other replica


async def read_all(array: FakeArray, count: int) -> list[bytes]:
    async with Client(array.port) as client:
        assert (await client.log_in(MAILBOX, PASSWORD)).startswith("+OK")
        bodies = [await client.retrieve(n) for n in range(1, count + 1)]
        assert await client.ask("QUIT") == "+OK bye"
        return bodies


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("first", [0, 1])
async def test_a_replica_that_hangs(array: FakeArray, body: bytes, first: int) -> None:
    count = 10 if body is SMALL else 3
    for i in range(count):
        array.deliver(body, new_segment=i % 2 == 0)
    await array.start()
    array.servers[first].hangs = True
    began = time.monotonic()
    assert await read_all(array, count) == [body] * count
    assert time.monotonic() - began < HOPED  # all of them: a server that hung is asked last from then on


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
async def test_a_replica_that_hung_before_it_was_ever_heard(array: FakeArray, body: bytes) -> None:
    array.servers[0].hangs = True
    array.deliver(body)
    await array.start()
    began = time.monotonic()
    assert await read_all(array, 1) == [body]
    assert time.monotonic() - began < HOPED


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
async def test_a_replica_that_is_gone(array: FakeArray, body: bytes) -> None:
    for _ in range(4):
        array.deliver(body, new_segment=True)
    await array.start()
    await array.servers[1].stop()
    began = time.monotonic()
    assert await read_all(array, 4) == [body] * 4
    assert time.monotonic() - began < HOPED


@pytest.mark.parametrize("fault", ["hangs_after", "cuts"])
@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
async def test_a_replica_that_dies_in_the_middle(array: FakeArray, body: bytes, fault: str) -> None:
    for _ in range(4):
        array.deliver(body, new_segment=True)
    await array.start()
    setattr(array.servers[0], fault, 10 if fault == "hangs_after" else True)
    began = time.monotonic()
    assert await read_all(array, 4) == [body] * 4
    assert time.monotonic() - began < HOPED


async def test_a_replica_that_lost_the_segment(array: FakeArray) -> None:
    for _ in range(4):
        array.deliver(SMALL, new_segment=True)
    array.servers[0].segments.clear()
    await array.start()
    assert await read_all(array, 4) == [SMALL] * 4


async def test_a_small_message_that_is_damaged_on_one_replica(array: FakeArray) -> None:
    for i in range(20):
        array.deliver(SMALL, new_segment=i == 10)
    array.servers[0].damages = True
    await array.start()
    assert await read_all(array, 20) == [SMALL] * 20


async def test_one_unreadable_message_does_not_take_its_neighbours_along(array: FakeArray) -> None:
    for _ in range(6):
        array.deliver(SMALL)
    for server in array.servers[:2]:
        for segment in server.segments.values():
            segment[array.catalog.entries[MAILBOX][3].locations[0].offset] ^= 1
    await array.start()
    async with Client(array.port) as client:
        await client.log_in(MAILBOX, PASSWORD)
        for number in (1, 2, 3, 5, 6):
            assert await client.retrieve(number) == SMALL
        answer = await client.ask("RETR 4")
        assert answer == "-ERR [SYS/TEMP] the message cannot be read now, try again later"
        assert await client.ask("NOOP") == "+OK"


async def test_a_large_message_that_is_damaged_everywhere_is_cut_off_rather_than_completed(array: FakeArray) -> None:
    array.deliver(LARGE)
    await array.start()
    array.servers[0].damages = array.servers[1].damages = True
    async with Client(array.port) as client:
        await client.log_in(MAILBOX, PASSWORD)
        with pytest.raises((EOFError, ConnectionResetError)):
            await client.retrieve(1)
    array.servers[0].damages = array.servers[1].damages = False  # mended
    await asyncio.wait_for(array.catalog.released.wait(), 5)
    assert await read_all(array, 1) == [LARGE]


async def test_a_damaged_replica_is_read_last_from_then_on(array: FakeArray) -> None:
    array.deliver(LARGE)
    await array.start()
    first = replicas.replicas_of(
        array.catalog.entries[MAILBOX][0].locations, array.catalog.entries[MAILBOX][0].message[-1]
    )[0]
    next(s for s in array.servers if s.volume == first.volume).damages = True
    async with Client(array.port) as client:
        await client.log_in(MAILBOX, PASSWORD)
        with pytest.raises((EOFError, ConnectionResetError)):
            await client.retrieve(1)
    await asyncio.wait_for(array.catalog.released.wait(), 5)
    assert await read_all(array, 1) == [LARGE]


async def test_top_of_a_large_message_reads_only_its_beginning(array: FakeArray) -> None:
    array.deliver(LARGE)
    await array.start()
    async with Client(array.port) as client:
        await client.log_in(MAILBOX, PASSWORD)
        assert (await client.ask("TOP 1 2")).startswith("+OK")
        assert await client.text() == LARGE[: 18 + 2 * 1000]
    assert sum(s.gets for s in array.servers) <= 3


async def test_nothing_is_left_to_read_from(array: FakeArray) -> None:
    array.deliver(SMALL)
    await array.start()
    for server in array.servers[:2]:
        await server.stop()
    async with Client(array.port) as client:
        await client.log_in(MAILBOX, PASSWORD)
        assert await client.ask("RETR 1") == "-ERR [SYS/TEMP] the message cannot be read now, try again later"


async def test_a_server_that_came_back_on_another_port_is_found(
    array: FakeArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_module, "TABLE_CHECK_SECONDS", 0.0)
    array.deliver(SMALL)
    await array.start()
    for server in array.servers[:2]:
        await server.stop()
        server.port = 0
        await server.start()
    array.write_table(generation=2)
    assert await read_all(array, 1) == [SMALL]


async def test_messages_near_each_other_are_read_together(array: FakeArray) -> None:
    for _ in range(100):
        array.deliver(SMALL)
    await array.start()
    assert await read_all(array, 100) == [SMALL] * 100
    assert sum(s.gets for s in array.servers) < 20


@pytest.mark.parametrize("fault", ["stopped", "hanging"])
async def test_a_server_that_was_not_heard_at_first_takes_over(array: FakeArray, fault: str) -> None:
    array.deliver(SMALL)
    array.servers[1].hangs = True
    await array.start()
    assert array.access is not None
    await array.access.array.ask_again()
    assert array.access.array.volumes_of("mail-1") == set()
    array.servers[1].hangs = False
    array.access.array._refreshed = float("-inf")  # a while passes
    if fault == "stopped":
        await array.servers[0].stop()
    else:
        array.servers[0].hangs = True
    began = time.monotonic()
    assert await read_all(array, 1) == [SMALL]
    assert time.monotonic() - began < HOPED


async def test_a_volume_that_nobody_has_holds_no_read_up(array: FakeArray) -> None:
    for _ in range(20):
        array.deliver(SMALL, new_segment=True)
    array.servers[0].volume = VolumeId(b"\x77" * 16)
    await array.start()
    began = time.monotonic()
    assert await read_all(array, 20) == [SMALL] * 20
    assert time.monotonic() - began < HOPED
