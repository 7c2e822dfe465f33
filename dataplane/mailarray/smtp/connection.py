"""One client's TCP connection: moves bytes between the transport and the session, and carries out its events.

Made by the listener. It holds no protocol knowledge beyond PROXY (who is the client) and TLS (when do bytes become
readable); no tasks, futures or timers run for it, but for a TLS handshake. The listener's sweep looks at `active`.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import TYPE_CHECKING, cast

from mailarray.model.message import Outcome
from mailarray.smtp.client import UNKNOWN_CLIENT, ClientAddress, client_address
from mailarray.smtp.events import Event, StartTls, Submit
from mailarray.smtp.metrics import TLS_FAILURES, TLS_SESSIONS
from mailarray.smtp.proxy import ProxyError, ProxyReader
from mailarray.smtp.replies import Refusal
from mailarray.smtp.service import log
from mailarray.smtp.session import Session

if TYPE_CHECKING:
    from mailarray.smtp.listener import SmtpListener

TLS_HANDSHAKE_TIMEOUT = 30.0  # seconds; a slow phone needs five
_MAX_LINGER_BYTES = 64 * 1024 * 1024  # thrown away after a last reply before the connection is cut


class _Phase(Enum):
    PROXY = auto()  # the PROXY header is awaited
    OPEN = auto()
    LINGERING = auto()  # the last reply is sent; what still arrives is thrown away, so that no reset destroys it
    GONE = auto()


class Connection(asyncio.Protocol):
    """The asyncio side of a session."""

    __slots__ = (
        "_eof",
        "_id",
        "_lingered",
        "_listener",
        "_paused",
        "_phase",
        "_proxy",
        "_tls_task",
        "_transport",
        "_unread",
        "active",
        "client",
        "idle",
        "session",
    )

    def __init__(self, listener: SmtpListener, connection_id: str) -> None:
        self._listener = listener
        self._id = connection_id
        self._phase = _Phase.GONE
        self._proxy: ProxyReader | None = None
        self._paused = False  # reading
        self._unread = False  # the client does not read our replies
        self._eof = False
        self._lingered = 0
        self._tls_task: asyncio.Task[None] | None = None
        self.active = True  # a byte came since the last sweep
        self.idle = 0.0  # seconds without a byte, counted by the sweep
        self.client = UNKNOWN_CLIENT
        self.session: Session | None = None

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.client = client_address(peer[0], peer[1]) if isinstance(peer, tuple) else UNKNOWN_CLIENT
        refusal = self._listener.connected(self)
        if refusal is not None:
            self._phase = _Phase.OPEN
            self.hang_up(refusal)
        elif self._listener.is_proxy(self.client):
            self._phase = _Phase.PROXY
            self._proxy = ProxyReader()
        else:
            self._begin(self.client)

    def data_received(self, data: bytes) -> None:
        self.active = True
        session = self.session
        if session is None or self._phase is not _Phase.OPEN:
            self._other_data(data)
            return
        output, event = session.receive(data)
        if output:
            self._transport.write(output)
        if event is not None:
            self._carry_out(event)
        elif session.waiting:
            # The client pipelines behind a message that has no outcome yet: what it sends stays in the kernel.
            self._pause()

    def eof_received(self) -> bool:
        self._eof = True
        if self._phase is _Phase.LINGERING or self.session is None:
            return False
        # A client may say all it has to say, close its side, and read: it still hears the outcome.
        return self.session.waiting and not self.session.tls

    def connection_lost(self, exc: Exception | None) -> None:
        if self._phase is _Phase.GONE:
            return
        self._phase = _Phase.GONE
        if self.session is not None:
            self.session.lost()
        self._listener.disconnected(self)

    def pause_writing(self) -> None:
        # A client that sends and does not read its replies must not make us keep them for it.
        self._unread = True
        self._pause()

    def resume_writing(self) -> None:
        self._unread = False
        self._resume()

    # What the sink and the listener call.

    def outcome(self, outcome: Outcome) -> None:
        """The fate of the submitted message."""
        session = self.session
        assert session is not None
        output, event = session.outcome(outcome)
        if self._phase is not _Phase.OPEN:
            return
        if output:
            self._transport.write(output)
        if event is not None:
            self._carry_out(event)
        elif not session.waiting:
            if self._eof:
                self._transport.close()
            else:
                self._resume()

    def hang_up(self, refusal: Refusal) -> None:
        """Say 421 and close. A session that waits for an outcome hears that first."""
        if self._phase is _Phase.OPEN and self._tls_task is None:
            session = self.session
            if session is None:
                self._listener.service.tally.refuse(refusal.reason)
                self._transport.write(refusal.wire)
                if not self._listener.turned_away(self):
                    self._phase = _Phase.LINGERING
                    self._transport.close()  # a crowd at the door must not use up all descriptors
                    return
            elif session.waiting:
                session.stopping = True
                return
            else:
                self._transport.write(session.hang_up(refusal))
            self._linger()
        elif self._phase is not _Phase.GONE:
            self.abort()

    def stop_after_message(self) -> None:
        """Let a message that is coming in finish, then say 421."""
        if self.session is not None:
            self.session.stopping = True

    def go_on(self) -> None:
        """The listener that drained serves again: the session is not ended after its message."""
        if self.session is not None:
            self.session.stopping = False

    def abort(self) -> None:
        """Cut the connection now."""
        self._transport.abort()

    @property
    def client_is_waiting(self) -> bool:
        """Whether it is our turn: silence of the client is then no idling."""
        return self.session is not None and self.session.waiting

    @property
    def lingering(self) -> bool:
        """Whether only the other side's close is awaited."""
        return self._phase is _Phase.LINGERING

    # Within.

    def _begin(self, client: ClientAddress) -> None:
        self._proxy = None
        self._phase = _Phase.OPEN
        self.client = client
        refusal = self._listener.identified(self)
        if refusal is not None:
            self.hang_up(refusal)
            return
        self.session = Session(self._listener.service, client, self._id)
        self._transport.write(self.session.greeting())

    def _other_data(self, data: bytes) -> None:
        if self._proxy is not None:
            try:
                header = self._proxy.feed(data)
            except ProxyError as error:
                log.warning(
                    "PROXY header refused",
                    extra={"connection": self._id, "client": self.client.host, "error": str(error)},
                )
                self._listener.service.tally.refuse("proxy")
                self._transport.abort()
                return
            if header is not None:
                client, rest = header
                self._begin(client or self.client)
                if rest:
                    self.data_received(rest)
        elif self._phase is _Phase.LINGERING:
            self._lingered += len(data)
            if self._lingered > _MAX_LINGER_BYTES:
                self.abort()

    def _carry_out(self, event: Event) -> None:
        if isinstance(event, Submit):
            self._listener.service.sink.submit(event.message, self.outcome)
        elif isinstance(event, StartTls):
            self._pause()  # not a byte more before the handshake reads it
            self._tls_task = asyncio.get_running_loop().create_task(self._start_tls())
        elif event.linger:
            self._linger()
        else:
            self._transport.close()

    def _linger(self) -> None:
        self._phase = _Phase.LINGERING
        self.idle = 0.0
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._resume()
        else:  # TLS has no half-close
            self._transport.close()

    async def _start_tls(self) -> None:
        loop = asyncio.get_running_loop()
        session = self.session
        assert session is not None
        try:
            transport = await loop.start_tls(
                self._transport,
                self,
                self._listener.tls_context(),
                server_side=True,
                ssl_handshake_timeout=TLS_HANDSHAKE_TIMEOUT,
            )
        except (OSError, asyncio.CancelledError) as error:  # ssl.SSLError, time-outs and resets are OSErrors
            TLS_FAILURES.inc()
            log.info("TLS handshake failed", extra={"connection": self._id, "error": str(error)})
            self._transport.abort()
            self.connection_lost(None)  # the transport speaks to the TLS layer, which may never have spoken to us
            return
        finally:
            self._tls_task = None
        if transport is None:
            self.connection_lost(None)
            return
        self._transport = transport
        self._paused = False
        session.tls_started()
        TLS_SESSIONS.inc()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        waiting = self.session is not None and self.session.waiting
        if self._paused and not self._unread and not waiting and self._tls_task is None:
            self._paused = False
            self._transport.resume_reading()
