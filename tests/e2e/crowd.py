"""A crowd at one server: clients that open sessions and keep them, so that it is really loaded."""

from __future__ import annotations

import asyncio
import contextlib

from tests.faults.where import Where

GREETING_SECONDS = 10.0
BETWEEN = 0.02  # seconds after a session that was turned away


class Crowd:
    """For `async with`: inside, that many sessions are open. A server that sheds lets them in a few at a time."""

    def __init__(self, where: Where, sessions: int) -> None:
        self._where = where
        self._sessions = sessions
        self._open: list[asyncio.StreamWriter] = []
        self.turned_away = 0

    async def __aenter__(self) -> Crowd:
        try:
            await self._come()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _come(self) -> None:
        while len(self._open) < self._sessions:
            async with asyncio.timeout(GREETING_SECONDS):
                reader, writer = await asyncio.open_connection(*self._where())
                greeting = await reader.readline()
            if greeting.startswith(b"220"):
                self._open.append(writer)
                continue
            self.turned_away += 1
            await _close(writer)
            await asyncio.sleep(BETWEEN)

    async def __aexit__(self, *_: object) -> None:
        for writer in self._open:
            await _close(writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
