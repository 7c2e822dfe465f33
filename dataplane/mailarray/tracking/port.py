"""The sidecar's internal port: listens on its own address only, batches on the lean way, the rest through aiohttp."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from aiohttp import web

from mailarray.contract.settings import Listen
from mailarray.model.ids import VolumeId
from mailarray.observe.http import ListenError, listen_problem
from mailarray.tracking.put_wire import PutConnection
from mailarray.tracking.receiving import Receiver
from mailarray.tracking.routes import Routes

CLOSE_SECONDS = 2.0  # for requests under way when the sidecar stops


class Port:
    """See the module."""

    def __init__(
        self, volume: VolumeId, token: str, receiver: Receiver, routes: Routes, stopping: Callable[[], bool]
    ) -> None:
        self._others = web.Server(routes, access_log=None)
        self._open: set[PutConnection] = set()
        self._make = lambda: PutConnection(volume.hex(), token, receiver, stopping, self._others, self._open)
        self._server: asyncio.Server | None = None

    async def open(self, listen: Listen) -> int:
        """Listen; answers the port. Raises ListenError."""
        try:
            self._server = await asyncio.get_running_loop().create_server(self._make, listen.host, listen.port)
        except OSError as error:
            raise ListenError(listen_problem(listen, error)) from error
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Stop listening, give requests under way a moment, and drop what is open."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._open):
            connection.abort()  # a writer whose batch is under way goes to its next mirror
        await self._others.shutdown(seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._server.wait_closed()
