"""Keeping messages that other servers received (content placement): PUT of one record, answered as mail is.

Invariants:

- 200 is said only after this server's writer has acknowledged the record (rule 2); it goes through the same batches as
  mail that was received here, under the id and time that the receiving server gave it.
- A repeated PUT writes nothing while the id is remembered: it hears the outcome of the first one. With other bytes it
  hears 409. What is forgotten may be written twice, and is one message all the same (rule 16).
- What is refused is refused at once, before its body is read where that is possible: the asker keeps it itself.
- Memory is bounded: MAX_RECEIVING bodies on their way in, each in memory up to the spool's limit, and then what the
  writer's own limit for waiting bodies allows.
- Nothing that comes in here is handed on: rules are asked once, by the server that received the message.

Called by the internal port of the smtp process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from aiohttp import web

from mailarray.contract import paths
from mailarray.journal.format import BatchHeader, FormatError, MessageEntry
from mailarray.mirroring.link import MIN_MIRROR_RATE
from mailarray.mirroring.record_frame import HEAD_LENGTH, decode_head, decode_record
from mailarray.mirroring.writer import JournalWriter
from mailarray.model.ids import MessageId, parse_id
from mailarray.model.message import Body, Committed, Identity, IncomingMessage, Outcome
from mailarray.smtp.metrics import TAKEN

log = logging.getLogger(__name__)

MAX_RECEIVING = 128  # bodies on their way in; at 256 KiB of memory each, 32 MiB
REMEMBERED = 4096  # ids, for repeated PUTs; an asker repeats within its time limit if at all
RECEIVE_SECONDS = 30.0  # for a body to arrive, and more for long ones: an asker gives up much earlier


@dataclass(slots=True)
class _Known:
    """A record that is in the writer's hands, or acknowledged."""

    checksum: tuple[int, int, int]  # of envelope and body, and the body's length
    outcome: asyncio.Future[Outcome]


class _Refusal(Exception):
    """The answer is not 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@contextlib.contextmanager
def _own_volume() -> Iterator[None]:
    """What the disk refuses is not the asker's fault."""
    try:
        yield
    except OSError as error:
        raise _Refusal(503, f"the volume refuses the body: {error.strerror or error}") from None


class RecordPort:
    """See the module; one for a writer."""

    def __init__(self, writer: JournalWriter) -> None:
        self._writer = writer
        self._known: OrderedDict[MessageId, _Known] = OrderedDict()
        self._receiving = 0

    def add_routes(self, app: web.Application) -> None:
        """Add the route to the internal application."""
        app.router.add_put(paths.RECORD, self.put)

    async def put(self, request: web.Request) -> web.Response:
        """PUT of one record."""
        try:
            id = await self._put(request)
        except _Refusal as refusal:
            return web.json_response({"error": str(refusal)}, status=refusal.status)
        return web.json_response({"message": id.hex()})

    async def _put(self, request: web.Request) -> MessageId:
        try:
            id = MessageId(parse_id(request.match_info["message"]))
        except ValueError as error:
            raise _Refusal(400, str(error)) from None
        if self._receiving >= MAX_RECEIVING:
            raise _Refusal(503, "this server takes in too many messages at once")
        self._receiving += 1
        try:
            known = await self._receive(request, id)
        except TimeoutError:
            raise _Refusal(400, "the record did not arrive in time") from None
        except FormatError as error:
            log.error("record refused", extra={"message_id": id.hex(), "error": str(error)})
            raise _Refusal(400, str(error)) from None
        except (asyncio.IncompleteReadError, OSError, web.RequestPayloadError):
            raise _Refusal(400, "the record is cut off") from None  # as a rule nobody hears it: the asker went away
        finally:
            self._receiving -= 1
        outcome = await asyncio.shield(known.outcome)
        if not isinstance(outcome, Committed):
            raise _Refusal(503, outcome.text)
        return id

    async def _receive(self, request: web.Request, id: MessageId) -> _Known:
        async with asyncio.timeout(RECEIVE_SECONDS) as limit:
            content = request.content
            head = decode_head(await content.readexactly(HEAD_LENGTH), id)
            entry = decode_record(head, await content.readexactly(head.metadata_length), id)
            checksum = (head.metadata_crc, entry.body_crc, entry.body_length)
            known = self._look_up(id, checksum)
            if known is not None:
                return known
            self._refuse_if_unable()
            limit.reschedule(asyncio.get_running_loop().time() + RECEIVE_SECONDS + head.bodies_length / MIN_MIRROR_RATE)
            body = await self._receive_body(request, head, entry)
        # Much may have happened while the body came in; from here to `submit` nothing can.
        try:
            known = self._look_up(id, checksum)
            if known is None:
                self._refuse_if_unable()
        except _Refusal:
            body.release()
            raise
        if known is not None:
            body.release()
            return known
        message = IncomingMessage(entry.sender, entry.deliveries, body, entry.fingerprint, Identity(*entry[:2]))
        return self._submit(message, checksum)

    async def _receive_body(self, request: web.Request, head: BatchHeader, entry: MessageEntry) -> Body:
        spool = self._writer.open_body()
        try:
            async for chunk in request.content.iter_any():
                if spool.length + len(chunk) > head.bodies_length:
                    raise FormatError("the body is longer than was announced")
                with _own_volume():
                    spool.write(chunk)
            with _own_volume():
                body = spool.finish()
        except BaseException:
            spool.discard()
            raise
        if (body.length, body.checksum) != (entry.body_length, entry.body_crc):
            body.release()
            raise FormatError("the body is not the one that was announced")
        return body

    def _submit(self, message: IncomingMessage, checksum: tuple[int, int, int]) -> _Known:
        assert message.identity is not None
        id = message.identity.id
        known = _Known(checksum, asyncio.get_running_loop().create_future())

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, Committed):
                TAKEN.inc()
            elif self._known.get(id) is known:
                del self._known[id]  # it may be tried again
            known.outcome.set_result(outcome)

        self._known[id] = known
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        self._writer.submit(message, done)
        return known

    def _look_up(self, id: MessageId, checksum: tuple[int, int, int]) -> _Known | None:
        known = self._known.get(id)
        if known is not None and known.checksum != checksum:
            log.error("known message with other bytes", extra={"message_id": id.hex()})
            raise _Refusal(409, f"message {id.hex()} is known here with other bytes")
        return known

    def _refuse_if_unable(self) -> None:
        writer = self._writer
        if writer.draining:
            raise _Refusal(503, "this server is draining")
        refusal = writer.refusal()
        if refusal is not None:
            raise _Refusal(503, refusal.text)
