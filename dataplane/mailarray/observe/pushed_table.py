"""Taking a mirroring table that was pushed to a process' internal port: the same answer from every process.

Invariant: a table with a higher generation replaces a lower one, never the other way round; who pushed an older one
hears which generation is in force.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from aiohttp import web

from mailarray.contract import mirroring_table
from mailarray.contract.mirroring_table import MirroringTable


def take_pushed(text: str, take: Callable[[MirroringTable], bool], generation: Callable[[], int]) -> web.Response:
    """Parse and hand over; `take` answers whether it was newer, `generation` which one is in force afterwards."""
    try:
        table = mirroring_table.parse(text)
    except ValueError as error:
        return _json(400, {"error": str(error)})
    taken = take(table)
    return _json(200, {"generation": generation(), "taken": taken})


def _json(status: int, fields: dict[str, object]) -> web.Response:
    return web.Response(status=status, body=json.dumps(fields).encode(), content_type="application/json")
