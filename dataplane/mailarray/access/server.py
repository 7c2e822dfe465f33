"""One access server, put together: array, catalog, sessions, ports. `process.py` runs one; tests run several."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

from mailarray.access.array import ServerArray
from mailarray.access.expunge import Expunger
from mailarray.access.internal import InternalServer
from mailarray.access.late_catalog import ClosableCatalog, LateCatalog
from mailarray.access.listener import Pop3Listener
from mailarray.access.maildrop import MaildropOpener
from mailarray.access.prefetch import Budget
from mailarray.access.replicas import ReplicaReader
from mailarray.access.session import LoginDelay, Services
from mailarray.contract.settings import AccessSettings
from mailarray.directory.directory import Directory
from mailarray.tls import TlsContext

CATALOG_START_SECONDS = 2.0  # how long the port waits for the catalog at start; it opens without it then


class AccessServer:
    """`start` it, then `stop` it."""

    def __init__(
        self,
        settings: AccessSettings,
        directory: Directory,
        connect: Callable[[], Awaitable[ClosableCatalog]],
        delay: LoginDelay | None = None,
    ) -> None:
        """Raises OSError or ssl.SSLError when the certificate or the token cannot be used."""
        certificate = TlsContext(settings.tls) if settings.tls is not None else None
        self.catalog = LateCatalog(connect)
        self.array = ServerArray(settings.mirroring_table_file, settings.token_file)
        services = Services(
            directory,
            MaildropOpener(self.catalog, self.array, name=settings.name, copies=settings.copies),
            ReplicaReader(self.array),
            Expunger(self.catalog, self.array),
            Budget(),
            certificate,
            delay or LoginDelay(),
        )
        self.listener = Pop3Listener(settings, services)
        self.internal = InternalServer(settings, self.listener, self.catalog, self.array)
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """Raises OSError when a port cannot be had; nothing runs then."""
        try:
            self._stack.push_async_callback(self.catalog.stop)
            await self.catalog.start(CATALOG_START_SECONDS)
            self._stack.push_async_callback(self.array.stop)
            await self.array.start()
            self._stack.push_async_callback(self.listener.stop)
            await self.listener.start()
            self._stack.push_async_callback(self.internal.stop)
            await self.internal.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Sessions that are at work get some seconds; mailboxes are given back."""
        await self._stack.aclose()
