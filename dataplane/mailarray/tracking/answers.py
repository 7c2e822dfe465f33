"""JSON answers of the internal ports."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web


def answer(**fields: Any) -> web.Response:
    """200 with a JSON object."""
    return web.Response(body=json.dumps(fields).encode(), content_type="application/json")


def refuse(status: int, error: str, **fields: Any) -> web.Response:
    """An error with a JSON object whose `error` is a sentence."""
    body = json.dumps({"error": error, **fields}).encode()
    return web.Response(status=status, body=body, content_type="application/json")
