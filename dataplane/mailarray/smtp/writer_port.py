"""The internal port of the smtp process: what others ask of a writer.

Tombstones from access servers (rule 21), fences from its own sidecar (rule 9), newer mirroring tables, messages that
other servers hand over (`record_port.py`). While the server is draining it takes no tombstones: 503, and the access
server goes to another writer.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web

from mailarray.contract import paths
from mailarray.contract.mirroring_table import MirroringTable
from mailarray.journal.format import Tombstone
from mailarray.mirroring.gather import MAX_TOMBSTONES
from mailarray.mirroring.writer import JournalWriter
from mailarray.model.ids import MessageId, PlacementId, SegmentId, parse_id
from mailarray.model.message import Committed, Refused
from mailarray.observe.pushed_table import take_pushed
from mailarray.smtp.record_port import RecordPort

log = logging.getLogger(__name__)

DRAINING = "this server is draining; bring tombstones to another one"


def add_routes(app: web.Application, writer: JournalWriter, table_taken: Callable[[], None] = lambda: None) -> None:
    """Add the writer's routes to the process' internal application; `table_taken` hears of every newer table."""

    async def tombstones(request: web.Request) -> web.Response:
        if writer.draining:
            return web.json_response({"error": DRAINING}, status=503)
        try:
            wanted = parse_tombstones(await request.json())
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        if writer.draining:  # since the body began to come in
            return web.json_response({"error": DRAINING}, status=503)
        parts = [wanted[at : at + MAX_TOMBSTONES] for at in range(0, len(wanted), MAX_TOMBSTONES)]
        outcomes = await asyncio.gather(*(writer.expunge(part) for part in parts))
        refused = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
        if refused:
            return web.json_response({"error": refused[0].text}, status=503)
        return web.json_response({"records": [o.id.hex() for o in outcomes if isinstance(o, Committed)]})

    async def fence(request: web.Request) -> web.Response:
        try:
            segment = SegmentId(parse_id(request.match_info["segment"]))
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        answer = await writer.fence(segment)
        if answer is None:
            return web.json_response({"error": "this writer does not append to that segment"}, status=404)
        return web.json_response(answer.render())

    async def table(request: web.Request) -> web.Response:
        return take_pushed(await request.text(), take, lambda: writer.mirrors.table.generation)

    def take(wanted: MirroringTable) -> bool:
        taken = writer.set_table(wanted)
        if taken:
            table_taken()
        return taken

    app.router.add_post(paths.TOMBSTONES, tombstones)
    app.router.add_post(paths.WRITER_FENCE, fence)
    app.router.add_put(paths.MIRRORING_TABLE, table)
    RecordPort(writer).add_routes(app)


def parse_tombstones(raw: Any) -> Sequence[Tombstone]:
    """From the JSON of contract.paths.TOMBSTONES. Raises ValueError with a sentence."""
    if not isinstance(raw, list):
        raise ValueError("tombstones must be a list")
    try:
        return [
            Tombstone(PlacementId.parse(item["placement"]), MessageId(parse_id(item["message"])), str(item["mailbox"]))
            for item in raw
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"a tombstone has placement, message and mailbox: {json.dumps(str(error))}") from error
