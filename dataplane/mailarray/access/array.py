"""The servers of the array as an access server sees them: who they are, which volume each has, who answers.

Built on the mirroring table: its file, which is read again when it changes, and what is pushed. Knows HTTP and the
token, and nothing of messages. Used by the replica reader, the maildrop (with the catalog away) and the expunger.

Invariants:
- Nothing here waits for a server that hangs longer than PATIENCE.
- A server is `bad` for a few seconds only: a wrong guess costs a slower read, never a message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from mailarray.contract import mirroring_table, paths
from mailarray.contract.mirroring_table import MirroringTable, Server
from mailarray.model.ids import VolumeId, parse_id

log = logging.getLogger(__name__)

PATIENCE = 1.0  # seconds; a sidecar answers a question from memory or a small index, so a second means it hangs
BAD_SECONDS = 5.0  # a server that hung or refused is asked last for so long
TABLE_CHECK_SECONDS = 1.0  # how often the table's file is looked at, at most
REFRESH_SECONDS = 2.0  # how often the volumes are asked for, at most: an unknown volume may be unknown for good
CONNECTIONS_PER_SERVER = 100  # reads of many sessions at once; sockets are cheap, waiting behind a slow read is not
SETTLE_SECONDS = 0.2  # how long a read waits to know a second replica before it starts
READ_SECONDS = 5.0  # without a byte: the connection is given up

ANSWER_ERRORS = (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError)  # a peer without sense


class ServerArray:
    """All servers of the mirroring table. Call `start` before, `stop` after."""

    def __init__(self, table_file: str, token_file: str) -> None:
        """Raises OSError when the token cannot be read."""
        self._table_file = Path(table_file)
        self._token = Path(token_file).read_text(encoding="utf-8").strip()
        self._table = MirroringTable(0, (), {})
        self._table_signature: tuple[int, int, int] | None = None
        self._table_checked = float("-inf")
        self._volumes: dict[VolumeId, str] = {}  # volume -> name of the server that answered for it last
        self._bad_until: dict[str, float] = {}
        self._refresh: asyncio.Task[None] | None = None
        self._refreshed = float("-inf")
        self._learned = asyncio.Event()  # set, and replaced, whenever an answer arrives
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the HTTP client and ask for volumes."""
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"{paths.TOKEN_SCHEME} {self._token}"},
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=CONNECTIONS_PER_SERVER),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE, sock_read=READ_SECONDS),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self.refresh()

    async def stop(self) -> None:
        """Close the HTTP client."""
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.gather(self._refresh, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    @property
    def http(self) -> aiohttp.ClientSession:
        """The one HTTP client; it carries the token."""
        if self._session is None:
            raise RuntimeError("the array is not started")
        return self._session

    # -- servers -------------------------------------------------------------------------------------

    def servers(self) -> tuple[Server, ...]:
        """The servers of the newest table."""
        self._check_table()
        return self._table.servers

    def _check_table(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._table_checked < TABLE_CHECK_SECONDS:
            return
        self._table_checked = now
        try:
            stat = self._table_file.stat()
            signature = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if signature == self._table_signature:
                return
            self._table_signature = signature
            table = mirroring_table.load(self._table_file)
        except (OSError, ValueError) as error:
            log.error("mirroring table not read, the old one stays", extra={"reason": str(error)})
            return
        if table.generation >= self._table.generation:
            self._table = table
            self._refreshed = float("-inf")

    def take_table(self, table: MirroringTable) -> bool:
        """Take a pushed table when its generation is higher; answers whether it was."""
        self._check_table()
        if table.generation <= self._table.generation:
            return False
        self._table = table
        self._refreshed = float("-inf")
        return True

    @property
    def table_generation(self) -> int:
        """Of the table in force."""
        self._check_table()
        return self._table.generation

    def mark_bad(self, server: str) -> None:
        """It hung, refused or broke off: ask it last for a while."""
        now = asyncio.get_running_loop().time()
        if self._bad_until.get(server, 0.0) <= now:
            log.warning("server asked last for a while", extra={"server": server, "seconds": BAD_SECONDS})
        self._bad_until[server] = now + BAD_SECONDS

    def mark_good(self, server: str) -> None:
        """It answered."""
        self._bad_until.pop(server, None)

    def is_bad(self, server: str) -> bool:
        """Whether it is asked last for now."""
        until = self._bad_until.get(server)
        return until is not None and until > asyncio.get_running_loop().time()

    # -- volumes -------------------------------------------------------------------------------------

    def volumes_of(self, server: str) -> set[VolumeId]:
        """The volumes that this server is known to have."""
        return {volume for volume, name in self._volumes.items() if name == server}

    def holder(self, volume: VolumeId) -> Server | None:
        """The server that has a volume, as far as known now."""
        name = self._volumes.get(volume)
        if name is None:
            return None
        self._check_table()
        return self._table.server(name)

    def forget(self, server: str) -> None:
        """It said that a volume is not its own: ask again which one is."""
        for volume in self.volumes_of(server):
            del self._volumes[volume]
        self._refreshed = float("-inf")

    async def learn(self, volumes: Iterable[VolumeId]) -> None:
        """Wait until the holders of the volumes are known, as far as somebody says so in time.

        Once one is known, the others are waited for until SETTLE_SECONDS after everybody was asked: a hedge that has
        nobody to turn to is none, but a lost volume or a server that hangs must not hold up every read.
        """
        wanted = tuple(volumes)
        loop = asyncio.get_running_loop()
        while missing := [volume for volume in wanted if self.holder(volume) is None]:
            task = self.refresh()
            left = self._refreshed + SETTLE_SECONDS - loop.time()
            if task is None or (left <= 0 and len(missing) < len(wanted)):
                return
            learned = asyncio.create_task(self._learned.wait())
            await asyncio.wait(
                {task, learned},
                timeout=left if len(missing) < len(wanted) else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            learned.cancel()

    async def ask_again(self) -> None:
        """Ask all servers for their volumes, however lately that was done, and wait for the answers."""
        self._refreshed = float("-inf")
        task = self.refresh()
        if task is not None:
            await asyncio.wait({task})

    def refresh(self) -> asyncio.Task[None] | None:
        """Ask all servers for their volumes, in the background; None when that was done a moment ago."""
        if self._refresh is not None and not self._refresh.done():
            return self._refresh
        now = asyncio.get_running_loop().time()
        self._check_table()
        if now - self._refreshed < REFRESH_SECONDS:
            return None
        self._refreshed = now
        self._refresh = asyncio.create_task(self._ask_volumes())
        return self._refresh

    async def _ask_volumes(self) -> None:
        await asyncio.gather(*(self._ask_volume(server) for server in self._table.servers))

    async def _ask_volume(self, server: Server) -> None:
        try:
            answer = await self.get_json(server, paths.VOLUME)
            volume = VolumeId(parse_id(answer["volume"]))
        except ANSWER_ERRORS as error:
            log.info("server does not say its volume", extra={"server": server.name, "reason": repr(error)})
            return
        for stale in self.volumes_of(server.name) - {volume}:
            del self._volumes[stale]
        self._volumes[volume] = server.name
        self._learned.set()
        self._learned = asyncio.Event()

    async def get_json(self, server: Server, path: str, seconds: float = PATIENCE) -> Any:
        """A question to a sidecar. Raises one of ANSWER_ERRORS."""
        async with asyncio.timeout(seconds), self.http.get(sidecar_url(server, path)) as response:
            response.raise_for_status()
            return msgspec.json.decode(await response.read())


def sidecar_url(server: Server, path: str) -> URL:
    """The URL of a path on a server's sidecar; the path is percent-encoded already."""
    return _url(server.sidecar, path)


def writer_url(server: Server, path: str) -> URL:
    """The URL of a path on a server's writer."""
    return _url(server.writer, path)


def _url(address: str, path: str) -> URL:
    return URL(f"http://{address}{path}", encoded=True)
