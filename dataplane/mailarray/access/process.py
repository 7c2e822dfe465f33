"""The access process: real directory and catalog, until SIGTERM or SIGINT. The command line calls `run`."""

from __future__ import annotations

import asyncio
import logging
import signal

from mailarray.access.server import AccessServer
from mailarray.catalog.database import open_catalog
from mailarray.contract.settings import AccessSettings
from mailarray.directory.flatfile import FlatFileDirectory

log = logging.getLogger(__name__)


async def run(settings: AccessSettings) -> None:
    """Serve until told to stop. Raises OSError when a port or a file cannot be had."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    directory = FlatFileDirectory(settings.directory)
    await directory.start()
    try:
        server = AccessServer(settings, directory, lambda: open_catalog(settings.catalog.current_url))
        await server.start()
        log.info("access server serves", extra={"server": settings.name, "pop3": str(settings.pop3)})
        await stop.wait()
        log.info("access server stops", extra={"server": settings.name})
        await server.stop()
    finally:
        await directory.stop()
