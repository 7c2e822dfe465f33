"""JSON answers of the internal ports. msgspec: a large mailbox's list must not hold up mirror copies for long."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web


def answer(**fields: Any) -> web.Response:
    """200 with a JSON object."""
    return web.Response(body=msgspec.json.encode(fields), content_type="application/json")


def refuse(status: int, error: str, **fields: Any) -> web.Response:
    """An error with a JSON object whose `error` is a sentence."""
    body = msgspec.json.encode({"error": error, **fields})
    return web.Response(status=status, body=body, content_type="application/json")
