"""The HTTP connection on which a writer's batches arrive: PUT of segments only, one at a time, as lean as can be.

A PUT stands between every batch and its 250. aiohttp's server takes 185 microseconds of CPU for one, this 50. A
connection on which anything else arrives is handed to aiohttp for good (routes.py). Requests are parsed by
httptools. A body up to the receiver's memory limit is handed over whole; a longer one streams, and the sender is slowed
down to what the volume takes.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import cast
from urllib.parse import parse_qs

import httptools

from mailarray.contract import paths
from mailarray.model.ids import SegmentId, parse_id
from mailarray.tracking.receiving import MEMORY_LIMIT, STREAM_PIECE, Answer, Receiver

log = logging.getLogger(__name__)

_VOLUMES = b"/v1/volumes/"
_START = b"PUT " + _VOLUMES
_LENGTH_REQUIRED = b"HTTP/1.1 411 Length Required\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class PutConnection(asyncio.Protocol):
    """One connection of a writer; see the module."""

    def __init__(
        self,
        volume: str,
        token: str,
        receiver: Receiver,
        stopping: Callable[[], bool],
        others: Callable[[], asyncio.Protocol],
        register: set[PutConnection],
    ) -> None:
        self._volume = volume
        self._expected = f"{paths.TOKEN_SCHEME} {token}".encode()
        self._receiver = receiver
        self._stopping = stopping
        self._others = others
        self._register = register  # of the open connections
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._refused = False  # the connection is at its end; what still comes is not looked at
        self._between = True  # no request is coming in: the next bytes begin one
        self._first = b""
        self._task: asyncio.Task[None] | None = None
        self._begin()

    def _begin(self) -> None:
        self._url = b""
        self._authorization = b""
        self._length = -1  # a request without Content-Length is refused: its body would be taken for an empty one
        self._parts: list[bytes] = []
        self._stream: asyncio.StreamReader | None = None

    # -- asyncio.Protocol ------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._register.add(self)

    def abort(self) -> None:
        """Drop the connection."""
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._register.discard(self)
        if self._stream is not None:
            self._stream.set_exception(exc or ConnectionResetError("the writer went away"))

    def data_received(self, data: bytes) -> None:
        if self._between:
            data, self._first = self._first + data, b""
            if len(data) < len(_START) and _START.startswith(data):
                self._first = data
                return
            if not data.startswith(_START):
                self._hand_over(data)
                return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            log.warning("request not understood", extra={"reason": str(error)})
            self._transport.close()

    def _hand_over(self, data: bytes) -> None:
        self._register.discard(self)
        other = self._others()
        self._transport.set_protocol(other)
        other.connection_made(self._transport)
        other.data_received(data)

    # -- httptools callbacks ---------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        """A request begins; the one before must have been answered."""
        if self._task is not None and not self._task.done():
            log.warning("pipelined request refused")
            self._refused = True
            self._transport.abort()
            return
        self._between = False
        self._begin()

    def on_url(self, url: bytes) -> None:
        """The request's target, or a piece of it."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        name = name.lower()
        if name == b"authorization":
            self._authorization = value
        elif name == b"content-length":
            self._length = int(value)
        elif name == b"expect":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_headers_complete(self) -> None:
        """A long body is streamed, so its handling begins now."""
        if self._length < 0 and not self._refused:
            self._refused = True
            self._transport.write(_LENGTH_REQUIRED)
            self._transport.close()
        if self._refused:
            return
        if self._length > MEMORY_LIMIT:
            self._stream = asyncio.StreamReader(limit=STREAM_PIECE)
            self._stream.set_transport(self._transport)
            self._task = asyncio.create_task(self._serve(b"", self._stream))

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._refused:
            return
        if self._stream is not None:
            self._stream.feed_data(body)
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._refused:
            return
        self._between = True
        if self._stream is not None:
            self._stream.feed_eof()
            return
        parts, self._parts = self._parts, []
        self._task = asyncio.create_task(self._serve(parts[0] if len(parts) == 1 else b"".join(parts), None))

    # -- answering -------------------------------------------------------------------------------------
    async def _serve(self, data: bytes, stream: asyncio.StreamReader | None) -> None:
        length = self._length
        try:
            answer = await self._answer(data, stream, length)
        except Exception:
            log.exception("batch failed")
            answer = Answer(500, {"error": "the batch could not be taken; the log says why"})
        if self._transport.is_closing():
            return  # the writer has given up meanwhile
        body = json.dumps(answer.fields).encode()
        head = (
            f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)
        if stream is not None and not stream.at_eof():
            self._transport.close()  # refused in the middle of a long body

    async def _answer(self, data: bytes, stream: asyncio.StreamReader | None, length: int) -> Answer:
        if not hmac.compare_digest(self._authorization, self._expected):
            return Answer(401, {"error": "the internal port wants the array's token"})
        path, _, query = self._url.partition(b"?")
        try:
            volume, name, segment = path.removeprefix(_VOLUMES).decode("ascii").split("/")
            if not path.startswith(_VOLUMES) or name != "segments":
                raise ValueError(path)
            wanted = SegmentId(parse_id(segment))
        except ValueError:
            return Answer(404, {"error": "no such path"})
        if volume != self._volume:
            return Answer(404, {"error": "not a member: another volume is here"})  # never a length (rule 9)
        if self._stopping():
            return Answer(503, {"error": "stopping"})
        try:
            fields = parse_qs(query.decode("ascii"))
            offset = int(fields["offset"][0])
            acknowledged = int(fields.get("acknowledged", ["0"])[0])
        except (KeyError, ValueError):
            return Answer(400, {"error": "offset and acknowledged must be numbers"})
        return await self._receiver.put(wanted, offset, acknowledged, stream or data, length)
