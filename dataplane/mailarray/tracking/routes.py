"""The sidecar's internal port: from a request's path to the part that answers it.

Writers have a leaner way for their batches (put_wire.py). Every path but /healthz and /readyz wants the shared token.
"""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from mailarray.contract import paths
from mailarray.journal.volume import VolumeError
from mailarray.model.ids import SegmentId, VolumeId, parse_id
from mailarray.observe.http import readiness
from mailarray.observe.pushed_table import take_pushed
from mailarray.tracking.accounts import ServerAccounts
from mailarray.tracking.answers import answer, refuse
from mailarray.tracking.copying import NoRoom
from mailarray.tracking.fencing import Fencer, NotMember, WriterSilent
from mailarray.tracking.receiving import MEMORY_LIMIT, Receiver
from mailarray.tracking.scrubbing import Scrubber
from mailarray.tracking.serving import Server
from mailarray.tracking.table import NewestTable
from mailarray.tracking.usage import MailboxUsage

log = logging.getLogger(__name__)

COPY_PIECE = 1024 * 1024  # bytes of a restored segment written at a time
TakeCopy = Callable[[SegmentId, int, AsyncIterator[bytes]], Awaitable[str | None]]

_VOLUMES = "/v1/volumes/"
_MAILBOXES = "/v1/mailboxes/"


class Routes:
    """A handler for `aiohttp.web.Server`."""

    def __init__(
        self,
        volume: VolumeId,
        token: str,
        receiver: Receiver,
        server: Server,
        fencer: Fencer,
        status: Callable[[], dict[str, Any]],
        table: NewestTable,
        accounts: ServerAccounts | None = None,
        usage: MailboxUsage | None = None,
        scrubber: Scrubber | None = None,
        take_copy: TakeCopy | None = None,
        word: Callable[[SegmentId, int], dict[str, Any]] | None = None,
    ) -> None:
        self._volume = volume.hex()
        self._expected = f"{paths.TOKEN_SCHEME} {token}".encode()
        self._receiver = receiver
        self._server = server
        self._fencer = fencer
        self._status = status
        self._accounts = accounts
        self._usage = usage
        self._scrubber = scrubber
        self._take_copy = take_copy
        self._word = word
        self._table = table

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        path = request.rel_url.raw_path
        if path == paths.HEALTH:
            return web.Response(text="ok\n")
        if path == paths.READY:
            return readiness("the server is stopping" if self._server.stopping else None)
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._expected):
            return refuse(401, "the internal port wants the array's token")
        try:
            return await self._route(request, path)
        except (VolumeError, OSError) as error:
            log.error("request failed", extra={"path": path, "reason": str(error)})
            return refuse(500, f"the volume failed: {error}")

    async def _route(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        method = request.method
        if path.startswith(_VOLUMES):
            return await self._volume_request(request, method, path[len(_VOLUMES) :].split("/"))
        if method == "PUT" and path == paths.MIRRORING_TABLE:
            return take_pushed(await request.text(), self._table.take, lambda: self._table().generation)
        if method == "POST" and path == paths.SCRUB and self._scrubber is not None:
            return answer(**self._scrubber.scrub_now())
        if method == "POST" and path == paths.USAGE and self._usage is not None:
            return await self._usage.answer(request)
        if method == "GET":
            if path == paths.VOLUME:
                return self._server.volume()
            if path.startswith(_MAILBOXES):
                return await self._server.mailbox(unquote(path[len(_MAILBOXES) :]))
            if path == paths.ACCOUNTS and self._accounts is not None:
                return await self._accounts.answer(request)
            if path == paths.STATUS:
                return web.Response(body=json.dumps(self._status()).encode(), content_type="application/json")
            if path == paths.METRICS:
                return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
        return refuse(404, "no such path")

    async def _put(self, request: web.BaseRequest, segment: SegmentId) -> web.Response:
        """A batch on a connection that is shared with other requests; writers' own go through put_wire.py."""
        try:
            offset, acknowledged = int(request.query["offset"]), int(request.query.get("acknowledged", "0"))
        except (KeyError, ValueError):
            return refuse(400, "offset and acknowledged must be numbers")
        length = request.content_length
        if length is None:
            return refuse(411, "Content-Length is needed")
        if self._server.stopping:
            return refuse(503, "stopping")
        body = await request.content.readexactly(length) if length <= MEMORY_LIMIT else request.content
        said = await self._receiver.put(segment, offset, acknowledged, body, length)
        return web.Response(status=said.status, body=json.dumps(said.fields).encode(), content_type="application/json")

    async def _copy(self, request: web.BaseRequest, segment: SegmentId) -> web.Response:
        """A segment out of a backup."""
        length = request.content_length
        if length is None or request.query.get("length") != str(length):
            return refuse(400, "length must be a number, and the Content-Length")
        if self._server.stopping or self._take_copy is None:
            return refuse(503, "stopping")
        try:
            reason = await self._take_copy(segment, length, request.content.iter_chunked(COPY_PIECE))
        except NoRoom as error:
            return refuse(507, str(error))
        return answer(length=length) if reason is None else refuse(409, reason)

    async def _volume_request(self, request: web.BaseRequest, method: str, parts: list[str]) -> web.StreamResponse:
        if parts[0] != self._volume:
            return refuse(404, "not a member: another volume is here")  # never 0 (rule 9)
        if parts[1:] == ["segments"] and method == "GET":
            return self._server.segments()
        try:
            segment = SegmentId(parse_id(parts[2]))
        except (ValueError, IndexError):
            return refuse(404, "no such segment")
        if len(parts) == 3 and method == "PUT":
            return await self._put(request, segment)
        if len(parts) == 3 and method in ("GET", "HEAD"):
            return await self._server.segment(request, segment)
        if parts[3:] == ["copy"] and method == "POST":
            return await self._copy(request, segment)
        if parts[3:] == ["stays"] and method == "GET" and self._word is not None:
            length = request.query.get("length", "")
            if not (length.isascii() and length.isdigit()):
                return refuse(400, "length must be a number")
            return answer(**self._word(segment, int(length)))
        if parts[3:] == ["fence"] and method == "POST":
            try:
                return answer(**(await self._fencer.fence(segment)).render())
            except NotMember:
                return refuse(404, "not a member: a repaired copy is here, or the segment was superseded")
            except WriterSilent as error:
                return refuse(503, f"the writer does not answer: {error}")
        return refuse(405, "no such method here")
