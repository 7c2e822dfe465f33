"""The SMTP listener of one server: binds, counts connections, sweeps idle ones, stops gracefully.

Made by the process assembly with settings, a directory and a sink. One coarse sweep serves all sessions, so a
command costs no timer.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import os
import ssl
from collections.abc import Callable

from mailarray.contract.settings import SmtpSettings
from mailarray.directory.directory import Directory
from mailarray.model.message import MessageSink
from mailarray.smtp import replies
from mailarray.smtp.client import UNKNOWN_HOST, ClientAddress
from mailarray.smtp.connection import Connection
from mailarray.smtp.metrics import SESSIONS
from mailarray.smtp.quotas import Quotas
from mailarray.smtp.replies import Refusal
from mailarray.smtp.service import Service, log
from mailarray.smtp.shedding import Door
from mailarray.tls import TlsContext

BACKLOG = 1024  # connections that the kernel keeps while the loop is busy
SWEEP_SECONDS = 1.0  # also how late a metric may be; shorter when the idle timeout is short
SWEEPS_PER_TIMEOUT = 10  # an idle session is closed at most a tenth too late
PROXY_TIMEOUT = 10.0  # seconds for a listed balancer to send its header
LINGER_TIMEOUT = 5.0  # seconds for a client to read the last reply and close


class SmtpListener:
    """Receives mail on one address."""

    def __init__(
        self,
        settings: SmtpSettings,
        directory: Directory,
        sink: MessageSink,
        pending_bytes: Callable[[], int] = lambda: 0,
        quotas: Quotas | None = None,
    ) -> None:
        """Load the certificate, if any. Raises TlsError, or ValueError for a network that is none.

        `pending_bytes`: memory of messages that wait for the sink; asked at each connection.
        """
        self.service = Service(settings, directory, sink, quotas=quotas)
        self._settings = settings
        self._tls = TlsContext(settings.tls) if settings.tls is not None else None
        self._proxies = tuple(ipaddress.ip_network(network) for network in settings.proxy_trusted_networks)
        self._connections: set[Connection] = set()
        self._turned_away: set[Connection] = set()  # those of them that never got a session, and linger
        self._pending_bytes = pending_bytes
        self._door = Door(settings.limits)
        self._per_address: dict[str, int] = {}
        self._counted: dict[Connection, str] = {}
        self._server: asyncio.Server | None = None
        self._port = settings.listen.port
        self._sweeper: asyncio.Task[None] | None = None
        self._empty = asyncio.Event()
        self._stopping = False
        self._draining = False
        self._run = os.urandom(3).hex()
        self._numbers = itertools.count(1)

    async def start(self) -> None:
        """Bind and listen. Raises OSError when the address cannot be had."""
        await self._listen()
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    async def _listen(self) -> None:
        listen = self._settings.listen
        self._server = await asyncio.get_running_loop().create_server(
            self._accept, listen.host, self._port, backlog=BACKLOG, reuse_port=self._settings.shared_port or None
        )
        self._port = self._server.sockets[0].getsockname()[1]
        log.info("listening", extra={"host": listen.host, "port": self.port})

    async def share_port(self, useful: bool) -> None:
        """Of a port that several volumes listen on: leave it to the others while nothing could be taken here, and come
        back. Sessions that are open go on. Raises OSError when the address cannot be had."""
        if self._stopping or not self._settings.shared_port or useful == self.listening:
            return
        if useful:
            await self._listen()
        elif self._server is not None:
            log.warning("the port is left to the other volumes", extra={"port": self.port})
            self._server.close()
            self._server = None

    async def stop(self, grace_seconds: float) -> None:
        """Stop accepting; idle sessions hear 421 at once, messages under way have so long to end."""
        self._stopping = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            if connection.session is not None and connection.session.in_text:
                connection.stop_after_message()
            else:
                connection.hang_up(replies.STOPPING)
        if self._connections:
            self._empty.clear()
            try:
                await asyncio.wait_for(self._empty.wait(), grace_seconds)
            except TimeoutError:
                for connection in list(self._connections):
                    connection.abort()
                await asyncio.sleep(0)
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._flush()

    def drain(self) -> None:
        """Take no new session and no new transaction; a transaction under way may end (RFC 5321 3.8). Idempotent."""
        if self._draining:
            return
        self._draining = True
        log.info("listener drains", extra={"sessions": self.sessions})
        self._leave_idle_sessions()

    def serve_again(self) -> None:
        """The end of `drain`."""
        if not self._draining:
            return
        self._draining = False
        for connection in self._connections:
            connection.go_on()
        log.info("listener serves again")

    def _leave_idle_sessions(self) -> None:
        for connection in list(self._connections):
            if connection.session is not None and connection.session.in_transaction:
                connection.stop_after_message()
            elif not connection.lingering:
                connection.hang_up(replies.STOPPING)

    @property
    def listening(self) -> bool:
        """Whether clients can connect."""
        return self._server is not None and not self._stopping

    @property
    def transactions(self) -> int:
        """Mail transactions under way: what may still be submitted, or waits for its outcome."""
        return sum(c.session is not None and c.session.in_transaction for c in self._connections)

    @property
    def port(self) -> int:
        """The port that is bound; differs from the settings' when that is 0."""
        return self._port

    @property
    def sessions(self) -> int:
        """Connections open now, without those that were turned away: one that is slow to go takes nobody's place."""
        return len(self._connections) - len(self._turned_away)

    def send_elsewhere(self, elsewhere: bool) -> None:
        """Whether there are other servers that clients can be sent to before the limits are reached."""
        self._door.elsewhere = elsewhere

    def shed_share(self) -> float:
        """The share of new connections that is turned away now."""
        if self._stopping or self._draining:
            return 1.0
        return self._door.share(self.sessions, self._pending_bytes())

    # What connections ask.

    def connected(self, connection: Connection) -> Refusal | None:
        """A connection was accepted; why it is refused, or None."""
        sessions = self.sessions
        self._connections.add(connection)
        self.service.tally.connections += 1
        if self._stopping or self._draining:
            return replies.STOPPING
        return self._door.refusal(sessions, self._pending_bytes())

    def turned_away(self, connection: Connection) -> bool:
        """A connection was refused before it got a session; answers whether there is room for it to linger."""
        self._turned_away.add(connection)
        return len(self._turned_away) <= self._settings.limits.max_connections

    def identified(self, connection: Connection) -> Refusal | None:
        """The client of a connection is known; why it is refused, or None."""
        host = connection.client.host
        count = self._per_address.get(host, 0) + 1
        if count > self._settings.limits.max_connections_per_address:
            return replies.BUSY_ADDRESS
        self._per_address[host] = count
        self._counted[connection] = host
        return None

    def disconnected(self, connection: Connection) -> None:
        """A connection ended."""
        self._connections.discard(connection)
        self._turned_away.discard(connection)
        host = self._counted.pop(connection, None)
        if host is not None:
            count = self._per_address[host] - 1
            if count:
                self._per_address[host] = count
            else:
                del self._per_address[host]
        if not self._connections:
            self._empty.set()

    def is_proxy(self, client: ClientAddress) -> bool:
        """Whether a PROXY header must come first."""
        if not self._proxies or client.host == UNKNOWN_HOST:
            return False
        address = ipaddress.ip_address(client.host)
        return any(address in network for network in self._proxies)

    def tls_context(self) -> ssl.SSLContext:
        """The context for a handshake."""
        assert self._tls is not None
        return self._tls.current()

    # Within.

    def _accept(self) -> Connection:
        return Connection(self, f"{self._run}-{next(self._numbers)}")

    def _flush(self) -> None:
        self.service.tally.flush()
        SESSIONS.set(self.sessions)

    async def _sweep(self) -> None:
        limits = self._settings.limits
        step = min(SWEEP_SECONDS, limits.idle_timeout / SWEEPS_PER_TIMEOUT)
        while True:
            await asyncio.sleep(step)
            self._flush()
            if self._draining:
                self._leave_idle_sessions()  # those that gave their transaction up
            for connection in list(self._connections):
                if connection.client_is_waiting:
                    connection.idle = 0.0
                elif connection.lingering:
                    connection.idle += step
                    if connection.idle >= LINGER_TIMEOUT:
                        connection.abort()
                elif connection.active:
                    connection.idle = 0.0
                else:
                    connection.idle += step
                    limit = limits.idle_timeout if connection.session is not None else PROXY_TIMEOUT
                    if connection.idle >= min(limit, limits.idle_timeout):
                        connection.hang_up(replies.IDLE)
                connection.active = False
