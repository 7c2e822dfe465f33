"""The sidecar's part in accounts that are kept in a database: it keeps its server's snapshot, and gives it to others.

Access servers ask for it (GET, `contract.paths.ACCOUNTS`) when the database is away. Only whole snapshots are given:
with the database away nothing changes, so who has one as new as ours needs nothing.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from mailarray.contract.settings import ServerSettings
from mailarray.directory.database.store import AccountStore
from mailarray.directory.keeping import SnapshotKeeper
from mailarray.directory.rows import AccountRow, Position
from mailarray.directory.snapshot_file import dump
from mailarray.tracking.answers import refuse

log = logging.getLogger(__name__)


class ServerAccounts:
    """Made when the settings name a snapshot."""

    def __init__(self, settings: ServerSettings) -> None:
        assert settings.directory.snapshot_file is not None
        self._store = AccountStore(settings.catalog.current_url)
        self._keeper = SnapshotKeeper(Path(settings.directory.snapshot_file), self._store)

    async def run(self) -> None:
        """Keep the snapshot, until cancelled."""
        try:
            await self._keeper.run()
        finally:
            await self._store.close()

    @property
    def held(self) -> str:
        """For /v1/status: why the database is not followed although it is there, and what to do; "" when it is."""
        return self._keeper.held

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """All accounts as JSON lines; 204 when the asker's revision is as new as ours, 503 without a snapshot."""
        try:
            known = int(request.query.get("revision", "-1"))
        except ValueError:
            return refuse(400, "revision must be a number")
        parts = dump(self._keeper.file)
        try:
            position = await asyncio.to_thread(next, parts, None)
            if not isinstance(position, Position):
                return refuse(503, "there is no snapshot of the accounts yet")
            if position.revision <= known:
                return web.Response(status=204)
            return await self._send(request, position, parts)
        except sqlite3.Error as error:
            return refuse(503, f"there is no snapshot of the accounts: {error}")
        finally:
            await asyncio.to_thread(parts.close)

    async def _send(self, request: web.BaseRequest, position: Position, parts: Iterator[Any]) -> web.StreamResponse:
        """The position, a line for each thousand rows, and an end: without it the asker takes nothing."""
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        encode = msgspec.json.Encoder().encode
        await response.write(encode({"position": position}) + b"\n")
        try:
            while rows := await asyncio.to_thread(next, parts, None):
                name = "accounts" if isinstance(rows[0], AccountRow) else "aliases"
                await response.write(encode({name: rows}) + b"\n")
        except sqlite3.Error as error:
            log.error("snapshot not sent whole", extra={"reason": str(error)})
        else:
            await response.write(b'{"end":true}\n')
        await response.write_eof()
        return response
