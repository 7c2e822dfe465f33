"""One POP3 connection: the machine's events done, its bytes carried both ways.

`Pop3Connection` is the socket's side (an asyncio.Protocol: bytes, backpressure, TLS); its task runs the machine. It
decides nothing of the protocol. The listener makes one for each connection.

Invariants:
- Memory is bounded: reading stops at INPUT_HIGH bytes that wait, writing waits for the client, bodies come in pieces.
- A session that entered UPDATE finishes it, also when the client has gone.
- Whatever ends a session, its mailbox is given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from mailarray.access.expunge import Expunger
from mailarray.access.maildrop import Maildrop, MaildropInUse, MaildropOpener, MaildropUnavailable, Message
from mailarray.access.metrics import LOGINS, RETRIEVED, RETRIEVED_BYTES
from mailarray.access.pop3 import Close, Flush, Login, Offer, Pop3Machine, Retrieve, StartTls, Update
from mailarray.access.pop3.machine import OUTPUT_HIGH
from mailarray.access.prefetch import Budget, ReadAhead
from mailarray.access.replicas import VERIFIED_BYTES, BodyDamaged, NoReplica, ReplicaReader
from mailarray.directory.directory import Account, Directory, DirectoryUnavailable
from mailarray.tls import TlsContext

log = logging.getLogger(__name__)

INPUT_HIGH = 16 * 1024  # bytes of pipelined commands that wait: a thousand RETRs; the rest waits in the client
HANDSHAKE_SECONDS = 10.0  # for TLS; a client that needs longer is none
MAX_LOGIN_FAILURES = 5  # in one session, then it is closed: trying passwords costs a connection too


@dataclass(frozen=True, slots=True)
class LoginDelay:
    """What a wrong password costs, on top of the check: doubled with each one of a session."""

    first: float = 1.0  # seconds
    most: float = 8.0  # seconds; clients give up at about ten

    def seconds(self, failures: int) -> float:
        """After so many failures."""
        return float(min(self.most, self.first * 2 ** (failures - 1)))


@dataclass(frozen=True, slots=True)
class Services:
    """What sessions share."""

    directory: Directory
    maildrops: MaildropOpener
    reader: ReplicaReader
    expunger: Expunger
    budget: Budget
    certificate: TlsContext | None
    delay: LoginDelay


class _Gone(Exception):
    """The client has gone."""


class Pop3Connection(asyncio.Protocol):
    """One client. `ended` is called once, when the session and all it held are gone."""

    def __init__(
        self,
        services: Services,
        offer: Offer,
        address: str,
        ended: Callable[[Pop3Connection], None],
        *,
        secure: bool = False,
    ) -> None:
        """`secure`: TLS is there from the first byte (RFC 8314 section 3.3)."""
        self.address = address
        self.active = asyncio.get_running_loop().time()  # of the last sign of life, either way
        self.working = False  # handling a command, rather than waiting for one
        self._services = services
        self._machine = Pop3Machine(offer, secure=secure)
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._input = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._eof = False
        self._lost = False
        self._reading = True
        self._finishing = False  # the task must not be cancelled
        self._failures = 0
        self._drop: Maildrop | None = None
        self._ahead: ReadAhead | None = None

    # -- the socket's side ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        first = self._task is None  # called again with the TLS transport
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        if first:
            self._task = asyncio.create_task(self._run())

    def data_received(self, data: bytes) -> None:
        self.active = asyncio.get_running_loop().time()
        self._machine.receive(data)
        if self._machine.buffered > INPUT_HIGH and self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()
        self._input.set()

    def eof_received(self) -> bool:
        self._eof = True
        self._input.set()
        return not self._machine.secure  # half-closed: what was pipelined is still answered; TLS has no such state

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self.active = asyncio.get_running_loop().time()
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._input.set()
        self._writable.set()
        if self._task is not None and not self._finishing:
            self._task.cancel()

    def abort(self) -> None:
        """Cut the connection: idle for too long, or the server stops. Nothing is deleted (RFC 1939 section 3)."""
        if self._transport is not None:
            self._transport.abort()

    # -- the session ---------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._converse()
        except (_Gone, asyncio.CancelledError):
            pass  # cancelled by connection_lost only
        except Exception:
            log.exception("session broke", extra={"client": self.address})
        finally:
            self._finishing = True  # from here on nothing may cancel: the mailbox has to be given back
            if self._ahead is not None:
                self._ahead.drop()
            if self._drop is not None:
                await self._drop.close()
            if self._transport is not None:
                self._transport.close()
            self._ended(self)

    async def _converse(self) -> None:
        machine = self._machine
        while True:
            event = machine.next_event()
            if event is None:
                await self._flush()
                if not await self._more_input():
                    return
                continue
            self.working = True
            if isinstance(event, Retrieve):
                await self._retrieve(event)
            elif isinstance(event, Flush):
                await self._flush()
            elif isinstance(event, Login):
                await self._log_in(event)
            elif isinstance(event, Update):
                await self._update(event)
            elif isinstance(event, StartTls):
                await self._start_tls()
            elif isinstance(event, Close):
                await self._flush()
                return

    async def _more_input(self) -> bool:
        if not self._reading and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()
        self.working = False
        while not self._input.is_set():
            if self._eof or self._lost:
                return False
            await self._input.wait()
        self._input.clear()
        return True

    async def _flush(self) -> None:
        """Write what is due, and wait until the client took enough of it."""
        output = self._machine.take_output()
        if output and self._transport is not None and not self._lost:
            self._transport.write(output)
        if not self._writable.is_set():
            await self._writable.wait()
        if self._lost and not self._finishing:
            raise _Gone

    # -- events --------------------------------------------------------------------------------------

    async def _log_in(self, event: Login) -> None:
        try:
            account = await self._services.directory.verify(event.login, event.password)
        except DirectoryUnavailable as error:
            log.error("login cannot be checked", extra={"client": self.address, "reason": str(error)})
            LOGINS.labels("unavailable").inc()
            self._machine.login_refused("SYS/TEMP", "the accounts cannot be read now, try again later")
            return
        if account is None:
            await self._refuse_login(event)
            return
        try:
            self._drop = await self._services.maildrops.open(account.address)
        except MaildropInUse:
            self._count_login(account, "in-use")
            self._machine.login_refused("IN-USE", "another session has the mailbox open")
        except MaildropUnavailable as error:
            log.error("mailbox cannot be listed whole", extra={"mailbox": account.address, "reason": str(error)})
            self._count_login(account, "unavailable")
            self._machine.login_refused("SYS/TEMP", "the mailbox cannot be read whole now, try again later")
        else:
            self._count_login(account, "ok")
            messages = self._drop.messages
            self._ahead = ReadAhead(self._services.reader, messages, self._services.budget)
            self._machine.logged_in(messages)

    def _count_login(self, account: Account, result: str) -> None:
        LOGINS.labels(result).inc()
        log.info("login", extra={"mailbox": account.address, "client": self.address, "result": result})

    async def _refuse_login(self, event: Login) -> None:
        # One reply for a wrong password and for an unknown account: names cannot be tried out.
        self._failures += 1
        LOGINS.labels("refused").inc()
        log.warning("login refused", extra={"login": event.login, "client": self.address, "failures": self._failures})
        await asyncio.sleep(self._services.delay.seconds(self._failures))
        self._machine.login_refused("AUTH", "wrong name or password", close=self._failures >= MAX_LOGIN_FAILURES)

    async def _start_tls(self) -> None:
        certificate = self._services.certificate
        assert certificate is not None and self._transport is not None  # else it was not offered
        await self._flush()
        self._machine.tls_begins()  # no await in between: `start_tls` takes the socket's bytes from its first step on
        try:
            transport = await asyncio.get_running_loop().start_tls(
                self._transport,
                self,
                certificate.current(),
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            log.info("TLS handshake failed", extra={"client": self.address, "reason": str(error)})
            raise _Gone from None
        if transport is None:
            raise _Gone
        self._transport = transport
        self._reading = True
        self._machine.tls_started()

    async def _retrieve(self, event: Retrieve) -> None:
        assert self._drop is not None and self._ahead is not None  # RETR is of TRANSACTION
        message = self._drop.messages[event.index]
        whole = event.lines is None
        if message.length > VERIFIED_BYTES:
            self._ahead.passed(event.index)
            given = await self._send_long(event) or (await self._moved(message) and await self._send_long(event))
        else:
            if self._machine.output_due and not self._ahead.ready(event.index):
                await self._flush()
            body = await self._body(event.index)
            if body is None and await self._moved(message):
                body = await self._body(event.index)
            given = body is not None
            if body is not None:
                self._machine.message_starts(event.index)
                self._machine.message_chunk(body)
                self._machine.message_ends()
        if not given:
            log.error("message not readable", extra={"placement": message.uidl, "client": self.address})
            self._machine.message_refused("the message cannot be read now, try again later")
            return
        if whole:
            RETRIEVED.inc()
            RETRIEVED_BYTES.inc(message.length)
        if self._machine.output_due >= OUTPUT_HIGH:
            await self._flush()

    async def _body(self, index: int) -> bytes | None:
        assert self._ahead is not None
        try:
            return await self._ahead.body(index)
        except NoReplica:
            return None

    async def _moved(self, message: Message) -> bool:
        """Whether the message lies elsewhere since the login: its segment was compacted, and dropped."""
        assert self._drop is not None and self._ahead is not None
        if await self._drop.find_again(message) is None:
            return False
        self._ahead.moved(self._drop.messages)
        return True

    async def _send_long(self, event: Retrieve) -> bool:
        assert self._drop is not None
        message = self._drop.messages[event.index]
        started = False
        async with contextlib.aclosing(self._services.reader.stream(message)) as pieces:
            try:
                async for piece in pieces:
                    if not started:
                        started = True
                        self._machine.message_starts(event.index)
                    if not self._machine.message_chunk(piece):
                        break  # TOP has enough; the checksum over the whole body is not known then
                    await self._flush()
                    self.active = asyncio.get_running_loop().time()
            except (NoReplica, BodyDamaged) as error:
                if not started:
                    return False
                # The client has part of a message that nothing can complete rightly. The end mark would make it
                # keep the damaged text, and then delete the message. A cut connection makes it come again.
                log.error("message broken off", extra={"placement": message.uidl, "reason": type(error).__name__})
                self.abort()
                raise _Gone from None
        self._machine.message_ends()
        return True

    async def _update(self, event: Update) -> None:
        assert self._drop is not None and self._ahead is not None
        self._ahead.drop()
        self._finishing = True  # to the end of the session: only `Close` follows
        gone = [self._drop.messages[index] for index in event.deleted]
        complete = not gone or await self._services.expunger.expunge(self._drop.mailbox, gone)
        # The lock goes back before the reply: a client that logs in again at once finds it free.
        drop, self._drop = self._drop, None
        await drop.close()
        self._machine.updated(complete)
