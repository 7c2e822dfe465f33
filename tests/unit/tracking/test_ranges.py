"""Ranges from another server: whole ones, and everything that can go wrong on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from mailarray.tracking.ranges import RangeReader, RangeUnreadable

Answer = Callable[[asyncio.StreamWriter, int], Awaitable[None]]  # the connection, and the number of the request on it
BODY = bytes(range(256)) * 64


class Peer:
    """Answers each request as it is told; `requests` has their heads, `connections` counts."""

    def __init__(self) -> None:
        self.answer: Answer = whole
        self.requests: list[bytes] = []
        self.connections = 0
        self.gone = asyncio.Event()

    async def open(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = 0
        try:
            while True:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                number += 1
                await self.answer(writer, number)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone.set()
        finally:
            writer.close()

    def close(self) -> None:
        self._server.close()


def head(status: str, length: int) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n".encode()


async def whole(writer: asyncio.StreamWriter, number: int) -> None:
    writer.write(head("206 Partial Content", len(BODY)) + BODY)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    one = Peer()
    yield one
    one.close()


@pytest.fixture
async def ranges() -> AsyncIterator[RangeReader]:
    one = RangeReader("secret", 50.0)
    yield one
    one.close()


async def test_a_range_comes_on_a_kept_connection(peer: Peer, ranges: RangeReader) -> None:
    address = await peer.open()
    buffer = memoryview(bytearray(len(BODY)))
    for _ in range(3):
        assert await ranges.read_into(address, "/path", 5, buffer) == len(BODY)
        assert bytes(buffer) == BODY
        buffer[:] = bytes(len(BODY))
    assert peer.connections == 1
    assert b"GET /path HTTP/1.1" in peer.requests[0]
    assert f"Range: bytes=5-{4 + len(BODY)}\r\n".encode() in peer.requests[0]
    assert b"Authorization: Bearer secret\r\n" in peer.requests[0]


async def test_fewer_bytes_than_were_asked_for(peer: Peer, ranges: RangeReader) -> None:
    buffer = memoryview(bytearray(len(BODY) + 100))
    assert await ranges.read_into(await peer.open(), "/path", 0, buffer) == len(BODY)


@pytest.mark.parametrize("status", ["404 Not Found", "416 Range Not Satisfiable", "503 x", "200 OK"])
async def test_another_answer_does_not_count(peer: Peer, ranges: RangeReader, status: str) -> None:
    async def answer(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(head(status, 2) + b"{}")

    peer.answer = answer
    address = await peer.open()
    with pytest.raises(RangeUnreadable, match=f"answered {status[:3]}"):
        await ranges.read_into(address, "/path", 0, memoryview(bytearray(100)))
    peer.answer = whole
    assert await ranges.read_into(address, "/path", 0, memoryview(bytearray(len(BODY)))) == len(BODY)


async def test_more_than_was_asked_for_is_refused(peer: Peer, ranges: RangeReader) -> None:
    with pytest.raises(RangeUnreadable, match="206"):
        await ranges.read_into(await peer.open(), "/path", 0, memoryview(bytearray(len(BODY) - 1)))


async def test_a_source_that_dies_in_the_middle(peer: Peer, ranges: RangeReader) -> None:
    async def answer(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(head("206 x", len(BODY)) + BODY[:5000])
        writer.close()

    peer.answer = answer
    with pytest.raises(RangeUnreadable, match="broke off after 5000"):
        await ranges.read_into(await peer.open(), "/path", 0, memoryview(bytearray(len(BODY))))


async def test_nobody_there(peer: Peer, ranges: RangeReader) -> None:
    address = await peer.open()
    peer.close()
    with pytest.raises(RangeUnreadable, match="refused"):
        await ranges.read_into(address, "/path", 0, memoryview(bytearray(100)))


async def test_a_silent_source_is_left(peer: Peer) -> None:
    async def answer(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(head("206 x", len(BODY)) + BODY[:10])

    peer.answer = answer
    ranges = RangeReader("secret", 0.2)
    with pytest.raises(RangeUnreadable, match="timed out"):
        await ranges.read_into(await peer.open(), "/path", 0, memoryview(bytearray(len(BODY))))
    ranges.close()


async def test_a_kept_connection_that_was_closed_meanwhile_is_replaced(peer: Peer, ranges: RangeReader) -> None:
    async def once(writer: asyncio.StreamWriter, number: int) -> None:
        if number > 1:
            writer.close()  # as if it had been closed before the request came
        else:
            await whole(writer, number)

    peer.answer = once
    address, buffer = await peer.open(), memoryview(bytearray(len(BODY)))
    for _ in range(2):
        assert await ranges.read_into(address, "/path", 0, buffer) == len(BODY)
    assert peer.connections == 2


async def test_who_is_cancelled_lets_the_connection_go(peer: Peer, ranges: RangeReader) -> None:
    asked = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(head("206 x", len(BODY)) + BODY[:10])
        asked.set()

    peer.answer = answer
    address = await peer.open()
    task = asyncio.create_task(ranges.read_into(address, "/path", 0, memoryview(bytearray(len(BODY)))))
    async with asyncio.timeout(30):
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await peer.gone.wait()  # long before the 50 s of silence
    peer.answer = whole
    async with asyncio.timeout(30):
        assert await ranges.read_into(address, "/path", 0, memoryview(bytearray(len(BODY)))) == len(BODY)
