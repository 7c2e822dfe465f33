"""The internal HTTP port of a process: health, metrics, status; and the token check for everything else on it.

Each process builds its application here, adds routes of its own, and serves it on the one address it is told.
Refuses every request without the shared token, `/healthz` and `/readyz` apart: probes have none. Paths are in
`contract/paths.py`.
"""

from __future__ import annotations

import errno
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from mailarray.contract import paths
from mailarray.contract.settings import Listen

SHUTDOWN_SECONDS = 2.0  # for requests under way when a process stops
MAX_REQUEST = 64 << 20  # bytes; a mirrored batch; routes that stream are not bound by it

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ListenError(Exception):
    """A port cannot be listened on; the text is one sentence for a person."""


WITHOUT_TOKEN = frozenset({paths.HEALTH, paths.READY})


def internal_app(
    token: str, status: Callable[[], dict[str, Any]], unready: Callable[[], str | None] = lambda: None
) -> web.Application:
    """An application with health, readiness, metrics and status.

    `status` and `unready` (why the process does not do its work now, or None) are called for each request and must
    be quick.
    """
    if not token:
        raise ValueError("the internal ports need a token")

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_: web.Request) -> web.Response:
        return readiness(unready())

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def show_status(_: web.Request) -> web.Response:
        return web.json_response(status())

    app = web.Application(middlewares=[token_check(token)], client_max_size=MAX_REQUEST)
    app.router.add_get(paths.HEALTH, health)
    app.router.add_get(paths.READY, ready)
    app.router.add_get(paths.METRICS, metrics)
    app.router.add_get(paths.STATUS, show_status)
    return app


def readiness(reason: str | None) -> web.Response:
    """The answer to a readiness probe: 200, or 503 and why not."""
    return web.Response(text="ready\n") if reason is None else web.Response(status=503, text=f"{reason}\n")


def token_check(token: str) -> Any:  # aiohttp marks middlewares with an attribute, which no Callable type has
    """Middleware: 401 without `Authorization: Bearer <token>`, in constant time."""
    expected = f"{paths.TOKEN_SCHEME} {token}".encode()

    @web.middleware
    async def check(request: web.Request, handler: _Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if request.path not in WITHOUT_TOKEN and not hmac.compare_digest(given, expected):
            return web.Response(status=401, text="401 a token is needed\n", headers={"WWW-Authenticate": "Bearer"})
        return await handler(request)

    return check


async def serve(app: web.Application, listen: Listen) -> web.AppRunner:
    """Serve on that address only; `cleanup()` of what is returned stops it. Raises ListenError."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await bind(runner, listen)
    return runner


async def bind(runner: web.BaseRunner, listen: Listen) -> None:
    """Start a runner on one address. Raises ListenError, after cleaning the runner up."""
    await runner.setup()
    try:
        await web.TCPSite(runner, listen.host, listen.port).start()
    except OSError as error:
        await runner.cleanup()
        raise ListenError(listen_problem(listen, error)) from error


def listen_problem(listen: Listen, error: OSError) -> str:
    """Why an address cannot be listened on, in one sentence."""
    if error.errno == errno.EADDRINUSE:
        return f"port {listen.port} on {listen.host} is in use by another process; stop it, or choose another port"
    if error.errno == errno.EACCES:
        return f"port {listen.port} on {listen.host} is not for this user; choose one above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{listen.host} is no address of this machine, so port {listen.port} cannot be opened on it"
    return f"port {listen.port} on {listen.host} cannot be opened: {error.strerror or error}"


def bound_port(runner: web.AppRunner) -> int:
    """The port that a runner listens on, for callers that asked for port 0."""
    return int(runner.addresses[0][1])
