"""The catalog of an access server: away until it is reached, and whenever it stops answering (pulse.py).

Adds nothing to the catalog's promises; sessions see CatalogUnavailable until the first connection succeeded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from mailarray.access.maildrop import MailboxCatalog
from mailarray.access.pulse import Pulse
from mailarray.catalog.catalog import CatalogClosed, CatalogUnavailable
from mailarray.catalog.rows import MailboxEntry, TombstoneRow

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0  # between attempts to reach the database

T = TypeVar("T")


class ClosableCatalog(MailboxCatalog, Protocol):
    """What opening a catalog gives."""

    async def close(self) -> None: ...

    async def ping(self) -> None: ...


class LateCatalog:
    """A catalog that is opened in the background, again and again until it works."""

    def __init__(self, connect: Callable[[], Awaitable[ClosableCatalog]]) -> None:
        self._connect = connect
        self._catalog: ClosableCatalog | None = None
        self.state = "away"  # as the last call found it: away, connected, or closed to readers
        self._task: asyncio.Task[None] | None = None
        self._pulse = Pulse(self.ping)

    async def start(self, patience: float) -> None:
        """Begin to connect, and wait for it for so many seconds at most."""
        self._task = asyncio.create_task(self._open())
        await asyncio.wait({self._task}, timeout=patience)

    async def stop(self) -> None:
        """Give connections back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._pulse.stop()
        if self._catalog is not None:
            await self._catalog.close()

    async def _open(self) -> None:
        while True:
            try:
                self._catalog = await self._connect()
                self.state = "connected"
                log.info("catalog connected")
                return
            except Exception as error:  # whatever a database driver raises, mail is served without it
                log.warning("catalog not reached, trying again", extra={"reason": repr(error)})
            await asyncio.sleep(RETRY_SECONDS)

    async def ping(self) -> None:
        await self._reached().ping()

    async def mailbox(self, address: str) -> list[MailboxEntry]:
        return await self._call(lambda catalog: catalog.mailbox(address))

    async def expunge(self, tombstones: Sequence[TombstoneRow]) -> None:
        await self._call(lambda catalog: catalog.expunge(tombstones))

    async def acquire_lease(self, mailbox: str, holder: str, seconds: float) -> bool:
        return await self._call(lambda catalog: catalog.acquire_lease(mailbox, holder, seconds))

    async def release_lease(self, mailbox: str, holder: str) -> None:
        await self._call(lambda catalog: catalog.release_lease(mailbox, holder))

    def _reached(self) -> ClosableCatalog:
        if self._catalog is None:
            raise CatalogUnavailable("the catalog has not been reached yet")
        return self._catalog

    async def _call(self, call: Callable[[ClosableCatalog], Coroutine[Any, Any, T]]) -> T:
        catalog = self._reached()
        try:
            answer = await self._pulse.guard(call(catalog))
        except CatalogClosed:
            self.state = "closed"
            raise
        except (CatalogUnavailable, TimeoutError):
            self.state = "away"
            raise
        self.state = "connected"
        return answer
