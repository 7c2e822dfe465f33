"""The catalog of an access server that may have started before its database: away until it is reached.

Adds nothing to the catalog's promises; sessions see CatalogUnavailable until the first connection succeeded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol

from mailarray.access.maildrop import MailboxCatalog
from mailarray.catalog.catalog import CatalogClosed, CatalogUnavailable, MailboxEntry, TombstoneRow

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0  # between attempts to reach the database


class ClosableCatalog(MailboxCatalog, Protocol):
    """What opening a catalog gives."""

    async def close(self) -> None: ...


class LateCatalog:
    """A catalog that is opened in the background, again and again until it works."""

    def __init__(self, connect: Callable[[], Awaitable[ClosableCatalog]]) -> None:
        self._connect = connect
        self._catalog: ClosableCatalog | None = None
        self.state = "away"  # as the last call found it: away, connected, or closed to readers
        self._task: asyncio.Task[None] | None = None

    async def start(self, patience: float) -> None:
        """Begin to connect, and wait for it for so many seconds at most."""
        self._task = asyncio.create_task(self._open())
        await asyncio.wait({self._task}, timeout=patience)

    async def stop(self) -> None:
        """Give connections back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
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

    async def mailbox(self, address: str) -> list[MailboxEntry]:
        with self._watched() as catalog:
            return await catalog.mailbox(address)

    async def expunge(self, tombstones: Sequence[TombstoneRow]) -> None:
        with self._watched() as catalog:
            await catalog.expunge(tombstones)

    async def acquire_lease(self, mailbox: str, holder: str, seconds: float) -> bool:
        with self._watched() as catalog:
            return await catalog.acquire_lease(mailbox, holder, seconds)

    async def release_lease(self, mailbox: str, holder: str) -> None:
        with self._watched() as catalog:
            await catalog.release_lease(mailbox, holder)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[ClosableCatalog]:
        if self._catalog is None:
            raise CatalogUnavailable("the catalog has not been reached yet")
        try:
            yield self._catalog
            self.state = "connected"
        except CatalogClosed:
            self.state = "closed"
            raise
        except CatalogUnavailable:
            self.state = "away"
            raise
