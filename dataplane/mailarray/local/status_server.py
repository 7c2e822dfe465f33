"""The port that a person or Prometheus asks: page, JSON and metrics of the whole array, on loopback only.

No token is asked: it shows figures and names, never mail, and is bound to loopback. Called by `up.py`.
"""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable
from io import StringIO
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from rich.console import Console

from mailarray.contract import paths
from mailarray.local.metrics_merge import merge
from mailarray.local.view import draw

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<title>Mailarray {cluster}</title>
<style>body{{font-family:sans-serif;margin:2em}}pre{{font-size:14px;line-height:1.35}}</style>
<pre>{picture}</pre><p><a href="/v1/status">JSON</a> · <a href="/metrics">metrics</a></p></html>
"""
PAGE_WIDTH = 140  # characters


def status_app(
    status: Callable[[], dict[str, Any]], metrics: Callable[[], Awaitable[dict[tuple[str, str], str]]]
) -> web.Application:
    """The application; `status` gives the array's JSON object, `metrics` the processes' pages."""

    async def page(request: web.Request) -> web.Response:
        now = status()
        if "text/html" not in request.headers.get("Accept", ""):
            return web.json_response(now)
        text = _PAGE.format(cluster=html.escape(str(now.get("cluster", ""))), picture=_picture(now))
        return web.Response(text=text, content_type="text/html")

    async def show_status(_: web.Request) -> web.Response:
        return web.json_response(status())

    async def health(_: web.Request) -> web.Response:
        ready = bool(status().get("ready"))
        return web.Response(status=200 if ready else 503, text="ok\n" if ready else "not all processes serve\n")

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=merge(await metrics()), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_get(paths.HEALTH, health)
    app.router.add_get(paths.STATUS, show_status)
    app.router.add_get(paths.METRICS, show_metrics)
    return app


def _picture(status: dict[str, Any]) -> str:
    console = Console(file=StringIO(), record=True, width=PAGE_WIDTH, force_terminal=True)
    console.print(draw(status, width=PAGE_WIDTH))
    return console.export_html(inline_styles=True, code_format="{code}")
