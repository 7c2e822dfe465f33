"""What a writer answers on its internal port while the server's role changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from mailarray.contract import paths
from mailarray.smtp.writer_port import add_routes


class Writer:
    """Of a server that may begin to drain; counts what it is asked to expunge."""

    def __init__(self) -> None:
        self.looked = asyncio.Event()
        self.drains = False
        self.expunged = 0

    @property
    def draining(self) -> bool:
        self.looked.set()
        return self.drains

    async def expunge(self, part: Any) -> None:
        self.expunged += 1


async def test_tombstones_that_arrive_while_a_drain_begins_are_sent_elsewhere() -> None:
    writer, app = Writer(), web.Application()
    add_routes(app, writer)  # type: ignore[arg-type]

    async def body() -> AsyncIterator[bytes]:
        yield b"["
        await writer.looked.wait()
        writer.drains = True
        yield b'{"placement": "' + b"01" * 16 + b'.0", "message": "' + b"01" * 16 + b'", "mailbox": "a@x.example"}]'

    async with TestClient(TestServer(app)) as client, asyncio.timeout(10):
        answer = await client.post(paths.TOMBSTONES, data=body())
        assert answer.status == 503 and "draining" in await answer.text()
    assert writer.expunged == 0
