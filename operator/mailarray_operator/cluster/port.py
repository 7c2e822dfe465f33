"""The operator's own HTTP port: probes and metrics, without a token; it tells nothing but counts.

`/healthz` is whether the event loop turns; `/readyz` is whether all watches have listed, so that a follower is ready
as well as a leader; `/metrics` for Prometheus. Served by `main`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest


class PortProblem(Exception):
    """The port cannot be opened; one sentence."""


def application(not_ready: Callable[[], str], measure: Callable[[], None]) -> web.Application:
    """`not_ready` answers why not, or ""; `measure` sets the gauges before they are read."""

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_: web.Request) -> web.Response:
        reason = not_ready()
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    async def metrics(_: web.Request) -> web.Response:
        measure()
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", health)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/metrics", metrics)
    return app


async def serve(app: web.Application, listen: str) -> web.AppRunner:
    """Serve on host:port; `cleanup()` stops. Raises PortProblem."""
    host, _, port = listen.rpartition(":")
    if not port.isdigit():
        raise PortProblem(f"--listen {listen!r} has no port; write an address like 0.0.0.0:8080")
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]") or None, int(port)).start()
    except OSError as error:
        await runner.cleanup()
        used = error.errno == errno.EADDRINUSE
        why = (
            "it is in use by another process; choose another with --listen" if used else (error.strerror or str(error))
        )
        raise PortProblem(f"the port for probes and metrics, {listen}, cannot be opened: {why}") from error
    return runner
