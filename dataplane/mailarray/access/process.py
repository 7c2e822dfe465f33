"""The access process: real directory and catalog, until SIGTERM or SIGINT. The command line calls `run`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from mailarray.access.server import AccessServer
from mailarray.access.sidecar_accounts import SidecarAccounts
from mailarray.catalog.database import open_catalog
from mailarray.contract.settings import AccessSettings
from mailarray.directory.database.store import AccountStore
from mailarray.directory.keeping import SnapshotKeeper
from mailarray.directory.opening import open_directory

START_SECONDS = 2.0  # that the port waits for the first look at the accounts' database

log = logging.getLogger(__name__)


async def run(settings: AccessSettings) -> None:
    """Serve until told to stop. Raises OSError when a port or a file cannot be had."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with _accounts(settings) as keeper:
        directory = open_directory(settings.directory)
        await directory.start()
        try:
            server = AccessServer(settings, directory, lambda: open_catalog(settings.catalog.current_url))
            if keeper is not None:
                server.internal.accounts_held = lambda: keeper.held
            await server.start()
            if keeper is not None:
                keeper.fallback = SidecarAccounts(server.array)
            log.info("access server serves", extra={"server": settings.name, "pop3": str(settings.pop3)})
            await stop.wait()
            log.info("access server stops", extra={"server": settings.name})
            if keeper is not None:
                keeper.fallback = None
            await server.stop()
        finally:
            await directory.stop()


@contextlib.asynccontextmanager
async def _accounts(settings: AccessSettings) -> AsyncIterator[SnapshotKeeper | None]:
    """Keep a snapshot of accounts that are in a database; give the database a moment to fill it before the start."""
    if settings.directory.snapshot_file is None:
        yield None
        return
    store = AccountStore(settings.catalog.current_url)
    keeper = SnapshotKeeper(Path(settings.directory.snapshot_file), store)
    keeping = asyncio.create_task(keeper.run(), name="accounts keeper")
    try:
        await keeper.first_pass(START_SECONDS)
        yield keeper
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await store.close()
