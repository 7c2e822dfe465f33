"""The internal port of an access server: health, metrics, status, and its lookup of a mailbox as JSON."""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from mailarray.access.array import ServerArray
from mailarray.access.late_catalog import LateCatalog
from mailarray.access.listener import Pop3Listener
from mailarray.access.metrics import LOGINS
from mailarray.catalog.catalog import CatalogClosed, CatalogUnavailable
from mailarray.contract import paths
from mailarray.contract.settings import AccessSettings
from mailarray.observe.http import WITHOUT_TOKEN, readiness
from mailarray.observe.pushed_table import take_pushed

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class InternalServer:
    """Serves `settings.internal`."""

    def __init__(
        self, settings: AccessSettings, listener: Pop3Listener, catalog: LateCatalog, array: ServerArray
    ) -> None:
        """Raises OSError when the token cannot be read."""
        self._settings = settings
        self._listener = listener
        self._catalog = catalog
        self._array = array
        token = Path(settings.token_file).read_text(encoding="utf-8").strip()
        self._expected = f"{paths.TOKEN_SCHEME} {token}".encode()
        self.accounts_held: Callable[[], str] = lambda: ""  # why the accounts' database is not followed, if so
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._runner is not None
        return int(self._runner.addresses[0][1])

    async def start(self) -> None:
        """Raises OSError when the port cannot be had."""
        app = web.Application(middlewares=[self._guard])
        app.router.add_get(paths.HEALTH, self._health)
        app.router.add_get(paths.READY, self._ready)
        app.router.add_put(paths.MIRRORING_TABLE, self._table)
        app.router.add_get(paths.METRICS, self._metrics)
        app.router.add_get(paths.STATUS, self._status)
        app.router.add_get(paths.MAILBOX, self._mailbox)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        where = self._settings.internal
        await web.TCPSite(self._runner, where.host, where.port).start()

    async def stop(self) -> None:
        """Close the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode()
        if request.path not in WITHOUT_TOKEN and not hmac.compare_digest(given, self._expected):
            raise web.HTTPUnauthorized(text="the token is missing or wrong\n")
        return await handler(request)

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _ready(self, _request: web.Request) -> web.Response:
        return readiness(None if self._listener.listening else "the POP3 port is not open")

    async def _table(self, request: web.Request) -> web.Response:
        return take_pushed(await request.text(), self._array.take_table, lambda: self._array.table_generation)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _status(self, _request: web.Request) -> web.Response:
        logins = {
            sample.labels["result"]: int(sample.value)
            for metric in LOGINS.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        }
        return web.json_response(
            {
                "name": self._settings.name,
                "role": "access",
                "pop3": f"{self._settings.pop3.host}:{self._listener.port}",
                "sessions": self._listener.sessions,
                "logins": logins,
                "catalog": self._catalog.state,
                "accounts_held": self.accounts_held(),
                "lookup": paths.MAILBOX,
                "table_generation": self._array.table_generation,
                "started_at": int(REGISTRY.get_sample_value("process_start_time_seconds") or time.time()),
            }
        )

    async def _mailbox(self, request: web.Request) -> web.Response:
        """The lookup that a login does, as JSON: how many messages, and which."""
        mailbox = request.match_info["mailbox"]
        try:
            entries = await self._catalog.mailbox(mailbox)
        except (CatalogUnavailable, CatalogClosed) as error:
            return web.json_response({"error": f"the catalog is away: {error}"}, status=503)
        return web.json_response(
            {"mailbox": mailbox, "count": len(entries), "placements": [str(entry.placement) for entry in entries]}
        )
