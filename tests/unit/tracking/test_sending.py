"""Long ranges of a file over real sockets, on both event loops: to the last byte, or the connection breaks."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from aiohttp import web

from mailarray.tracking import sending
from mailarray.tracking.sending import send_range

LENGTH = 12 * 1024 * 1024 + 17
LOOPS = (asyncio.new_event_loop, uvloop.new_event_loop)


class Source:
    """A server that sends a file, or a part of it, and keeps its connections."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.error: OSError | None = None
        self.done = asyncio.Event()
        self.promised = 0  # bytes past the end of the file
        self.threads = ThreadPoolExecutor(1)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        start = int(request.headers.get("Start", "0"))
        end = self.path.stat().st_size + self.promised
        response = web.StreamResponse(status=206)
        response.content_length = end - start
        await response.prepare(request)
        fd = os.open(self.path, os.O_RDONLY)
        assert request.transport is not None
        try:
            await send_range(request.transport, fd, start, end, self.run)
        except OSError as error:
            self.error = error
            request.transport.abort()
        finally:
            os.close(fd)
            self.done.set()
        return response

    async def run(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.threads, call)

    async def open(self) -> int:
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        await self._runner.cleanup()
        self.threads.shutdown()


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Callable[[Source, int], Awaitable[None]]], None]:
    """Runs a dialog with a source on one of the loops."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(LENGTH))

    def run(dialog: Callable[[Source, int], Awaitable[None]]) -> None:
        async def main() -> None:
            source = Source(path)
            port = await source.open()
            try:
                async with asyncio.timeout(50):
                    await dialog(source, port)
            finally:
                await source.close()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main())

    return run


Play = Callable[[Callable[[Source, int], Awaitable[None]]], None]


def test_every_byte_comes_and_the_connection_stays(play: Play) -> None:
    async def dialog(source: Source, port: int) -> None:
        data = source.path.read_bytes()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
            for start in (0, 5_000_001, 0):
                async with session.get(f"http://127.0.0.1:{port}/", headers={"Start": str(start)}) as response:
                    assert await response.read() == data[start:]
        assert source.error is None

    play(dialog)


def test_a_kernel_that_always_fills_the_page_cache(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    real, refused = os.preadv, []

    def preadv(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if flags:
            refused.append(flags)
            raise OSError(95, os.strerror(95))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(sending._Reading, "flags", sending._UNCACHED)

    async def dialog(source: Source, port: int) -> None:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as response:
            assert await response.read() == source.path.read_bytes()
        assert len(refused) == 1

    play(dialog)


def test_a_receiver_that_takes_nothing_holds_no_thread_and_is_given_up(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "STALL", 1.0)

    async def dialog(source: Source, port: int) -> None:
        source.path.write_bytes(bytes(4 * LENGTH))  # more than the kernel holds for both
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readexactly(100)
        while not source.done.is_set():
            await source.run(lambda: None)  # the only thread has time for others
            await asyncio.sleep(0.01)
        assert isinstance(source.error, TimeoutError)
        writer.close()

    play(dialog)


def test_a_receiver_that_goes_away(play: Play) -> None:
    async def dialog(source: Source, port: int) -> None:
        source.path.write_bytes(bytes(4 * LENGTH))
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readexactly(100)
        writer.transport.abort()
        await source.done.wait()
        assert isinstance(source.error, ConnectionError)

    play(dialog)


def test_a_file_that_is_shorter_than_promised_breaks_the_connection(play: Play) -> None:
    async def dialog(source: Source, port: int) -> None:
        source.promised = 10
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}/") as response:
                    await response.read()
        assert "shorter" in str(source.error)

    play(dialog)


async def test_who_is_cancelled_waits_for_its_thread() -> None:
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work() -> bool:
        loop.call_soon_threadsafe(begun.set)
        return go_on.wait(50)

    async def send() -> None:
        await sending._whole(asyncio.to_thread(work))

    task = asyncio.create_task(send())
    async with asyncio.timeout(50):
        await begun.wait()
        task.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not task.done()  # who closes the file then would close it under the thread
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_a_server_that_stops_leaves_no_descriptor(play: Play) -> None:
    async def dialog(source: Source, port: int) -> None:
        source.path.write_bytes(bytes(4 * LENGTH))
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readexactly(100)
        open_files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        await source.close()  # which cancels what is under way
        await source.done.wait()
        assert len(os.listdir("/proc/self/fd")) < open_files  # noqa: PTH208
        writer.close()

    play(dialog)
