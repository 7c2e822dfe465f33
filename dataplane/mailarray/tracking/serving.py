"""Reads: ranged GET of a segment, the list of segments, the volume's name, a mailbox from the local index.

Invariant: only durable bytes are offered, and of a sealed segment none past L (rules 12, 20). Checksums are the
reader's business: it has them from the catalog, and asks another replica when they do not fit.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable

from aiohttp import web

from mailarray.model.ids import SegmentId
from mailarray.tracking.answers import answer, refuse
from mailarray.tracking.local_index import LocalIndex
from mailarray.tracking.memory import CatalogMemory
from mailarray.tracking.sending import send_range
from mailarray.tracking.shelf import Shelf

log = logging.getLogger(__name__)

ONE_PIECE = 1024 * 1024  # bytes of a range answered from memory

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Server:
    """Handles GET; see the module."""

    def __init__(
        self,
        shelf: Shelf,
        index: LocalIndex,
        server: str,
        full: Callable[[], bool],
        memory: CatalogMemory,
        draining: Callable[[], bool],
        knows_all: Callable[[], bool] = lambda: True,
    ) -> None:
        self._shelf = shelf
        self._index = index
        self._server = server
        self._full = full
        self._memory = memory
        self._draining = draining
        self._knows_all = knows_all
        self.stopping = False

    def volume(self) -> web.Response:
        """Who is here. Writers leave a mirror alone that stops, or that is to be emptied."""
        stopping = self.stopping or self._draining()
        return answer(volume=self._shelf.volume.id.hex(), server=self._server, stopping=stopping, full=self._full())

    def segments(self) -> web.Response:
        """What is here, for status and repair."""
        rows = [
            {
                "segment": holding.segment.hex(),
                "length": holding.readable,
                "sealed_length": holding.sealed_length,
                "own": holding.own,
                "replica": holding.is_replica(self._shelf.volume.id),
                "leaving": holding.leaving,
            }
            for holding in self._shelf
        ]
        return answer(segments=rows)

    async def segment(self, request: web.BaseRequest, segment: SegmentId) -> web.StreamResponse:
        """A range of a segment's bytes (RFC 9110, section 14)."""
        holding = self._shelf.holdings.get(segment)
        readable = 0 if holding is None else holding.readable
        if holding is None or readable == 0:
            return refuse(404, "no such segment here")
        start, end, status = 0, readable, 200
        wanted = request.headers.get("Range")
        if wanted is not None:
            match = _RANGE.fullmatch(wanted)
            if match is None or int(match[1]) >= readable:
                return refuse(416, "the range is past the end", length=readable)
            start, status = int(match[1]), 206
            end = min(readable, int(match[2]) + 1) if match[2] else readable
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{readable}", "Accept-Ranges": "bytes"}
        fd = os.dup(holding.fd(self._shelf.volume))  # the holding may change hands while we read
        try:
            if end - start <= ONE_PIECE:
                data = os.pread(fd, end - start, start)
                return web.Response(status=status, body=data, headers=headers)
            response = web.StreamResponse(status=status, headers=headers)
            response.content_length = end - start
            await response.prepare(request)
            transport = request.transport
            if transport is None or request.method == "HEAD":
                return response
            try:
                await send_range(transport, fd, start, end, self._shelf.run)
            except OSError as error:
                log.info("range not sent", extra={"segment": segment.hex(), "reason": str(error)})
                transport.abort()  # the header has promised more: only a broken connection takes that back
            return response
        finally:
            os.close(fd)

    async def mailbox(self, mailbox: str) -> web.Response:
        """This volume's records for a mailbox, the volumes that nobody has to wait for, and those that somebody has to
        (rule 20): all that headers here name, of whatever mailbox, and all that the catalog ever named."""
        if not self._knows_all():
            return refuse(503, "the own writer has not been heard yet")  # never half of what is here
        if not self._memory.heard:  # a new volume, in the place of one that may have held mail
            return refuse(503, "the catalog has not been heard yet")
        found = await self._index.mailbox(mailbox)
        memory, own = self._memory, self._shelf.volume.id
        headers = (h.header for h in self._shelf)
        named = memory.lost.union(memory.counters, *(h.members for h in headers if h is not None)) - memory.gone
        return answer(
            volume=own.hex(),
            **found,
            gone=[volume.hex() for volume in memory.gone if volume != own],
            named=[volume.hex() for volume in sorted(named) if volume != own],
            lost=[volume.hex() for volume in sorted(memory.lost - memory.gone) if volume != own],
        )
