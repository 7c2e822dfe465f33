"""Accounts out of a server's snapshot, for an access server that cannot reach the database.

One server is asked at a time, another one each time. What it sends is taken only when it came whole, and only when it
is newer than what is here.
"""

from __future__ import annotations

import logging

import aiohttp
import msgspec

from mailarray.access.array import ANSWER_ERRORS, PATIENCE, ServerArray, sidecar_url
from mailarray.contract import paths
from mailarray.contract.mirroring_table import Server
from mailarray.directory.rows import AccountRow, AccountsUnavailable, AliasRow, Position, Sink

MAX_LINE = 16 << 20  # bytes; a thousand rows are some hundred KiB, and an address or hash is never longer than a KiB

log = logging.getLogger(__name__)


class _Line(msgspec.Struct):
    position: Position | None = None
    accounts: list[AccountRow] | None = None
    aliases: list[AliasRow] | None = None
    end: bool = False


_decode = msgspec.json.Decoder(_Line).decode


class SidecarAccounts:
    """A `rows.Source`; the array must have been started."""

    def __init__(self, array: ServerArray) -> None:
        self._array = array
        self._turn = 0

    async def feed(self, since: Position | None, sink: Sink) -> bool:
        """See `rows.Source`."""
        servers = self._array.servers()
        self._turn += 1
        for i in range(len(servers)):
            server = servers[(self._turn + i) % len(servers)]
            try:
                return await self._ask(server, since, sink)
            except ANSWER_ERRORS as error:
                log.info("server gives no accounts", extra={"server": server.name, "reason": repr(error)})
        raise AccountsUnavailable("no server has a snapshot of the accounts")

    async def _ask(self, server: Server, since: Position | None, sink: Sink) -> bool:
        url = sidecar_url(server, paths.accounts_path(-1 if since is None else since.revision))
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE, sock_read=paths.ACCOUNTS_SECONDS)
        async with self._array.http.get(url, timeout=timeout) as response:
            response.raise_for_status()
            if response.status == 204:
                return False
            await sink.begin(whole=True)
            try:
                await sink.commit(await _copy(response.content, sink))
            except BaseException:
                await sink.abandon()
                raise
            return True


async def _copy(content: aiohttp.StreamReader, sink: Sink) -> Position:
    position: Position | None = None
    while raw := await content.readline(max_line_length=MAX_LINE):
        line = _decode(raw)
        position = line.position or position
        if line.accounts or line.aliases:
            await sink.add(line.accounts or (), line.aliases or ())
        if line.end and position is not None:
            return position
    raise ValueError("the answer ends early")
